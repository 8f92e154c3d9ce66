"""Plans that search: cost budgets, what is refused by name, what they say and hold."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.guarded_models import registry_for, shared_model, tokenizer

from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import (
    ArtifactFormatError,
    BudgetInfeasibleError,
    CalibrationError,
    IncompatibleModelError,
    LooserPolicyError,
    PolicyValidationError,
    UnsupportedPlanError,
)
from steerguard.guidance.search.bind import bind
from steerguard.models.inspect import inspect_model
from steerguard.plan.compile import check_supported, compile_plan
from steerguard.plan.describe import describe
from steerguard.plan.planned_rules import float32
from steerguard.plan.resolve import resolve_artifacts
from steerguard.plan.search_cost import search_bytes
from steerguard.plan.search_plan import check_searches, held_bytes
from steerguard.plan.tighten import check_tightens
from steerguard.policy.load import parse_policy

SEARCH = "id: search, method: inference_guard, critic: harm-cost@^1"
STEER = "id: steer, method: inferaligner, artifact: inferaligner@^1"
WATCH = "id: watch, method: rolling_guard, artifact: harmful-answer@^1, threshold: {value: 0.5}"
ALWAYS = "{id: r, when: {always: true}, then: {action: guide, use: [search]}}"


def document(*entries, rules=(ALWAYS,), default="{action: allow}", more=""):
    guidance = "\n".join(f"  - {{{entry}}}" for entry in entries or (SEARCH,))
    listed = "\n".join(f"  - {rule}" for rule in rules)
    return parse_policy(
        f"""
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {{name: search, version: 1.0.0}}
detectors:
  - {{id: d, type: linear_probe, artifact: harmful-intent@^1, read: generation_prompt_end}}
guidance:
{guidance}
rules:
{listed}
default: {default}
{more}
""",
        file="search.yaml",
    )


def guide(name, bound, *use):
    """A rule that opens entries from a score on, or below it."""
    return (
        f"{{id: {name}, when: {{detector: d, score: {{{bound}}}}}, then: {{action: guide, use: [{', '.join(use)}]}}}}"
    )


def resolved(policy):
    model = shared_model()
    facts = inspect_model(model, tokenizer())
    return facts, resolve_artifacts(policy, facts, registry_for(model))


def plan_of(policy, **params):
    """The plan; `params` replace some of those of the cost model's manifest."""
    facts, artifacts = resolved(policy)
    for reference, artifact in artifacts.items():
        if params and artifact.pin.family == "harm-cost":
            manifest = artifact.pin.manifest
            changed = manifest.model_copy(update={"params": {**manifest.params, **params}})
            artifacts[reference] = replace(artifact, pin=replace(artifact.pin, manifest=changed))
    return compile_plan(policy, facts, artifacts)


def test_a_search_holds_its_parts_and_steers_nothing():
    plan = plan_of(document())
    (step,) = plan.steps
    assert (step.blocks, step.read_blocks, step.threshold) == ((), (), None)
    assert step.search == step.spec.search({"critic": {"blocks": [0, 1]}})
    assert step.answer_blocks == (0, 1)
    assert plan.cost.hooked_blocks_reading == 2
    assert (plan.cost.hooked_blocks_open, plan.cost.passes) == (0, 1)
    assert plan.document()["steps"][0]["search"]["temperature"] == "0.7"


def test_the_cost_budget_is_the_artifacts_the_entrys_or_a_rate_of_benign_answers():
    _, artifacts = resolved(document())
    calibration = artifacts["harm-cost@^1"].calibration
    assert plan_of(document(), threshold="0.1").steps[0].cost_budget.value == float32(0.1)
    stated = plan_of(document(f"{SEARCH}, cost_budget: {{value: 2.7}}")).steps[0].cost_budget
    assert (stated.value, stated.fpr) == (float32(2.7), None)
    rate = plan_of(document(f"{SEARCH}, cost_budget: {{fpr: 0.1}}")).steps[0].cost_budget
    assert (rate.value, rate.fpr) == (calibration.threshold("0.1"), "0.1")
    beyond = sum(float(score) >= rate.value for score in calibration.benign_scores)
    assert beyond / (calibration.n + 1) < 0.1


