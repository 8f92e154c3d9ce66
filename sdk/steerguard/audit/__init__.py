"""The audit log: what the guard decided, as evidence that can be checked without trusting whoever kept it.

`log` writes and `verify` checks; `settings`, `copies`, `sinks` and `receipt` are what goes into a log and comes out of it.
The subpackages, each of which imports only from those below it (and not from another one on its line):

    proving       reporting       replaying       upkeep
        proofs of single records; the report; other policies; keys, retention, holds and erasure
    reading       selection, totals, the newest records, other formats: of what verified
    verification  the parts of `verify`: lines, chain, tree, checkpoints, tombstones, pins
    writing       the parts of `log`: pipeline, chain, segments, checkpoints, background thread, recovery
    privacy       what is recorded of prompts and answers: tags, redaction, encrypted content and its keys
    evidence      RFC 6962 tree, signed notes, checkpoints, and the files of a log
    records       the closed set of events, their fields, schema and canonical lines

Nothing here imports torch or the engine, and nothing here changes the host's logging configuration.
"""
