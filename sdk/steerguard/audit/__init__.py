"""The audit log: what the guard decided, one canonical JSON line per event, hash-chained.

`log` writes, `events` says what may be written, `record` turns a decision into an event, `verify` checks a log.
Nothing here imports torch, and nothing here changes the host's logging configuration.
"""
