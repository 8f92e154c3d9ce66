"""Plans: what does not fit together is refused before the first token, and equal plans have equal digests."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys

import pytest
from tests.guarded_models import (
    FAMILIES,
    SCHEDULES,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
    tokenizer,
)

from steerguard.canonical import canonical_bytes
from steerguard.errors import (
    BudgetInfeasibleError,
    CalibrationError,
    IncompatibleModelError,
    UnsupportedPlanError,
)
from steerguard.evaluate.guarding import described_run
from steerguard.models.inspect import inspect_model
from steerguard.plan.compile import compile_plan, cost_of
from steerguard.plan.cost import SteeredBlock, steering_cost
from steerguard.plan.describe import describe
from steerguard.plan.planned_rules import float32, raised
from steerguard.plan.resolve import resolve_artifacts
from steerguard.policy.document import Policy

ALWAYS = "rules:\n  - {id: r, when: {always: true}, then: {action: guide, use: [steer]}}\ndefault: {action: allow}"


def _plan(document, architecture="llama", *, schedule="constant", **settings):
    model = shared_model(architecture)
    facts = inspect_model(model, tokenizer())
    resolved = resolve_artifacts(document, facts, registry_for(model, schedule=schedule))
    return compile_plan(document, facts, resolved, **settings)


def test_a_modality_that_the_policy_does_not_cover_is_refused():
    with pytest.raises(IncompatibleModelError, match="image"):
        _plan(policy(modalities="text"), "llava")
    assert _plan(policy(modalities="text, image"), "llava").model.modalities == ("image", "text")


def test_a_calibrated_threshold_is_the_calibrations_and_keeps_its_rate():
    plan = _plan(policy("{fpr: 0.05}"))
    (rule,) = plan.rules
    model = shared_model()
    facts = inspect_model(model, tokenizer())
    calibration = resolve_artifacts(policy(), facts, registry_for(model))["harmful-intent@^1"].calibration
    assert rule.when.at_least.fpr == "0.05"
    assert rule.when.at_least.value == raised(calibration.threshold(0.05), plan.tolerances["d"])
    assert rule.when.at_least.value == float32(rule.when.at_least.value)
    # With its tolerance it takes the benign rows that the calibration counts, and no other.
    benign = [float(score) for score in calibration.benign_scores]
    taken = [rule.matches({"d": score}, plan.tolerances) for score in benign]
    assert taken == [score >= calibration.threshold(0.05) for score in benign]
    assert sum(taken) == 4


def test_a_rate_below_what_the_calibration_can_state_is_refused_with_the_smallest():
    assert _plan(policy("{fpr: 0.01}")).rules[0].when.at_least is not None
    with pytest.raises(CalibrationError, match=r"0\.01"):
        _plan(policy("{fpr: 0.009}"))


def test_a_raw_threshold_becomes_the_float32_that_scores_are_compared_with():
    assert _plan(policy(0.1)).rules[0].when.at_least.value == float32(0.1) != 0.1


@pytest.mark.parametrize("block", [4, 9])
def test_a_block_that_the_model_does_not_have_is_refused(block):
    with pytest.raises(IncompatibleModelError, match="blocks 0 to 3"):
        _plan(policy(settings=f"coefficient: 1.0, blocks: [1, {block}]"))


def test_steering_below_the_detectors_last_block_is_a_two_pass_plan_that_charges_every_prompt_token():
    one, two = (_plan(policy(settings=f"coefficient: 1.0, blocks: [{block}]")) for block in (1, 0))
    assert (one.cost.passes, two.cost.passes) == (1, 2)
    assert (one.cost.extra_forward_tokens(17), two.cost.extra_forward_tokens(17)) == (0, 17)
    assert two.cost.extra_forward_tokens(17, extra_passes=0) == 0
    assert two.cost.extra_forward_tokens(17, extra_passes=2) == 34
    assert "no extra forward token" in "\n".join(describe(one))
    assert "one extra forward token per prompt token" in "\n".join(describe(two))


def test_a_step_that_changes_inputs_reaches_them_one_block_earlier():
    plan = _plan(policy(settings="coefficient: 1.0, blocks: [1]"))
    (step,) = plan.steps

    def passes(**changed):
        return cost_of(plan.detectors, (dataclasses.replace(step, **changed),), plan.model).passes

    assert passes(points=("resid_post",)) == 1
    assert passes(points=("resid_pre",)) == passes(points=("resid_pre", "resid_post")) == 2
    assert passes(points=("resid_pre",), blocks=(2,)) == 1


def test_the_cost_formula_counts_what_operators_hold_and_every_point():
    def cost(*steered):
        return steering_cost(passes=1, reads=(), steered=steered, hidden_size=32, dtype="float32")

    ablated = SteeredBlock(block=1, operator="ablate")
    assert (cost(ablated).resident_bytes, cost(ablated).bytes_per_row) == (4 * 32, 0)
    mapped = SteeredBlock(block=1, operator="affine", rank=3)
    assert (cost(mapped).resident_bytes, cost(mapped).bytes_per_row) == (4 * 32 * 7, 0)
    both = cost(SteeredBlock(block=1), SteeredBlock(block=1, point="resid_pre"), ablated)
    assert (both.resident_bytes, both.bytes_per_row) == (4 * 32 * 3, 4 * 32 * 2)
    assert both.hooked_blocks_open == 1


def test_a_plan_says_what_an_operator_does_where():
    plan = _plan(policy())
    (step,) = plan.steps
    changed = dataclasses.replace(step, operator="ablate", points=("resid_pre", "resid_post"))
    told = "\n".join(describe(dataclasses.replace(plan, steps=(changed,))))
    assert "ablates the input and the output of blocks 1-2 at positions all" in told


def test_a_plan_without_a_detector_is_one_pass_wherever_it_steers():
    plan = _plan(policy(rules=ALWAYS, detector=False, settings="coefficient: 1.0, blocks: [0]"))
    assert plan.cost.passes == 1


def test_a_budget_below_the_plans_estimate_is_refused_before_the_first_token():
    with pytest.raises(BudgetInfeasibleError, match="extra forward tokens"):
        _plan(policy(settings="coefficient: 1.0, blocks: [0]", more="budget: {max_extra_forward_tokens: 0}"))
    assert _plan(policy(more="budget: {max_extra_forward_tokens: 0}")).cost.passes == 1


def test_a_larger_budget_never_makes_a_feasible_plan_infeasible():
    for mebibytes in (1, 2, 64):
        _plan(policy(more=f"budget: {{max_extra_memory_mib: {mebibytes}}}"))


def test_a_plan_that_needs_more_memory_than_the_budget_for_one_row_is_refused():
    plan = _plan(policy())
    facts = dataclasses.replace(plan.model, hidden_size=200_000)
    model = shared_model()
    document = policy(more="budget: {max_extra_memory_mib: 1}")
    resolved = resolve_artifacts(document, plan.model, registry_for(model))
    with pytest.raises(BudgetInfeasibleError, match="memory"):
        compile_plan(document, facts, resolved)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("unrecognised_prompt: gate_every_turn", "gate_every_turn"),
        ("failure: {detector: {action: allow, reason: a good enough reason, expires: 2999-01-01}}", "failure"),
    ],
)
def test_what_validates_but_cannot_run_yet_is_refused_by_name(more, named):
    with pytest.raises(UnsupportedPlanError, match=named):
        _plan(policy(more=more))


@pytest.mark.parametrize("content", ["none", "hmac", "encrypted"])
def test_a_plan_says_what_the_audit_log_may_hold_of_content(content):
    plan = _plan(policy(more=f"audit: {{content: {content}}}"))
    assert plan.audit_content == plan.document()["audit_content"] == content
    assert (plan.digest == _plan(policy()).digest) == (content == "hmac")


@pytest.mark.parametrize("strategy", ["buffer", "window", "unsafe_passthrough"])
def test_a_plan_says_when_streamed_tokens_leave(strategy):
    plan = _plan(policy(more=f"streaming: {{strategy: {strategy}}}"))
    assert plan.streaming == plan.document()["streaming"] == strategy
    assert (plan.digest == _plan(policy()).digest) == (strategy == "buffer")


def test_a_loosening_carries_its_reason_and_ends_with_its_date():
    more = "unrecognised_prompt: {action: allow, reason: completions are reviewed, expires: 2999-12-31}"
    handling = _plan(policy(more=more)).unrecognised_prompt
    assert (handling.action, handling.reason, handling.expires) == ("allow", "completions are reviewed", "2999-12-31")
    assert handling.on("2999-12-31") == "allow"
    assert handling.on("3000-01-01") == "refuse"
    assert _plan(policy()).unrecognised_prompt.on("2000-01-01") == "refuse"


def _floats(value):
    if isinstance(value, dict):
        return [found for item in value.values() for found in _floats(item)]
    if isinstance(value, (list, tuple)):
        return [found for item in value for found in _floats(item)]
    return [value] if isinstance(value, float) else []


def test_the_document_of_a_plan_is_json_without_a_float():
    plan = _plan(policy(0.1, settings="coefficient: 1.5, gate: per_block"))
    document = plan.document()
    assert _floats(document) == []
    assert json.loads(canonical_bytes(document)) == document
    assert document["steps"][0]["spec"]["coefficient"] == "1.5"


def test_equal_plans_have_equal_digests_and_any_change_another():
    base = policy(0.1)
    assert _plan(base).digest == _plan(policy(0.1)).digest
    others = [
        _plan(policy(0.2)),
        _plan(base, mode="monitor"),
        _plan(policy(0.1, settings="coefficient: 4.5")),
        _plan(policy(0.1, "refuse")),
        _plan(policy(0.1), "qwen2"),
    ]
    digests = {plan.digest for plan in [_plan(base), *others]}
    assert len(digests) == 6
    assert all(digest.startswith("sha256:") and len(digest) == 71 for digest in digests)


PRINT_DIGEST = """
from tests.guarded_models import policy, registry_for, shared_model, tokenizer
from steerguard.models.inspect import inspect_model
from steerguard.plan.compile import compile_plan
from steerguard.plan.describe import describe
from steerguard.plan.resolve import resolve_artifacts
model = shared_model()
facts = inspect_model(model, tokenizer())
document = policy(0.1)
print(compile_plan(document, facts, resolve_artifacts(document, facts, registry_for(model))).digest)
"""


def test_the_digest_of_a_plan_is_the_same_in_another_process():
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == _plan(policy(0.1)).digest


def test_the_cost_formula_counts_blocks_bytes_and_nothing_twice():
    cost = steering_cost(
        passes=1,
        reads=(0, 1),
        steered=tuple(SteeredBlock(block=block) for block in (1, 2, 2)),
        hidden_size=32,
        dtype="bfloat16",
    )
    assert (cost.hooked_blocks_prefill, cost.hooked_blocks_open) == (3, 2)
    assert cost.resident_bytes == 4 * 32 * 5
    assert cost.bytes_per_row == 2 * 32 * 2
    assert cost.extra_bytes(10) == cost.resident_bytes + 10 * cost.bytes_per_row


def test_the_cost_formula_counts_every_vector_of_a_schedule_and_every_state_of_its_steps():
    def cost(*steered):
        return steering_cost(passes=1, reads=(0,), steered=steered, hidden_size=32, dtype="float32")

    by_step = SteeredBlock(block=1, schedule="by_step", steps=13)
    by_phase = SteeredBlock(block=1, schedule="by_phase")
    assert cost(by_step).resident_bytes == 4 * 32 * (1 + 15)
    assert cost(by_step).bytes_per_row == 4 * 32 * 13
    assert cost(by_phase).resident_bytes == 4 * 32 * (1 + 3)
    assert cost(by_phase).bytes_per_row == 4 * 32
    both = cost(by_step, by_phase, SteeredBlock(block=2))
    assert both.resident_bytes == 4 * 32 * (1 + 15 + 3 + 1)
    assert both.bytes_per_row == 4 * 32 * (13 + 1 + 1)
    assert both.hooked_blocks_open == 2


def test_states_that_end_early_are_counted_one_for_each_end():
    def states(*steered):
        cost = steering_cost(passes=1, reads=(), steered=steered, hidden_size=32, dtype="float32")
        return cost.bytes_per_row // (4 * 32)

    brief, longer = SteeredBlock(block=1, first_steps=2), SteeredBlock(block=1, first_steps=9)
    assert brief.vectors == 1
    assert states(brief) == states(brief, brief) == 1
    assert states(brief, longer) == states(brief, SteeredBlock(block=1)) == 2
    assert states(brief, longer, SteeredBlock(block=1)) == 3
    by_step = SteeredBlock(block=1, schedule="by_step", steps=5)
    assert states(brief, by_step) == 5
    assert states(longer, by_step, SteeredBlock(block=1)) == 10


@pytest.mark.parametrize("method", FAMILIES)
def test_a_plan_holds_and_tells_first_steps_and_what_is_left_out(method):
    settings = "coefficient: 1.5, positions: {first_steps: 8}, modality_tokens: exclude"
    plan = _plan(policy(method=method, settings=settings))
    step = plan.steps[0]
    assert (step.positions, step.first_steps, step.modality_tokens) == ("first_steps", 8, "exclude")
    told = "\n".join(describe(plan))
    assert "at the first 8 generated tokens (not where an image, sound or video stands), coefficient 1.5" in told
    assert "(blocks that only follow steps: for 8 generated tokens at most)" in told
    assert plan.cost.bytes_per_row == 4 * 32 * len(step.blocks)
    others = (
        "coefficient: 1.5",
        "coefficient: 1.5, positions: decode",
        "coefficient: 1.5, positions: {first_steps: 9}, modality_tokens: exclude",
        "coefficient: 1.5, positions: {first_steps: 8}",
    )
    plans = [_plan(policy(method=method, settings=other)) for other in others]
    assert len({plan.digest, *(other.digest for other in plans)}) == 5
    assert (plans[0].steps[0].first_steps, plans[0].steps[0].modality_tokens) == (None, "include")


def test_a_plan_holds_and_tells_the_schedule_of_its_artifact():
    document = policy(settings="coefficient: 1.5")
    steps = {schedule: _plan(document, schedule=schedule).steps[0] for schedule in SCHEDULES}
    assert [(step.schedule, step.schedule_steps, step.positions) for step in steps.values()] == [
        ("constant", None, "all"),
        ("by_phase", None, None),
        ("by_step", 3, None),
    ]
    told = {schedule: "\n".join(describe(_plan(document, schedule=schedule))) for schedule in SCHEDULES}
    assert "at positions all, coefficient 1.5" in told["constant"]
    assert "by phase (one vector for the prompt" in told["by_phase"]
    assert "each of the first 3 generated tokens, none afterwards" in told["by_step"]
    assert "for 3 generated tokens at most" in told["by_step"]
    assert "tokens at most" not in told["by_phase"]
    assert len({_plan(document, schedule=schedule).digest for schedule in SCHEDULES}) == 3


@pytest.mark.parametrize(("method", "other"), list(itertools.permutations(FAMILIES, 2)))
def test_an_artifact_of_another_method_is_refused_and_the_right_method_named(method, other):
    document = policy(method=method, more="").document()
    document["guidance"][0]["artifact"] = f"{FAMILIES[other]}@^1"
    with pytest.raises(UnsupportedPlanError, match=f"Write `method: {other}`"):
        _plan(Policy.model_validate_json(json.dumps(document)))


@pytest.mark.parametrize(
    ("kind", "family", "right"), [("cosine", "harmful-intent", "linear_probe"), ("linear_probe", "condition", "cosine")]
)
def test_a_detector_of_another_type_than_its_artifact_is_refused_and_the_right_type_named(kind, family, right):
    document = policy().document()
    document["detectors"][0] |= {"type": kind, "artifact": f"{family}@^1"}
    with pytest.raises(UnsupportedPlanError, match=f"Write `type: {right}`"):
        _plan(Policy.model_validate_json(json.dumps(document)))


def test_a_composed_rule_is_told_in_words_and_its_digest_knows_any_from_all():
    condition = "{{{kind}: [{one}, {{not: {two}}}]}}"
    one, two = "{detector: d, score: {at_least: {value: 0.5}}}", "{detector: d, score: {at_least: {fpr: 0.1}}}"
    plans = {}
    for kind in ("any", "all"):
        when = condition.format(kind=kind, one=one, two=two)
        plans[kind] = _plan(policy(rules=f"rules:\n  - {{id: r, when: {when}, then: {{action: refuse}}}}"))
    told = "\n".join(describe(plans["all"]))
    assert "Rule r: when d reads at least 0.5000 and (it is not true that d reads at least " in told
    assert "(false-positive rate 0.1 on the calibration prompts)), refuse." in told
    assert " or (it is not true" in "\n".join(describe(plans["any"]))
    documents = [plan.document()["rules"] for plan in plans.values()]
    assert documents[0] != documents[1]
    # A rule of several comparisons has no one threshold that an evaluation could count scores against.
    assert described_run(plans["all"]).thresholds == ()
    assert [entry.rule for entry in described_run(_plan(policy(0.1))).thresholds] == ["r"]


def test_measured_forward_tokens_equal_the_formula():
    model = shared_model()
    seen = []
    handle = model.get_decoder().layers[0].register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[:2])))
    batch = prompts(4)
    with guarded(model, policy(-1e6)) as wrapped, wrapped.guard.collect() as reports:
        seen.clear()
        tokens, _ = run(wrapped, batch)
    handle.remove()
    width = batch["input_ids"].shape[1]
    assert sum(rows * columns for rows, columns in seen) == 4 * (tokens.shape[1] - 1)
    assert seen[0] == (4, width)
    assert {report.usage.extra_forward_tokens for report in reports} == {0}
    assert [report.usage.prompt_tokens for report in reports] == batch["attention_mask"].sum(1).tolist()