@pytest.mark.parametrize("threshold", [None, "many", 0.5, "nan", "1e9"])
def test_a_search_without_any_budget_is_refused(threshold):
    with pytest.raises(ArtifactFormatError, match="states no cost budget"):
        plan_of(document(), threshold=threshold)
    assert plan_of(document(f"{SEARCH}, cost_budget: {{value: 1.0}}"), threshold=threshold).steps


def test_a_rate_for_every_token_needs_a_calibration_on_every_token():
    entry = "id: search, method: value_filter, critic: harm-cost@^1, threshold: {fpr: 0.1}"
    assert plan_of(document(entry)).steps[0].cost_budget.fpr == "0.1"
    with pytest.raises(CalibrationError, match="after every token"):
        plan_of(document(f"{entry}, start: always"))
    assert plan_of(document(f"{entry}, start: always"), calibrated_on="highest").steps[0].cost_budget.fpr == "0.1"
    assert plan_of(document(f"{entry}, start: always".replace("{fpr: 0.1}", "{value: 0.1}"))).steps


def test_a_critic_is_used_where_the_artifact_has_one():
    assert not plan_of(document()).steps[0].search.uses_critic
    assert plan_of(document(), critic={"hidden": 4}).steps[0].search.uses_critic


def test_a_block_that_the_model_does_not_have_is_refused():
    with pytest.raises(IncompatibleModelError, match="blocks 0 to 3"):
        plan_of(document(), blocks=[1, 4])


@pytest.mark.parametrize(
    ("family", "expected"), [("harmful-intent", "`cost_model` or `critic`"), ("inferaligner", "`cost_model` or")]
)
def test_an_artifact_that_is_no_cost_model_is_refused(family, expected):
    # The search is named first, so that its own need decides the type.
    policy = document(SEARCH.replace("harm-cost", family), more="").model_copy(update={"detectors": (), "rules": ()})
    with pytest.raises(ArtifactFormatError, match=expected):
        resolved(policy)


def test_a_guardian_needs_a_cost_model_of_texts():
    with pytest.raises(UnsupportedPlanError, match="Name an artifact of method `sequence_classifier` or"):
        plan_of(document("id: search, method: guardian, critic: harm-cost@^1, check: [output]"))


def test_a_check_of_the_input_needs_a_cost_model_of_prompts_and_says_how_to_do_without():
    needed = r"Name an artifact of method `guardian_logits`, or write `check: \[output\]`"
    with pytest.raises(UnsupportedPlanError, match=needed):
        plan_of(document("id: search, method: guardian, critic: harm-cost@^1, check: [input, output]"))


def test_fallback_goes_to_searches_only_and_is_refused_before_artifacts_are_looked_for():
    small = "id: small, method: best_of_n, critic: harm-cost@^1, candidates: 2"
    more = "budget: {on_exceeded: fallback, fallback: [small, one]}"
    one = "id: one, method: controlled_decoding, critic: harm-cost@^1, candidates: 1"
    plan = plan_of(document(SEARCH, small, one, more=more))
    assert (plan.on_exceeded, plan.fallback) == ("fallback", ("small", "one"))
    assert "falls back to small, then one, and then is refused" in "\n".join(describe(plan))
    with pytest.raises(UnsupportedPlanError, match="`steer` is none"):
        check_supported(document(SEARCH, STEER, more="budget: {on_exceeded: fallback, fallback: [steer]}"))
    assert (plan_of(document()).on_exceeded, plan_of(document()).fallback) == ("refuse", ())


def test_a_fallback_draws_something():
    nothing = "id: plain, method: best_of_n, critic: harm-cost@^1, candidates: 1"
    with pytest.raises(UnsupportedPlanError, match="`plain` draws nothing"):
        plan_of(document(SEARCH, nothing, more="budget: {on_exceeded: fallback, fallback: [plain]}"))
    told = "\n".join(describe(plan_of(document(nothing.replace("id: plain", "id: search")))))
    assert "Search search draws nothing: it gives the plain answer, or refuses." in told


CHEAP = "id: cheap, method: best_of_n, candidates: 2"


