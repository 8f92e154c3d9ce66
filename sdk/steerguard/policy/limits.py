"""Budget, streaming, refusal, disclosure and audit: the settings around the rules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from steerguard.methods.section import Identifier, Section

Strategy = Literal["buffer", "window", "unsafe_passthrough"]
"""When text is released while streaming.

`buffer`: once the whole answer is decided.
`window`: as soon as the prefix is within budget; a later violation ends the answer.
`unsafe_passthrough`: at once.
"""

Disclosure = Literal["none", "code", "category"]
"""What a caller learns of a refusal; never the text that matched.

`none`: nothing but the template.
`code`: the id of the rule.
`category`: the rule and the detector's kind of harm.
"""

ContentRecord = Literal["none", "hmac", "encrypted"]
"""What the audit log holds of prompts and answers.

`none`: lengths only.
`hmac`: a keyed hash.
`encrypted`: the text, encrypted in a side store.
"""


class Budget(Section):
    """Hard limits per request; a plan whose estimate exceeds one is refused before the first token.

    A request is one prompt with all the answers to it that a call asks for.
    """

    max_extra_forward_tokens: Annotated[
        int,
        Field(ge=0, le=10**9, json_schema_extra={"x-unit": "forward tokens per request", "x-cost": "the limit itself"}),
    ] = 2048
    """Tokens that may go through the model beyond those of the same unguided request."""
    max_candidates: Annotated[
        int,
        Field(ge=1, le=512, json_schema_extra={"x-unit": "candidates", "x-cost": "limits cache memory and tokens"}),
    ] = 16
    """Candidates that may be alive at once."""
    max_added_latency_ms: Annotated[
        int,
        Field(
            ge=1, le=3_600_000, json_schema_extra={"x-unit": "milliseconds per call", "x-cost": "limits waiting time"}
        ),
    ] = 4000
    """Time that guidance may add to a call, all its prompts together; checked between blocks, and an overshoot is logged.

    Rows whose search comes too late are refused.
    """
    max_extra_memory_mib: Annotated[
        int,
        Field(ge=1, le=1_048_576, json_schema_extra={"x-unit": "MiB", "x-cost": "limits caches and artifacts"}),
    ] = 512
    """Memory that artifacts, gates and additional caches may take."""
    on_exceeded: Literal["refuse", "fallback"] = "refuse"
    """What happens when a limit is reached: `refuse` the row, or try the `fallback` list first; a time limit refuses."""
    fallback: tuple[Identifier, ...] = ()
    """Ids of cheaper guidance entries, tried in order; needed with `on_exceeded: fallback`, forbidden otherwise.

    Not tried once the time is up.
    """


class Streaming(Section):
    """How a streamed answer is released."""

    strategy: Annotated[Strategy, Field(json_schema_extra={"x-cost": "`buffer` delays the first token to the end"})] = (
        "buffer"
    )
    """When text is released: `buffer`, `window` or `unsafe_passthrough`."""


class Refusal(Section):
    """What a refused row holds instead of an answer."""

    template: Annotated[str, Field(min_length=1, max_length=2000)] = "I can't help with that request."
    """Text of the refusal; cut at a word where it does not fit into `max_new_tokens`."""


class AuditContent(Section):
    """What the audit log holds of the content."""

    content: Annotated[ContentRecord, Field(json_schema_extra={"x-cost": "one hash or encryption per answer"})] = "hmac"
    """What is recorded of prompts and answers: `none`, `hmac` or `encrypted`; never plain text."""
