"""Words of the reference page of audit records: its head, kinds of values, and fields whose models do not say more."""

from __future__ import annotations

from typing import Final

HEAD: Final = """\
# Audit records

This page is generated from the models by `python -m steerguard.audit.records.reference --write docs/audit-records.md`.
Do not edit it by hand.

A log has one record per line: a JSON object in UTF-8, in the canonical form of RFC 8785.
There are no floats: a score or threshold is the decimal string that reads back to the same number.
The set of event types is closed; a record of another type, or with another field, is not written.
A record may lack a field only where this page says so; a field that has nothing to say is null.
`registry/schemas/audit-record.v1.schema.json` is the JSON Schema of a line.

[How a verdict is recomputed](audit-verdicts.md) has a whole decision as an example, and [the audit log](audit.md) says how a log is written.
"""

VALUES: Final[dict[str, str]] = {
    "Count": "An integer from 0 to 2^53 - 1.",
    "VettingLevel": "An integer from 0 to 3.",
    "Number": "A finite number as text, so that no reader changes it.",
    "Identifier": "A name without spaces.",
    "Source": "The id of a detector or of a guidance entry, or `<entry>/block <n>`: the gate of that block.",
    "ConditionPlace": "The way down a rule's condition: `any.1.not` is the second part of an `any`, negated.",
    "Label": "A name that a developer wrote, at most 256 characters of printable ASCII.",
    "StatedReason": "A reason that a person or a document states, at most 5000 characters of printable ASCII.",
    "ContextText": "What the host bound, at most 128 characters of printable ASCII.",
    "Digest": "A SHA-256.",
    "Hash": "A leaf hash or a tree hash.",
    "KeyId": "Eight hexadecimal digits that name a key.",
    "ContentTag": "HMAC-SHA256: key id and hash.",
    "LogId": "Second of opening, UTC, and 64 random bits.",
    "Timestamp": "UTC with microseconds.",
    "Date": "A day, UTC.",
    "FileName": "A file in the log's directory.",
    "VerifierKey": "A checkpoint key as verifiers pin it (C2SP signed-note).",
    "SigningKeyId": "The id of a publisher's key.",
    "RegistryName": "`embedded`, `hf://organisation`, or `file:///` and a path.",
}
"""Kind of value and what it is."""

MEANINGS: Final[dict[str, str]] = {
    "allow": "How many rows.",
    "annotate": "How many rows.",
    "guide": "How many rows.",
    "refuse": "How many rows.",
    "applied": "What was done.",
    "guard.request.applied": "What was done, by rows.",
    "architecture": "Class name.",
    "artifact": "The artifact.",
    "artifacts": "Everything that the plan uses.",
    "call": "Which door the call came through.",
    "candidates": "How many were drawn at a time in the end.",
    "candidates_drawn": "How many in all.",
    "cause": "Why the intended action is what it is; see the [glossary](glossary.md#what-is-reported).",
    "checkpoint.size": "Number of records before this one: the size of the signed tree.",
    "checkpoint.root": "Its RFC 6962 tree hash.",
    "code": "Class name of the error, never its message.",
    "coefficient": "How strongly the policy steers.",
    "content": "What is recorded of prompts and answers.",
    "guard.decision.content": "The row's prompt and answer.",
    "RecordedContent.in": "Tag of the prompt; null under `none` and `encrypted`.",
    "RecordedContent.out": "Tag of the answer; null also before there is one.",
    "in_chars": "Characters of the prompt, where texts were taken.",
    "in_tokens": "Tokens of the prompt, where token ids were taken.",
    "out_chars": "As `in_chars`, of the answer.",
    "out_tokens": "As `in_tokens`, of the answer.",
    "cost_budget": "An answer is within it while it costs less.",
    "cost_budget_fpr": "The share of benign answers that the budget was taken from; null for a number.",
    "digest": "Over the bytes of the manifest.",
    "doses": "What each guidance step did; empty where none acted.",
    "dtype": "Type of the weights.",
    "durability": "When records of other types than those that are always synced are on the medium.",
    "err": "The error that decided the row; else null.",
    "expected_positions": "Positions that follow from the prompt and the returned answer alone.",
    "expires": "The last day of the permission; null where it has none.",
    "extra_forward_tokens": "Beyond the unguided request.",
    "file": "The file of ciphertexts.",
    "fingerprint_limit": "The largest distance that is accepted.",
    "first_t": "Wall clock of the first deleted record.",
    "last_t": "Wall clock of the last deleted record.",
    "forward_tokens": "Token positions that went through the model for the search.",
    "generated_tokens": "Tokens of the answer.",
    "halvings": "How often memory was too short for that many candidates.",
    "in_log": "The log that holds the records of the request.",
    "intended": "What the rules ask for.",
    "guard.request.intended": "What the rules ask for, by rows.",
    "kept_tokens": "Tokens that the answer shares with the one without a search.",
    "kind": "What passed.",
    "late_ms": "By how much the time limit was passed.",
    "limit": "Which one.",
    "log.key_rotate.key": "Id of the key from now on; of a checkpoint key its hash.",
    "log.key_rotate.purpose": "What the key does.",
    "log.prune.bytes": "Size of the deleted segments.",
    "log.prune.pruned": "The log that they were part of.",
    "log.rotate.previous": "The segment before.",
    "log.rotate.previous_bytes": "Its size.",
    "max_extra_forward_tokens": "The limit of the policy; null where it sets none.",
    "method": "Its method.",
    "mode": "The mode in force.",
    "model": "The wrapped model.",
    "older_than_days": "The age that was asked for.",
    "open_blocks": "Decoder blocks at which the gate opened.",
    "plan": "Digest of the compiled plan.",
    "policy": "The policy in force.",
    "PolicyReference.name": "As the document states it.",
    "PolicyReference.version": "As the document states it.",
    "positions": "Token positions that were changed.",
    "previous_plan": "Digest of the plan in force before, or beside it.",
    "previous_policy": "The policy in force before, or beside it.",
    "pid": "Process id.",
    "prompt_tokens": "Tokens of the prompt.",
    "python": "Version of Python.",
    "readings": "Everything that was read and compared.",
    "reason": "What the person who did it stated.",
    "req": "The guard's id of the request.",
    "RecordedBudget.outcome": "Whether the row stayed within it, fell back to another entry, or was refused for it.",
    "RecordedSearch.outcome": "How the search ended.",
    "guard.error.outcome": "What followed.",
    "retries": "How often a block was drawn again.",
    "row": "Number of the row in the batch, from 0.",
    "rows": "How many rows.",
    "rule": "Id of the rule; for a gate the id of its step.",
    "scope": "What it was asked for: a guard, or one request.",
    "source": "What read it.",
    "stage": "How far the call had come.",
    "state": "What became of the hold.",
    "step": "Id of the guidance entry.",
    "template_cut": "Whether the refusal text did not fit into `max_new_tokens`.",
    "thresholds": "Every bound that the score was compared with.",
    "torn_bytes": "How many bytes of records were set aside.",
    "torn_digest": "SHA-256 over the bytes in that file.",
    "usage": "Forward tokens of the row.",
    "value": "The bound, as float32 reads it.",
}
"""By `<event type or part>.<field>`, or by the name of a field alone."""
