"""What else than rules may differ in the policy of one request, and what may not."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from tests.guarded_models import policy, registry_for, shared_model, tokenizer

from steerguard.errors import LooserPolicyError
from steerguard.models.inspect import inspect_model
from steerguard.plan.compile import compile_plan
from steerguard.plan.plan import Plan, UnrecognisedPrompt
from steerguard.plan.resolve import resolve_artifacts
from steerguard.plan.tighten import COMPARED, FREE, MAX_CASES, check_tightens
from steerguard.policy.rules import PlannedAll, PlannedBound, PlannedComparison, PlannedRule, near

ALLOW = UnrecognisedPrompt(action="allow", reason="a reason of ten letters", expires="2030-06-01")
REFUSE = UnrecognisedPrompt(action="refuse", reason=None, expires=None)


@pytest.fixture(scope="module")
def plan():
    document, facts = policy(0.0), inspect_model(shared_model(), tokenizer())
    return compile_plan(document, facts, resolve_artifacts(document, facts, registry_for(shared_model())))


def looser(in_force, wanted, what):
    with pytest.raises(LooserPolicyError, match=what):
        check_tightens(in_force, wanted)


def test_names_digest_and_the_refusals_text_are_free(plan):
    check_tightens(plan, replace(plan, policy_name="other", policy_version="9.0.0", policy_digest="sha256:0"))
    check_tightens(plan, replace(plan, refusal_template="No."))


def test_a_field_that_nobody_compared_must_be_equal(plan):
    names = {field.name for field in fields(Plan)}
    assert names >= FREE | COMPARED
    assert names - FREE - COMPARED >= {"mode", "model", "audit_content"}
    looser(plan, replace(plan, audit_content="none"), "audit_content")
    looser(plan, replace(plan, mode="monitor"), "mode")


def test_no_artifact_beyond_those_in_force(plan):
    (detector,) = plan.detectors
    other = replace(detector, id="e", artifact=replace(detector.artifact, digest="sha256:" + "0" * 64))
    looser(plan, replace(plan, detectors=(detector, other)), "artifacts")
    check_tightens(plan, replace(plan, detectors=(detector, replace(detector, id="e"))))


def test_detectors_stay_and_read_the_same(plan):
    (detector,) = plan.detectors
    without = replace(plan, detectors=(), rules=(), default_action="refuse")
    looser(plan, without, "`d`")
    looser(plan, replace(plan, detectors=(replace(detector, blocks=(0,)),)), "another one of that name")


def test_guidance_stays_as_it_is_or_goes(plan):
    (step,) = plan.steps
    first, second = replace(step, id="one"), replace(step, id="two")
    looser(plan, replace(plan, steps=(replace(step, coefficient="9.0"),)), "`steer`")
    refusing = replace(plan, steps=(), rules=tuple(replace(rule, action="refuse", use=()) for rule in plan.rules))
    check_tightens(plan, refusing)
    both = replace(plan, steps=(first, second), rules=())
    check_tightens(both, both)
    looser(both, replace(both, steps=(second, first)), "order")


def test_limits_may_only_shrink(plan):
    for name in ("max_extra_memory_bytes", "max_extra_forward_tokens"):
        limited = replace(plan, **{name: 1000})
        check_tightens(limited, replace(plan, **{name: 999}))
        check_tightens(replace(plan, **{name: None}), limited)
        looser(limited, replace(plan, **{name: 1001}), name)
        looser(limited, replace(plan, **{name: None}), "no limit")


def test_prompts_without_a_header_are_allowed_no_longer_than_before(plan):
    allowing = replace(plan, unrecognised_prompt=ALLOW)
    refusing = replace(plan, unrecognised_prompt=REFUSE)
    check_tightens(allowing, refusing)
    check_tightens(allowing, replace(plan, unrecognised_prompt=replace(ALLOW, expires="2030-05-31")))
    looser(refusing, allowing, "unrecognised_prompt")
    looser(allowing, replace(plan, unrecognised_prompt=replace(ALLOW, expires="2030-06-02")), "unrecognised_prompt")
    looser(allowing, replace(plan, unrecognised_prompt=replace(ALLOW, expires=None)), "unrecognised_prompt")


def test_a_looser_threshold_is_named_with_the_score_and_both_verdicts(plan):
    (rule,) = plan.rules
    higher = replace(rule, when=replace(rule.when, at_least=PlannedBound(value=0.25)))
    with pytest.raises(LooserPolicyError) as caught:
        check_tightens(plan, replace(plan, rules=(higher,)))
    # The least score that may be 0.0, and surely is not 0.25.
    assert f"d = {near(0.0, plan.tolerances['d'])[0]!r}" in str(caught.value.where)
    assert (caught.value.expected, caught.value.found) == ("guide with steer", "allow")
    check_tightens(replace(plan, rules=(higher,)), plan)


def test_rules_with_too_many_cases_to_compare_are_refused(plan):
    (detector,) = plan.detectors
    names = [f"d{index}" for index in range(4)]
    comparisons = tuple(
        PlannedComparison(detector=name, at_least=PlannedBound(value=float(bound)))
        for name in names
        for bound in range(8)
    )
    rule = PlannedRule(id="r", when=PlannedAll(all_of=comparisons), action="refuse")
    large = replace(plan, detectors=tuple(replace(detector, id=name) for name in names), rules=(rule,))
    assert MAX_CASES < 9**4
    looser(large, large, "combinations")


def test_an_operator_is_used_only_where_the_policy_in_force_uses_it(plan):
    (step,), (rule,) = plan.steps, plan.rules
    ablating = replace(plan, steps=(replace(step, operator="ablate"),))
    lower = replace(rule, when=replace(rule.when, at_least=PlannedBound(value=-1.0)))
    check_tightens(plan, replace(plan, rules=(lower,)))
    check_tightens(ablating, ablating)
    looser(ablating, replace(ablating, rules=(lower,)), "rules")
    check_tightens(ablating, replace(ablating, rules=(replace(lower, action="refuse", use=()),)))


def test_streamed_tokens_leave_no_earlier(plan):
    window = replace(plan, streaming="window")
    check_tightens(window, replace(plan, streaming="buffer"))
    looser(window, replace(plan, streaming="unsafe_passthrough"), "streaming")
