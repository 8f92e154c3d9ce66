from __future__ import annotations

import json
import math
import tracemalloc
from typing import get_args

import pytest
from tests.audit_events import (
    MODEL,
    POLICY,
    SAMPLES,
    bypass,
    decision,
    failed,
    reading,
    refusal,
    request,
    sized_content,
)
from tests.chained_logs import record

from steerguard.audit.reading.quantiles import RELATIVE_ERROR
from steerguard.audit.reading.stats import MAX_SOURCES, Grouping, Totals
from steerguard.audit.reading.tally import MAX_NAMES, OTHERS


def read(readings):
    """A decision with these readings."""
    return decision().model_copy(update={"readings": readings})


def totals_of(*bodies, by=None):
    totals = Totals(by)
    for seq, body in enumerate(bodies):
        totals.add(record(body, seq=seq))
    return totals


def test_decisions_are_counted_by_action_cause_and_rule():
    totals = totals_of(refusal(), decision(), decision(mode="monitor", applied="allow"), failed())
    assert totals.decisions == 4
    assert totals.applied.counts == {"guide": 2, "allow": 1, "refuse": 1}
    assert totals.intended.counts == {"guide": 3, "refuse": 1}
    assert totals.outcomes["guide → allow"] == 1
    assert totals.causes.counts == {"rule": 4}
    assert totals.rules.counts == {"guide_suspected_harm": 3, "refuse_clear_harm": 1}
    assert totals.modes["monitor"] == 1
    assert totals.row_errors.counts == {"NonFiniteHiddenStateError": 1}
    assert totals.budgets.counts == {"within": 4}
    assert totals.policies.counts == {"harmlessness 1.0.0": 4}
    assert (totals.prompt_tokens, totals.generated_tokens) == (4 * 57, 4 * 128)


def test_shares_have_wilson_intervals():
    totals = totals_of(*[refusal()] * 15, *[decision()] * 133)
    share = totals.share("refuse")
    assert (share["count"], share["of"], share["share"]) == (15, 148, 15 / 148)
    # Newcombe (1998), table I, method 3.
    assert (share["low"], share["high"]) == (pytest.approx(0.0624, abs=5e-5), pytest.approx(0.1605, abs=5e-5))
    assert Totals().share("refuse") == {"count": 0, "of": 0, "share": 0.0, "low": 0.0, "high": 1.0}


def test_a_decision_before_a_streamed_answer_is_counted_apart():
    totals = totals_of(decision(content=sized_content(answer=None)), decision())
    assert (totals.announced, totals.decisions) == (1, 1)
    assert totals.scores["harmful_intent"].quantiles.count == 1


def test_scores_are_gathered_by_source_with_their_thresholds():
    scores = [number / 10 for number in range(-50, 51)]
    near = reading(score=5.2).model_copy(update={"near": True})
    unknown = reading().model_copy(update={"score": None})
    huge = reading().model_copy(update={"score": "1e999"})
    totals = totals_of(
        *(read((reading(score=score),)) for score in scores),
        read((near, unknown, huge)),
    )
    found = totals.scores["harmful_intent"]
    assert found.quantiles.count == 102
    assert (found.quantiles.least, found.quantiles.greatest) == (-5.0, 5.2)
    assert found.quantiles.at(0.95) == pytest.approx(4.6, rel=RELATIVE_ERROR)
    assert (found.near, found.not_finite) == (1, 2)
    assert found.thresholds.counts == {
        "guide_suspected_harm < 5.25": 104,
        "guide_suspected_harm ≥ 1.25": 104,
        "refuse_clear_harm ≥ 5.25": 104,
    }


def test_durations_and_extra_tokens_have_quantiles():
    usage = SAMPLES["guard.decision"].usage
    totals = totals_of(
        *(request(duration_us=1000 * number, guard_us=number) for number in range(1, 101)),
        decision(usage=usage.model_copy(update={"extra_forward_tokens": 4096})),
        decision(),
    )
    document = totals.document()
    assert document["calls"] == {"generate": 100}
    assert document["duration_us"]["median"] == pytest.approx(50_000, rel=RELATIVE_ERROR)
    assert document["duration_us"]["p95"] == pytest.approx(95_000, rel=RELATIVE_ERROR)
    assert document["duration_us"]["p99"] == pytest.approx(99_000, rel=RELATIVE_ERROR)
    assert document["duration_us"]["greatest"] == 100_000
    assert document["guard_us"]["total"] == 5050
    assert (document["extra_forward_tokens"]["total"], document["extra_forward_tokens"]["count"]) == (4096, 2)
    assert document["quantile_error"] == RELATIVE_ERROR


