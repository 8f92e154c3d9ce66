"""One valid event of every type, realistic records, and a strategy for arbitrary valid events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from steerguard.audit.records.events import (
    BODIES,
    ArtifactLoad,
    ArtifactRevoked,
    ArtifactVerifyFailed,
    BudgetExceeded,
    Checkpoint,
    ContentErased,
    EventBody,
    GuardBypass,
    GuardDecision,
    GuardError,
    GuardRequest,
    LogClose,
    LogHold,
    LogKeyRotate,
    LogOpen,
    LogPrune,
    LogRecovered,
    LogRotate,
    PolicyLoad,
    PolicyReject,
    PolicySwap,
)
from steerguard.audit.records.fields import (
    ArtifactPin,
    ModelReference,
    PolicyReference,
    RecordedActions,
    RecordedBudget,
    RecordedContent,
    RecordedDose,
    RecordedError,
    RecordedReading,
    RecordedSearch,
    RecordedThreshold,
    RecordedUsage,
    SealedContent,
)

LOG = "20261122T071532Z-7809bc8c2669ad56"
OTHER_LOG = "20261121T071532Z-0123456789abcdef"
KEY_ID = "66687aad"
DIGEST = "sha256:" + "a" * 64
PLAN = "sha256:" + "b" * 64
HASH = "c" * 64
TIME = "2026-11-22T07:15:32.671293Z"
VERIFIER_KEY = "steerguard-audit+0a1b2c3d+AQ" + "A" * 42

POLICY = PolicyReference(name="harmlessness", version="1.0.0", digest=DIGEST)
MODEL = ModelReference(name="smollm2", architecture="LlamaForCausalLM", dtype="bfloat16")
ARTIFACTS = (
    ArtifactPin(ref="inferaligner/smollm2@1.0.0", digest=DIGEST),
    ArtifactPin(ref="harmful-intent/smollm2@1.0.0", digest=PLAN),
)
USAGE = RecordedUsage(prompt_tokens=57, generated_tokens=128, extra_forward_tokens=0)


def sized_content(tokens: int = 57, answer: int | None = 128) -> RecordedContent:
    """Content as the mode `none` records it."""
    return recorded_content(in_tokens=tokens, out_tokens=answer)


def tagged_content(key: str = KEY_ID, tokens: int = 57, answer: int | None = 128) -> RecordedContent:
    """Content as the mode `hmac` records it."""
    out = None if answer is None else f"hmac:{key}:{'2' * 64}"
    return recorded_content(prompt=f"hmac:{key}:{'1' * 64}", answer=out, in_tokens=tokens, out_tokens=answer)


def sealed_content(slot: int = 0, file: str = f"{LOG}.000000.sealed", key: str = KEY_ID) -> RecordedContent:
    """Content as the mode `encrypted` records it."""
    sealed = SealedContent(file=file, slot=slot, bytes=732, digest=DIGEST, key=key)
    return recorded_content(in_tokens=57, out_tokens=128, sealed=sealed)


def recorded_content(**fields: Any) -> RecordedContent:
    """Content with the fields by their names in Python; what is not given is null."""
    values: dict[str, Any] = {"in_chars": None, "out_chars": None, "in_tokens": None, "out_tokens": None, **fields}
    tags = {"in": values.pop("prompt", None), "out": values.pop("answer", None)}
    return RecordedContent(form=values.pop("form", "tokens"), **tags, **values)


def reading(source: str = "harmful_intent", score: float = 1.8125) -> RecordedReading:
    """What a detector of three bounds read."""
    bounds = (
        ("refuse_clear_harm", "at_least", "5.25", "0.001"),
        ("guide_suspected_harm", "at_least", "1.25", "0.05"),
        ("guide_suspected_harm", "below", "5.25", "0.001"),
    )
    return RecordedReading(
        source=source,
        score=repr(score),
        thresholds=tuple(RecordedThreshold(rule=r, bound=b, value=v, fpr=f) for r, b, v, f in bounds),
        tolerance="0.421292",
    )


def gate_reading(block: int, score: float = 0.40625) -> RecordedReading:
    """What the gate of one block read."""
    bound = RecordedThreshold(rule="align", bound="at_least", value="1.401298464324817e-45", fpr=None)
    return RecordedReading(source=f"align/block {block}", score=repr(score), thresholds=(bound,), tolerance="0.0")


def decision(readings: int = 2, *, content: RecordedContent | None = None, **changes: Any) -> GuardDecision:
    """A decision as InferAligner leaves one: a detector and the gates of `readings` - 1 blocks. Without tags by default."""
    fields = {
        "req": "01KAN5C3T4W8E0V8Q3M1XK9A7B",
        "row": 0,
        "policy": POLICY,
        "plan": PLAN,
        "model": MODEL,
        "artifacts": ARTIFACTS,
        "mode": "enforce",
        "readings": (reading(), *(gate_reading(10 + n, 0.40625 + n / 7) for n in range(readings - 1))),
        "rules": ("guide_suspected_harm",),
        "cause": "rule",
        "intended": "guide",
        "applied": "guide",
        "doses": (
            RecordedDose(
                step="align",
                method="inferaligner",
                open_blocks=tuple(range(10, 9 + readings)),
                coefficient="1.0",
                positions=24,
                expected_positions=24,
            ),
        ),
        "usage": USAGE,
        "budget": RecordedBudget(outcome="within", max_extra_forward_tokens=0),
        "template_cut": False,
        "content": sized_content() if content is None else content,
        "err": None,
    }
    return GuardDecision(**{**fields, **changes})


def refusal(**changes: Any) -> GuardDecision:
    """A decision to refuse."""
    return decision(1, intended="refuse", applied="refuse", rules=("refuse_clear_harm",), doses=(), **changes)


def searched(**changes: Any) -> GuardDecision:
    """A decision over a row whose answer came from a search."""
    report = RecordedSearch(
        step="search",
        method="inference_guard",
        outcome="found",
        cost="0.125",
        cost_budget="0.5",
        cost_budget_fpr="0.05",
        plain_cost="0.75",
        kept_tokens=0,
        candidates=8,
        candidates_drawn=16,
        retries=0,
        halvings=0,
        forward_tokens=2048,
        late_ms=0,
    )
    return decision(2, search=report, **changes)


def failed(**changes: Any) -> GuardDecision:
    """A decision with an error."""
    return decision(1, err=RecordedError(code="NonFiniteHiddenStateError", stage="detect"), **changes)


def request(rows: int = 1, **changes: Any) -> GuardRequest:
    """The summary of one call in which every row was guided."""
    actions = RecordedActions(allow=0, annotate=0, guide=rows, refuse=0)
    fields = {
        "req": "01KAN5C3T4W8E0V8Q3M1XK9A7B",
        "call": "generate",
        "rows": rows,
        "mode": "enforce",
        "policy": POLICY,
        "plan": PLAN,
        "model": MODEL,
        "intended": actions,
        "applied": actions,
        "usage": USAGE,
        "duration_us": 1_532_210,
        "guard_us": 9_730,
    }
    return GuardRequest(**{**fields, **changes})


def bypass(**changes: Any) -> GuardBypass:
    """A bypass as small as they come."""
    fields = {"req": None, "kind": "unguided", "reason": "scoring", "expires": None, "policy": None, "plan": None}
    return GuardBypass(**{**fields, **changes})


def opened(**changes: Any) -> LogOpen:
    """The beginning of a log without checkpoints and without one before it."""
    fields = {
        "sdk": "0.1.0",
        "python": "3.11.9",
        "pid": 4711,
        "content": "none",
        "key": None,
        "forked_from": None,
        "durability": "interval",
        "unsynced_us": 1_000_000,
        "unsynced_records": None,
        "checkpoint_key": None,
        "previous": None,
        "previous_size": None,
        "previous_root": None,
    }
    return LogOpen(**{**fields, **changes})


SAMPLES: dict[str, EventBody] = {
    body.event_type: body
    for body in (
        opened(checkpoint_key=VERIFIER_KEY, previous=OTHER_LOG, previous_size=15, previous_root=HASH),
        LogClose(),
        LogRecovered(by=LOG, torn_bytes=0, torn_digest=DIGEST, torn_file=None, torn_note_bytes=0),
        LogRotate(
            segment=1,
            previous=f"{LOG}.000000.jsonl",
            previous_bytes=67_108_864,
            previous_digest=DIGEST,
            size=3,
            root=HASH,
            peaks=(HASH, "d" * 64),
        ),
        LogPrune(
            pruned=OTHER_LOG,
            segments=(0, 1),
            records=(0, 4095),
            bytes=8_388_608,
            root=HASH,
            first_t=TIME,
            last_t=TIME,
            whole=False,
            older_than_days=400,
            allowed=None,
        ),
        LogHold(state="held", reason="court order"),
        LogKeyRotate(purpose="content", previous=KEY_ID, key="0a1b2c3d", checkpoint_key=None, destroyed=False),
        Checkpoint(size=1000, root=HASH, signed_by=("0a1b2c3d",), copies=1),
        ContentErased(req="01KAN5C3", in_log=OTHER_LOG, rows=2, reason="asked for by the data subject"),
        PolicyLoad(policy=POLICY, plan=PLAN, mode="enforce", model=MODEL, artifacts=ARTIFACTS),
        PolicySwap(
            scope="request",
            policy=POLICY,
            plan=PLAN,
            previous_policy=POLICY,
            previous_plan=DIGEST,
            mode="enforce",
            model=MODEL,
            artifacts=ARTIFACTS,
        ),
        PolicyReject(scope="guard", code="PolicyValidationError", rejected=None, policy=POLICY, plan=PLAN),
        ArtifactLoad(
            artifact=ARTIFACTS[0],
            artifact_type="steering_vectors",
            fingerprint_distance="0.001",
            fingerprint_limit="0.02",
            signed_by=("ed25519-0123456789abcdef",),
            vetting_level=2,
        ),
        ArtifactVerifyFailed(ref=ARTIFACTS[0].ref, digest=DIGEST, code="ArtifactIntegrityError"),
        ArtifactRevoked(
            artifact=ARTIFACTS[0],
            registry="hf://acme",
            state="revoked",
            reason="unsafe",
            action="refuse",
            sequence=7,
            allowed=None,
        ),
        decision(),
        request(),
        BudgetExceeded(
            req="01KAN5C3",
            row=0,
            policy=POLICY,
            plan=PLAN,
            limit="max_extra_forward_tokens",
            allowed=4096,
            spent=4100,
            then="refuse",
        ),
        bypass(),
        GuardError(
            req="01KAN5C3",
            row=0,
            stage="detect",
            code="NonFiniteHiddenStateError",
            outcome="refuse",
            policy=POLICY,
            plan=PLAN,
        ),
    )
}
"""A valid event of every type, without tags and without sealed content: a log of any content mode takes it."""

GUARD_TYPES = tuple(body.event_type for body in BODIES if not body.event_type.startswith(("log.", "checkpoint")))
"""Types that a caller of the log records; the others the log writes by itself."""


def bodies(types: Iterable[str] = GUARD_TYPES) -> SearchStrategy[EventBody]:
    """Arbitrary valid events of these types, drawn from their JSON Schema, without tags and without sealed content."""
    wanted = set(types)
    return st.one_of(*(_bodies(body) for body in BODIES if body.event_type in wanted))


def _bodies(body: type[EventBody]) -> SearchStrategy[EventBody]:
    schema = body.model_json_schema(by_alias=True)

    def build(fields: dict[str, Any]) -> EventBody:
        if body is GuardDecision:
            fields = {**fields, "content": {**fields["content"], "in": None, "out": None, "sealed": None}}
        return body.model_validate(fields, strict=False)

    return _values(schema, schema.get("$defs", {})).map(build)


def _values(schema: dict[str, Any], parts: dict[str, Any]) -> SearchStrategy[Any]:
    """Values that the subset of JSON Schema which the models use admits."""
    if "$ref" in schema:
        return _values(parts[schema["$ref"].rpartition("/")[2]], parts)
    if "anyOf" in schema:
        return st.one_of(*(_values(one, parts) for one in schema["anyOf"]))
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema["type"]
    if kind == "object":
        fields = {name: _values(one, parts) for name, one in schema.get("properties", {}).items()}
        needed = set(schema.get("required", ()))
        return st.fixed_dictionaries(
            {name: values for name, values in fields.items() if name in needed},
            optional={name: values for name, values in fields.items() if name not in needed},
        )
    if kind == "array" and "prefixItems" in schema:
        return st.tuples(*(_values(one, parts) for one in schema["prefixItems"])).map(list)
    if kind == "array":
        return st.lists(_values(schema["items"], parts), max_size=3)
    if kind == "integer":
        return st.integers(schema["minimum"], schema["maximum"])
    if kind == "string":
        return _texts(schema["pattern"], schema.get("maxLength", 4096))
    return {"boolean": st.booleans(), "null": st.none()}[kind]


def _texts(pattern: str, longest: int) -> SearchStrategy[str]:
    if pattern == "^[ -~]*$":
        return st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=min(longest, 64))
    ascii_only = st.characters(max_codepoint=127)
    drawn = st.from_regex(pattern.removesuffix("$") + r"\Z", fullmatch=True, alphabet=ascii_only)
    return drawn.filter(lambda text: len(text) <= longest)