def falling_back(fallback, *, final_check="cost_model"):
    return document(
        f"{SEARCH}, final_check: {final_check}, cost_budget: {{value: 0.5}}",
        f"{CHEAP}, {fallback}",
        more="budget: {on_exceeded: fallback, fallback: [cheap]}",
    )


@pytest.mark.parametrize(
    "fallback",
    [
        "critic: harm-cost@^1, cost_budget: {value: 0.5}, start: always, final_check: none",
        "critic: harm-cost@^1, cost_budget: {value: 0.5}, final_check: none",
        "critic: harm-cost@^1, cost_budget: {value: 0.75}",
    ],
)
def test_a_fallback_promises_no_less_than_the_search_that_it_stands_in_for(fallback):
    with pytest.raises(UnsupportedPlanError, match="`cheap` may give an answer that `search` would refuse"):
        plan_of(falling_back(fallback))
    kept = "critic: harm-cost@^1, cost_budget: {value: 0.5}"
    assert plan_of(falling_back(kept)).fallback == ("cheap",)
    assert plan_of(falling_back(kept.replace("0.5", "0.25"))).fallback == ("cheap",)
    assert plan_of(falling_back(fallback, final_check="none")).fallback == ("cheap",)


def test_a_fallback_judges_with_the_same_artifact():
    plan = plan_of(falling_back("critic: harm-cost@^1, cost_budget: {value: 0.5}"))
    search, cheap = plan.steps
    check_searches(plan)
    other = replace(cheap.artifacts["critic"], digest="sha256:" + "0" * 64)
    with pytest.raises(UnsupportedPlanError, match="sha256:000000000000"):
        check_searches(replace(plan, steps=(search, replace(cheap, artifacts={"critic": other}))))


def test_a_fallback_that_no_rule_opens_binds_no_other_fallback():
    entries = [
        f"{SEARCH}, cost_budget: {{value: 0.5}}",
        f"{CHEAP}, critic: harm-cost@^1, cost_budget: {{value: 0.25}}",
        f"{CHEAP.replace('cheap', 'last')}, critic: harm-cost@^1, cost_budget: {{value: 0.5}}",
    ]
    more = "budget: {on_exceeded: fallback, fallback: [cheap, last]}"
    assert plan_of(document(*entries, more=more)).fallback == ("cheap", "last")
    with pytest.raises(UnsupportedPlanError, match="`search` may give an answer that `cheap` would refuse"):
        plan_of(
            document(*entries, rules=(ALWAYS.replace("search", "cheap"),), more=more.replace("[cheap, ", "[search, "))
        )


def test_a_search_and_a_rolling_guard_in_one_plan_are_refused():
    rules = (ALWAYS, guide("w", "at_least: {value: 0.5}", "watch"))
    with pytest.raises(UnsupportedPlanError, match="read answers with `watch` and search with `search`"):
        plan_of(document(SEARCH, WATCH, rules=rules))


def test_a_rolling_guard_cannot_open_a_search():
    with pytest.raises(PolicyValidationError, match="can be opened"):
        document(
            SEARCH,
            f"{WATCH}, then: open, opens: [search]",
            rules=(ALWAYS, guide("w", "at_least: {value: 0.5}", "watch")),
        )


def test_a_search_beside_steering_is_planned():
    plan = plan_of(document(STEER, SEARCH, rules=(guide("r", "at_least: {value: 0.5}", "steer", "search"),)))
    assert [step.search is not None for step in plan.steps] == [False, True]


def test_no_scores_may_open_two_searches():
    other = SEARCH.replace("id: search", "id: other")
    low, high = "at_least: {value: 0.0}, below: {value: 5.0}", "at_least: {value: 6.0}"
    apart = document(SEARCH, other, rules=(guide("low", low, "search"), guide("high", high, "other")))
    assert len(plan_of(apart).steps) == 2
    touching = (guide("low", "at_least: {value: 0.0}", "search"), guide("high", high, "other"))
    with pytest.raises(UnsupportedPlanError, match="may open the searches") as caught:
        plan_of(document(SEARCH, other, rules=touching))
    assert "at d = " in str(caught.value.found)
    with pytest.raises(UnsupportedPlanError, match="`search` and `other`"):
        plan_of(document(SEARCH, other, rules=(ALWAYS.replace("[search]", "[search, other]"),)))
    with pytest.raises(UnsupportedPlanError, match="may open the searches"):
        plan_of(document(SEARCH, other, default="{action: guide, use: [other]}"))
    hidden = document(SEARCH, other, default="{action: guide, use: [other]}", rules=(guide("r", high, "search"),))
    with pytest.raises(UnsupportedPlanError, match="may open the searches"):
        plan_of(hidden)