def test_every_type_is_counted():
    totals = totals_of(*SAMPLES.values())
    assert totals.types.counts == dict.fromkeys(sorted(SAMPLES), 1)
    assert totals.records == len(SAMPLES)
    document = totals.document()
    assert document["checkpoints"] == 1
    assert document["bypasses"] == {"unguided": 1}
    assert document["errors"] == {"NonFiniteHiddenStateError": 1}
    assert document["error_stages"] == {"detect": 1}
    assert document["budget_exceeded"] == {"max_extra_forward_tokens": 1}
    assert document["rejections"] == {"ArtifactIntegrityError": 1, "PolicyValidationError": 1}
    assert document["revocations"] == {"revoked": 1}


def test_recovery_says_how_much_was_torn():
    torn = SAMPLES["log.recovered"].model_copy(update={"torn_bytes": 17, "torn_file": "log.torn-0"})
    assert totals_of(torn, torn).torn_bytes == 34


def test_a_record_that_does_not_fit_is_counted_as_such_and_nowhere_else():
    totals = Totals(by="day")
    totals.add({**record(decision()), "cause": "because"})
    totals.add({})
    totals.add(record(bypass()))
    assert (totals.misfits, totals.records, totals.decisions) == (2, 1, 0)
    assert list(totals.groups) == ["2026-11-22"]


def test_first_and_last_time_do_not_depend_on_the_order():
    totals = Totals()
    for t in ("2026-11-22T07:00:00.000000Z", "2026-11-21T07:00:00.000000Z", "2026-11-23T07:00:00.000000Z"):
        totals.add(record(bypass(), t=t))
    assert (totals.first_t, totals.last_t) == ("2026-11-21T07:00:00.000000Z", "2026-11-23T07:00:00.000000Z")


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("day", {"2026-11-22": 3}),
        ("policy", {"harmlessness 1.0.0": 1, "strict 2.0.0": 1}),
        ("model", {"LlamaForCausalLM": 1, "smollm2": 1}),
        ("tenant", {"(none)": 2, "acme": 1}),
        ("rule", {"guide_suspected_harm": 1, "refuse_clear_harm": 2}),
    ],
)
def test_groups(by, expected):
    strict = POLICY.model_copy(update={"name": "strict", "version": "2.0.0"})
    unnamed = MODEL.model_copy(update={"name": ""})
    totals = Totals(by)
    totals.add(record(refusal(policy=strict, model=unnamed)))
    totals.add({**record(decision(rules=("refuse_clear_harm", "guide_suspected_harm"))), "tenant": "acme"})
    totals.add(record(bypass()))
    groups = {key: group.records for key, group in totals.groups.items()}
    assert dict(sorted(groups.items())) == expected
    assert totals.document()["groups"].keys() == expected.keys()


def test_groups_and_sources_beyond_the_limit_are_counted_together():
    totals = Totals(by="tenant")
    for number in range(MAX_NAMES + 5):
        totals.add({**record(bypass()), "tenant": f"t{number}"})
    assert len(totals.groups) == MAX_NAMES + 1
    assert totals.groups[OTHERS].records == 5
    sources = totals_of(*(read((reading(f"d{n}"),)) for n in range(MAX_SOURCES + 5)))
    assert sources.scores[OTHERS].quantiles.count == 5
    assert sum(one.quantiles.count for one in sources.scores.values()) == MAX_SOURCES + 5


@pytest.mark.parametrize("by", [None, *get_args(Grouping)])
def test_the_document_is_json_also_without_records(by):
    for totals in (Totals(by), totals_of(*SAMPLES.values(), by=by)):
        text = json.dumps(totals.document(), allow_nan=False)
        assert json.loads(text)["records"] == totals.records


def test_memory_does_not_grow_with_the_number_of_records():
    totals = Totals(by="day")

    def count(first, last):
        for number in range(first, last):
            totals.add(record(read((reading(score=math.sin(number) * 9),)), seq=number % 50))
            totals.add(record(request(duration_us=number % 5000), seq=number % 50))

    count(0, 4000)
    tracemalloc.start()
    count(4000, 6000)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 200_000
