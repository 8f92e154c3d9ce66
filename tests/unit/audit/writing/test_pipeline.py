from __future__ import annotations

import re
import time
import uuid
from datetime import UTC, datetime

import pytest
import structlog
from structlog.contextvars import bound_contextvars
from tests.audit_events import SAMPLES, bypass, decision, failed, refusal, request, searched
from tests.audit_lines import Lines, line_of

from steerguard.audit.records.events import RECORDS
from steerguard.audit.writing.pipeline import WallClock, is_durable
from steerguard.errors import AuditError

CANARY = "7ZqLmN4vB1xK0pRs"


def test_the_envelope_is_complete_and_attaches_to_the_chain():
    lines = Lines()
    first, second = lines.record(bypass()), lines.record(decision())
    assert (first["seq"], first["prev"], second["seq"]) == (0, "0" * 64, 1)
    assert second["prev"] != first["prev"]
    assert (second["v"], second["type"], second["log"]) == (1, "guard.decision", Lines.log_id)
    assert 0 <= first["mono"] <= second["mono"]


def test_what_the_chain_returns_comes_back():
    lines = Lines()
    assert [lines.logger.event(bypass()) for _ in range(3)] == [0, 1, 2]


DURABLE = {
    "log.open", "log.close", "log.recovered", "log.rotate", "log.prune", "log.hold", "log.key_rotate", "checkpoint",
    "content.erased", "policy.reject", "artifact.verify_failed", "artifact.revoked", "budget.exceeded", "guard.bypass",
    "guard.error",
}  # fmt: skip
NOT_DURABLE = {"policy.load", "policy.swap", "artifact.load", "guard.decision", "guard.request"}


def test_every_event_type_is_durable_or_is_not():
    assert set(RECORDS) == DURABLE | NOT_DURABLE
    assert {kind for kind in SAMPLES if is_durable(line_of(SAMPLES[kind]))} == DURABLE


@pytest.mark.parametrize(
    ("body", "durable"),
    [
        (decision(), False),
        (refusal(), True),
        (failed(), True),
        (decision(intended="refuse", applied="allow", mode="monitor"), False),
        (searched(), False),
        (request(), False),
        (bypass(), True),
    ],
)
def test_the_chain_is_told_what_must_be_on_the_medium(body, durable):
    lines = Lines()
    lines.record(body)
    assert lines.durable == [durable]


def test_request_trace_and_tenant_are_carried_and_nothing_else():
    lines = Lines()
    with bound_contextvars(request_id=uuid.UUID(int=7), trace_id=2**127, tenant="Zoë\n", user=CANARY, seq=99):
        inside = lines.record(decision())
    outside = lines.record(decision())
    assert inside["request_id"] == "00000000-0000-0000-0000-000000000007"
    assert (inside["trace_id"], inside["tenant"], inside["seq"]) == (str(2**127), "Zo\\xeb\\n", 0)
    assert "user" not in inside
    assert not {"request_id", "trace_id", "tenant"} & set(outside)


def test_a_trace_id_in_hexadecimal_is_carried_as_it_is():
    with bound_contextvars(trace_id="0af7651916cd43dd8448eb211c80319c"):
        assert line_of(decision())["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


class Odd:
    def __repr__(self):
        return CANARY

    __str__ = __repr__


class OddText(str):
    __slots__ = ()

    def __str__(self):
        raise ValueError(CANARY)


@pytest.mark.parametrize("name", ["request_id", "trace_id", "tenant"])
@pytest.mark.parametrize(
    "value",
    [CANARY * 9, "é" * 33, 0.5, CANARY.encode(), [CANARY], {CANARY: 1}, Odd(), 10**5000, -(10**128)],
    ids=["long", "escaped", "float", "bytes", "list", "dict", "object", "huge", "negative"],
)
def test_a_context_variable_that_cannot_be_kept_whole_is_an_error_without_its_value(name, value):
    lines = Lines()
    with bound_contextvars(**{name: value}), pytest.raises(AuditError, match=name) as caught:
        lines.record(decision())
    shown = f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
    assert CANARY not in shown
    assert "00000000" not in shown
    assert lines.lines == []
    assert lines.record(decision())["seq"] == 0


def test_a_text_that_cannot_be_shown_is_taken_by_its_characters():
    with bound_contextvars(tenant=OddText("acme")):
        assert line_of(decision())["tenant"] == "acme"


class OddNumber(int):
    def bit_length(self):
        raise ValueError(CANARY)

    def __int__(self):
        raise ValueError(CANARY)

    def __str__(self):
        return CANARY


class OddUuid(uuid.UUID):
    def __str__(self):
        return CANARY


@pytest.mark.parametrize(
    ("value", "text"), [(OddNumber(5), "5"), (OddUuid(int=5), "00000000-0000-0000-0000-000000000005")]
)
def test_what_a_number_or_id_says_of_itself_is_not_asked(value, text):
    with bound_contextvars(tenant=value):
        assert line_of(decision())["tenant"] == text


def test_what_is_bound_to_none_is_not_recorded():
    with bound_contextvars(tenant=None):
        assert "tenant" not in line_of(decision())


def test_the_hosts_structlog_configuration_is_neither_used_nor_changed():
    def explode(*_):
        raise structlog.DropEvent

    processors = [explode]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(50),
        context_class=list,
        cache_logger_on_first_use=True,
    )
    try:
        before = dict(structlog.get_config())
        with structlog.testing.capture_logs() as captured:
            line_of(decision())
        assert structlog.get_config() == before
        assert processors == [explode]
        assert captured == []
    finally:
        structlog.reset_defaults()


def test_a_logger_leaves_structlog_unconfigured():
    structlog.reset_defaults()
    line_of(decision())
    assert not structlog.is_configured()


def test_the_clock_tells_the_time_with_microseconds():
    clock = WallClock()
    texts = []
    for _ in range(2000):
        before = time.time_ns() // 1000
        texts.append(clock())
        told = datetime.strptime(texts[-1], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        assert before <= round(told.timestamp() * 1_000_000) <= time.time_ns() // 1000
    assert texts == sorted(texts)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", texts[0])


def test_the_clock_follows_the_second(monkeypatch):
    clock = WallClock()
    told = []
    for now in (0, 999_999_999, 1_000_000_000, 1_790_000_000_123_456_789, 999):
        monkeypatch.setattr(time, "time_ns", lambda now=now: now)
        told.append(clock())
    assert told == [
        "1970-01-01T00:00:00.000000Z",
        "1970-01-01T00:00:00.999999Z",
        "1970-01-01T00:00:01.000000Z",
        "2026-09-21T14:13:20.123456Z",
        "1970-01-01T00:00:00.000000Z",
    ]
