"""Well-formed logs over days or months, on a clock of their own: one log per day, chained, signed and finished."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.audit_events import decision, opened, request

from steerguard.audit.evidence.checkpoint import TreeHead, sign_head, stored
from steerguard.audit.evidence.layout import checkpoints_name, segment_name
from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.evidence.tree import Frontier
from steerguard.audit.records.chain import FIRST_PREV, canonical_line, leaf_hash
from steerguard.audit.records.events import (
    ArtifactLoad,
    ArtifactRevoked,
    ArtifactVerifyFailed,
    BudgetExceeded,
    Checkpoint,
    ContentErased,
    GuardBypass,
    GuardDecision,
    GuardError,
    LogClose,
    LogHold,
    PolicyLoad,
    PolicyReject,
    PolicySwap,
)
from steerguard.audit.records.fields import (
    ArtifactPin,
    ModelReference,
    PolicyReference,
    RecordedReading,
    RecordedThreshold,
)
from steerguard.canonical import digest
from steerguard.signing.keys import SigningKey

START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
SIGNER = SigningKey(bytes(range(32)))
NAME = "steerguard-audit"
KEY = NoteKey(NAME, SIGNER.public)
MODEL = ModelReference(name="smollm2", architecture="LlamaForCausalLM", dtype="bfloat16")
PROBE = ArtifactPin(ref="harmful-intent/smollm2@2.1.0", digest=digest("probe"))
VECTORS = ArtifactPin(ref="inferaligner/smollm2@1.0.0", digest=digest("vectors"))
ARTIFACTS = (VECTORS, PROBE)


@dataclass
class Day:
    """One log that is being written; `record` takes the seconds since its beginning."""

    directory: object
    begin: datetime
    previous: str | None = None

    def __post_init__(self):
        self.log = f"{self.begin:%Y%m%dT%H%M%SZ}-{random.Random(self.begin.isoformat()).getrandbits(64):016x}"
        self.lines, self.notes = [], []
        self.prev, self.tree = FIRST_PREV, Frontier()
        self.record(0, opened(checkpoint_key=KEY.text, previous=self.previous))

    def record(self, seconds, body, **context):
        """Append a record of an event, or of a dictionary as it is."""
        fields = body if isinstance(body, dict) else body.model_dump(mode="json", by_alias=True)
        kind = body["type"] if isinstance(body, dict) else body.event_type
        time = self.begin + timedelta(seconds=seconds)
        record = {
            "v": 1,
            "log": self.log,
            "seq": len(self.lines),
            "t": f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond:06d}Z",
            "mono": int(seconds * 1_000_000),
            "type": kind,
            "prev": self.prev,
            **context,
            **fields,
        }
        line = canonical_line(record)
        self.lines.append(line)
        self.prev = leaf_hash(line)
        self.tree.append(bytes.fromhex(self.prev))
        return record

    def sign(self):
        """Sign a checkpoint over everything so far."""
        head = TreeHead(self.log, self.tree.size, self.tree.root())
        self.notes.append(stored(sign_head(head, [(NAME, SIGNER)])))
        return head

    def checkpoint(self, seconds, copies=1):
        """Sign a checkpoint and record it."""
        head = self.sign()
        self.record(seconds, Checkpoint(size=head.size, root=head.root.hex(), signed_by=(KEY.hash,), copies=copies))

    def close(self, seconds):
        """End the log as its owner does, and write its files."""
        self.sign()
        self.record(seconds, LogClose())
        self.sign()
        self.write()
        return self.log

    def write(self):
        """Write the files of the log."""
        (self.directory / segment_name(self.log, 0)).write_bytes(b"".join(line + b"\n" for line in self.lines))
        (self.directory / checkpoints_name(self.log)).write_bytes(b"".join(self.notes))
        for name in (segment_name(self.log, 0), checkpoints_name(self.log)):
            (self.directory / name).chmod(0o400)


def policy(number=0, name="harmlessness"):
    """A policy that was in force, by its number."""
    return PolicyReference(name=name, version=f"1.{number}.0", digest=digest([name, number]))


def detector_reading(score, *, source="harmful_intent", refuse="5.25", guide="1.25"):
    """What a detector with a refusing and a guiding rule read."""
    bounds = (
        ("refuse_clear_harm", "at_least", refuse, "0.001"),
        ("guide_suspected_harm", "at_least", guide, "0.05"),
        ("guide_suspected_harm", "below", refuse, "0.001"),
    )
    thresholds = tuple(RecordedThreshold(rule=r, bound=b, value=v, fpr=f) for r, b, v, f in bounds)
    tolerance = 0.1
    ends = {float(refuse), float(guide)}
    near = any(end - tolerance <= score < end + tolerance for end in ends)
    return RecordedReading(
        source=source, score=repr(score), thresholds=thresholds, tolerance=repr(tolerance), near=near
    )


def decided(req, score, **changes):
    """A decision of which the verdict follows from the one score, which lies off its thresholds."""
    action = "refuse" if score >= 5.25 else "guide" if score >= 1.25 else "allow"
    rules = {"refuse": ("refuse_clear_harm",), "guide": ("guide_suspected_harm",), "allow": ()}[action]
    fields = {
        "req": req,
        "intended": action,
        "applied": action,
        "rules": rules,
        "cause": "rule" if rules else "default",
        "readings": (detector_reading(score),),
        "doses": (),
        "model": MODEL,
        "artifacts": ARTIFACTS,
        "policy": policy(),
        "plan": policy().digest,
    }
    return GuardDecision.model_validate({**dict(decision(1)), **fields, **changes})


def score_of(draw):
    """A score that lies off every threshold by more than its tolerance."""
    score = round(draw.gauss(6.0, 1.6) if draw.random() < 0.12 else draw.gauss(-2.0, 1.3), 4)
    return score + 0.3 if any(abs(score - end) < 0.15 for end in (1.25, 5.25)) else score


def write_days(directory, *, days=60, requests=30, seed=7):
    """Write one log per day with all that a guard records, and return how many decisions they hold."""
    draw, previous, count = random.Random(seed), None, 0
    for number in range(days):
        day = Day(directory, START + timedelta(days=number), previous)
        _begin(day, number)
        busy = max(1, int(requests * (0.5 + draw.random()) * (0.3 if number % 7 in {0, 6} else 1)))
        for index in range(busy):
            at = 10 + index * 40_000 / busy
            count += _request(day, at, f"{number:04d}-{index:05d}", draw, number)
            if index % 20 == 19:
                day.checkpoint(at + 1)
        previous = day.close(43_000)
    return count


def _begin(day, number):
    for pin, kind in ((VECTORS, "steering_vectors"), (PROBE, "probe")):
        day.record(1, ArtifactLoad(artifact=pin, artifact_type=kind, fingerprint_distance="0.001", fingerprint_limit="0.02", signed_by=("ed25519-0123456789abcdef",), vetting_level=2))  # fmt: skip
    now = policy(number // 20)
    day.record(2, PolicyLoad(policy=now, plan=now.digest, mode="enforce", model=MODEL, artifacts=ARTIFACTS))
    if number % 20 == 19:
        after = policy(number // 20 + 1)
        day.record(
            3, PolicyReject(scope="guard", code="LooserPolicyError", rejected=after, policy=now, plan=now.digest)
        )
        day.record(4, PolicySwap(scope="request", policy=after, plan=after.digest, previous_policy=now, previous_plan=now.digest, mode="enforce", model=MODEL, artifacts=ARTIFACTS))  # fmt: skip
    if number % 25 == 11:
        day.record(5, ArtifactRevoked(artifact=VECTORS, registry="hf://acme", state="revoked", reason="superseded", action="warn", sequence=7, allowed=None))  # fmt: skip
        day.record(
            6,
            ArtifactVerifyFailed(
                ref="refusal-direction/smollm2@1.0.0", digest=digest("x"), code="ArtifactIntegrityError"
            ),
        )
    if number % 9 == 4:
        day.record(7, GuardBypass(req=None, kind="unguided", reason="benchmark of the plain model, ticket 4711", expires="2026-12-31", policy=now, plan=now.digest))  # fmt: skip
    if number == 30:
        day.record(8, LogHold(state="held", reason="court order 12 O 34/26"))
    if number == 40:
        day.record(8, LogHold(state="released", reason="the case was closed"))
        day.record(9, ContentErased(req="0001-00003", in_log=day.log, rows=1, reason="asked for by the data subject"))


def _request(day, at, req, draw, number):
    score = score_of(draw)
    now = policy(number // 20)
    body = decided(req, score, policy=now, plan=now.digest)
    day.record(at, body)
    counts = {action: int(action == body.applied) for action in ("allow", "annotate", "guide", "refuse")}
    duration = int(draw.lognormvariate(14, 0.5))
    if draw.random() < 0.02:
        day.record(at + 0.1, GuardError(req=req, row=0, stage="generate", code=draw.choice(("NonFiniteHiddenStateError", "OutOfMemoryError")), outcome="refuse", policy=now, plan=now.digest))  # fmt: skip
    if draw.random() < 0.01:
        day.record(at + 0.2, BudgetExceeded(req=req, row=0, policy=now, plan=now.digest, limit="max_added_latency_ms", allowed=1000, spent=1200, then="refuse"))  # fmt: skip
    summary = request().model_dump(mode="json")
    summary |= {"req": req, "intended": counts, "applied": counts, "duration_us": duration, "guard_us": duration // 150}
    day.record(at + 0.3, {"type": "guard.request", **summary, "policy": now.model_dump(), "plan": now.digest})
    return 1
