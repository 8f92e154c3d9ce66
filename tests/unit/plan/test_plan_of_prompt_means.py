"""Plans of probes that read prompt means: passes, cost, words."""

from __future__ import annotations

import pytest
from tests.guarded_models import policy, registry_for, shared_model, tokenizer

from steerguard.artifacts.probe_params import probe_parts
from steerguard.models.inspect import inspect_model
from steerguard.plan.compile import compile_plan
from steerguard.plan.describe import describe
from steerguard.plan.resolve import resolve_artifacts
from steerguard.registry.local import embedded_registry

PARTS = {"probe_blocks": (0, 1, 1), "probe_over": ("prompt_mean", "end", "prompt_mean")}


def plan_of(document, **parts):
    model = shared_model()
    facts = inspect_model(model, tokenizer())
    return compile_plan(document, facts, resolve_artifacts(document, facts, registry_for(model, **parts)))


def test_a_block_that_is_read_in_two_ways_holds_two_weight_rows_and_one_hook():
    means, ends = plan_of(policy(), **PARTS), plan_of(policy())
    assert (means.detectors[0].blocks, means.detectors[0].over) == (PARTS["probe_blocks"], PARTS["probe_over"])
    assert ends.detectors[0].over == ("end", "end")
    assert means.cost.resident_bytes == ends.cost.resident_bytes + 4 * 32
    assert means.cost.hooked_blocks_prefill == ends.cost.hooked_blocks_prefill
    assert means.document()["detectors"][0]["over"] == list(PARTS["probe_over"])


@pytest.mark.parametrize(("first_steered", "passes"), [(1, 1), (0, 2)])
def test_a_plan_is_one_pass_when_no_part_lies_above_the_first_steered_block(first_steered, passes):
    parts = {"probe_blocks": (0, 1), "probe_over": ("end", "prompt_mean")}
    settings = f"coefficient: 1.0, blocks: [{first_steered}]"
    assert plan_of(policy(settings=settings), **parts).cost.passes == passes


def test_a_plan_says_in_words_which_blocks_are_read_in_which_way():
    assert (
        "Detector d reads blocks 1 at the end of the generation prompt and the prompt mean of blocks 0-1."
        in describe(plan_of(policy(), **PARTS))
    )
    assert "Detector d reads blocks 0-1 at the end of the generation prompt." in describe(plan_of(policy()))


def test_the_probe_in_the_package_reads_ends_and_means_up_to_block_16():
    pins = {pin.version: pin for pin in embedded_registry().pinned("harmful-intent")}
    assert probe_parts(pins["2.1.0"].manifest) == tuple(
        (block, over) for block in (12, 14, 16) for over in ("end", "prompt_mean")
    )