def test_more_candidates_than_the_budget_allows_are_refused():
    more = "budget: {max_candidates: 4}"
    with pytest.raises(BudgetInfeasibleError, match="more candidates"):
        plan_of(document(f"{SEARCH}, candidates: 5", more=more))
    assert plan_of(document(f"{SEARCH}, candidates: 4", more=more)).max_candidates == 4


def test_one_block_must_fit_into_the_forward_tokens():
    entry = f"{SEARCH}, candidates: 4, block_tokens: 8"
    assert plan_of(document(entry, more="budget: {max_extra_forward_tokens: 32}")).max_extra_forward_tokens == 32
    with pytest.raises(BudgetInfeasibleError, match="one block of 8 tokens"):
        plan_of(document(entry, more="budget: {max_extra_forward_tokens: 31}"))
    whole = "id: search, method: best_of_n, critic: harm-cost@^1, candidates: 4"
    with pytest.raises(BudgetInfeasibleError, match="one token"):
        plan_of(document(whole, more="budget: {max_extra_forward_tokens: 3}"))


@pytest.mark.parametrize("strategy", ["window", "unsafe_passthrough"])
def test_an_answer_that_is_searched_for_is_not_streamed_early(strategy):
    more = f"streaming: {{strategy: {strategy}}}"
    with pytest.raises(PolicyValidationError, match="may replace a finished answer"):
        document(more=more)
    with pytest.raises(UnsupportedPlanError, match="cannot stream"):
        plan_of(document(f"{SEARCH}, start: always, final_check: none", more=more))


def test_a_plan_tells_its_searches_and_their_limits():
    told = "\n".join(describe(plan_of(document(f"{SEARCH}, cost_budget: {{value: 0.25}}"))))
    assert "Step search: inference_guard draws 8 candidates per block of 8 tokens" in told
    assert "its cost budget is 0.2500." in told
    assert "Search search takes at most 6145 forward tokens a row for 256 new ones." in told
    assert "A search may take 16 candidates at once, 4000 ms of added latency, 2048 extra forward tokens" in told
    assert "only steers" not in told
    assert "only steers" in "\n".join(describe(plan_of(document(STEER, rules=(ALWAYS.replace("search", "steer"),)))))


def test_the_memory_of_a_plan_knows_the_cost_models_tensors():
    plan = plan_of(document())
    steering = plan_of(document(STEER, rules=(ALWAYS.replace("search", "steer"),)))
    _, artifacts = resolved(document())
    manifest = artifacts["harm-cost@^1"].pin.manifest
    # A weight for each of two blocks of width 32, and a bias.
    assert held_bytes(manifest) == plan.steps[0].held_bytes == 4 * (2 * 32 + 1)
    assert plan.cost.resident_bytes == 4 * 32 * 2 + 4 * (2 * 32 + 1)
    assert plan.cost.bytes_per_row == 2 * 4 * 32 * 2 + 8
    assert steering.steps[0].held_bytes == 0


def test_what_candidates_hold_follows_from_the_models_caches():
    plan = plan_of(document())
    cache = 4 * plan.model.num_blocks * plan.model.cache_width * (10 + 20)
    found = search_bytes(plan.steps[0].search, plan.model, prompt_tokens=10, new_tokens=20, read_blocks=2)
    assert found == 8 * (cache + 2 * 4 * 32 * 2 + 8)


