from __future__ import annotations

import pytest
from tests.audit_events import decision, request, sized_content
from tests.chained_logs import record

from steerguard.audit.reading.announcement import announces

EARLY = record(decision(content=sized_content(answer=None)))


def test_a_decision_before_the_answer_announces():
    assert announces(EARLY)
    assert not announces(record(decision(content=sized_content(answer=0))))
    assert not announces(record(request()))


@pytest.mark.parametrize(
    "change",
    [
        {"type": "guard.request"},
        {"type": None},
        {"content": None},
        {"content": ["out_tokens", "out_chars"]},
        {"content": {"out_chars": None}},
        {"content": {**EARLY["content"], "out_chars": 0}},
    ],
)
def test_whatever_a_record_holds_it_is_asked_without_an_error(change):
    assert not announces({**EARLY, **change})
    assert not announces({})