def test_the_binder_makes_what_was_planned():
    policy = document(f"{SEARCH}, cost_budget: {{fpr: 0.1}}")
    facts, artifacts = resolved(policy)
    (step,) = compile_plan(policy, facts, artifacts).steps
    pin, store = artifacts["harm-cost@^1"].pin, registry_for(shared_model())
    verified = verify_artifact(store.read(pin), pin.digest, where=pin.reference)
    (search,) = bind(step, {"critic": verified})
    assert (search.step, search.method, search.parts) == ("search", "inference_guard", step.search)
    assert (search.cost_budget, search.cost_budget_fpr, search.critic) == (step.cost_budget.value, "0.1", None)
    assert search.cost.blocks == (0, 1)
    with pytest.raises(UnsupportedPlanError, match="planned otherwise"):
        bind(replace(step, answer_blocks=(2,)), {"critic": verified})
    with pytest.raises(UnsupportedPlanError, match="planned otherwise"):
        bind(replace(step, search=None), {"critic": verified})


@pytest.fixture(scope="module")
def in_force():
    return plan_of(document(f"{SEARCH}, cost_budget: {{value: 0.5}}"))


def looser(one, other, what):
    with pytest.raises(LooserPolicyError, match=what):
        check_tightens(one, other)


def test_only_the_cost_budget_of_a_search_may_be_lower(in_force):
    check_tightens(in_force, in_force)
    check_tightens(in_force, plan_of(document(f"{SEARCH}, cost_budget: {{value: 0.25}}")))
    looser(in_force, plan_of(document(f"{SEARCH}, cost_budget: {{value: 0.75}}")), "guidance")
    for other in ("candidates: 7", "start: always", "retries: 3", "temperature: 0.6", "weight: 4.0"):
        looser(in_force, plan_of(document(f"{SEARCH}, cost_budget: {{value: 0.25}}, {other}")), "guidance")


def test_a_lower_budget_is_stricter_only_where_nothing_beyond_it_is_returned():
    entry = f"{SEARCH}, final_check: none"
    one, other = (plan_of(document(f"{entry}, cost_budget: {{value: {value}}}")) for value in (0.5, 0.25))
    check_tightens(one, one)
    looser(one, other, "guidance")


def test_a_search_is_used_only_where_the_policy_in_force_uses_it():
    rule = guide("r", "at_least: {value: 0.5}", "search")
    some = plan_of(document(rules=(rule,)))
    looser(some, plan_of(document()), "rules")
    check_tightens(some, replace(some, rules=(replace(some.rules[0], action="refuse", use=()),)))


@pytest.mark.parametrize("name", ["max_candidates", "max_added_latency_ms", "max_extra_forward_tokens"])
def test_limits_shrink_only_where_exceeding_them_refuses(in_force, name):
    smaller = replace(in_force, **{name: getattr(in_force, name) - 1})
    check_tightens(in_force, smaller)
    looser(smaller, in_force, name)
    falls = replace(in_force, on_exceeded="fallback", fallback=("search",))
    check_tightens(falls, falls)
    check_tightens(falls, smaller)
    looser(in_force, falls, "on_exceeded")
    looser(falls, replace(falls, **{name: getattr(falls, name) - 1}), name)
    looser(falls, replace(falls, fallback=("search", "other")), "fallback")


@pytest.mark.parametrize(
    "name", ["max_extra_memory_bytes", "max_candidates", "max_added_latency_ms", "max_extra_forward_tokens"]
)
def test_limits_stay_where_a_search_answers_with_the_best_that_they_leave(name):
    unchecked = plan_of(document(f"{SEARCH}, final_check: none, cost_budget: {{value: 0.5}}"))
    check_tightens(unchecked, unchecked)
    smaller = replace(unchecked, **{name: getattr(unchecked, name) - 1})
    looser(unchecked, smaller, "`search` has `final_check: none`")
    with pytest.raises(LooserPolicyError) as caught:
        check_tightens(replace(unchecked, **{name: None}), unchecked)
    assert caught.value.expected == "no limit, because `search` has `final_check: none`"
    looser(smaller, unchecked, name)


def test_the_canonical_example_still_says_what_it_said():
    """Every field that documents with `inference_guard` had before keeps its default."""
    entry = json.loads(document().model_dump_json(by_alias=True))["guidance"][0]
    known = {"candidates": 8, "block_tokens": 8, "keep": 2, "retries": 2, "start": "lazy", "final_check": "cost_model"}
    assert {name: entry[name] for name in known} == known
