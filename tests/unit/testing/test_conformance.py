"""`assert_conforms` passes for every available method, and names the guarantee that a broken one breaks."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal

import pytest
import torch
from tests.support_table import METHODS as TABLE

from steerguard.errors import ConformanceError, SteerguardError, UnknownMethodError, UnsupportedPlanError
from steerguard.guidance.intervention import Constant, Intervention, VerdictGate
from steerguard.guidance.refusal_direction.bind import bind as bind_direction
from steerguard.methods.catalog import METHODS
from steerguard.methods.spec import Footprint, GuidanceSpec
from steerguard.models.blocks import decoder_blocks
from steerguard.testing import assert_conforms, tiny_model
from steerguard.testing.model_state import state_difference, state_of
from steerguard.testing.trial import STEP

SETTINGS = {
    **TABLE,
    "inferaligner": (*TABLE["inferaligner"], {"coefficient": 4.0, "gate": "per_block", "positions": "decode"}),
}
CASES = [(method, settings) for method, variants in SETTINGS.items() for settings in variants]


def test_every_available_method_is_tried():
    assert set(SETTINGS) == {method.name for method in METHODS if not method.searches}


@pytest.mark.parametrize(("method", "settings"), CASES, ids=str)
def test_every_available_method_conforms(method, settings):
    model = tiny_model("llama")
    before = state_of(model)
    assert_conforms(method, model, settings=settings)
    difference = state_difference(before, state_of(model))
    # The first generation fills in what the library keeps of its settings.
    assert difference is None or "attributes" in difference


class OwnSpec(GuidanceSpec):
    """A method that is in no catalog: it needs no artifact and adds one vector."""

    method: Literal["own"] = "own"
    coefficient: float = 1.0

    def artifact_needs(self):
        return ()

    def features(self):
        return frozenset({"operator.add"})

    def footprint(self, parameters):
        return Footprint(steered_blocks=(2,), read_blocks=(), strength="1.0", positions="all")

    def needs_buffered_stream(self):
        return False

    def summary(self):
        return "adds one vector"


def _add_own(step, _artifacts):
    return [_item(step, torch.full((32,), float(step.coefficient)))] if float(step.coefficient) else []


def test_a_method_of_ones_own_is_an_entry_and_a_binder():
    assert_conforms(OwnSpec(id=STEP), tiny_model("gpt2"), bind=_add_own)
    with pytest.raises(UnknownMethodError):
        assert_conforms(OwnSpec(id=STEP), tiny_model("gpt2"))


def test_a_method_that_searches_and_one_that_does_not_exist_are_refused():
    with pytest.raises(UnsupportedPlanError, match="inference_guard"):
        assert_conforms("inference_guard", tiny_model("llama"))
    with pytest.raises(UnknownMethodError):
        assert_conforms("no_such_method", tiny_model("llama"))
    with pytest.raises(ConformanceError, match="no such guarantee"):
        assert_conforms("fitted_refusal", tiny_model("llama"), guarantees=[5])


def test_a_pass_before_the_prefill_leaves_a_cache_of_another_name_alone():
    assert_conforms("refusal_direction", tiny_model("falcon_mamba"), settings={"mode": "ablate"}, guarantees=[1, 7])


def test_a_kernel_that_mixes_rows_needs_a_tolerance():
    model = tiny_model("mixtral")
    assert_conforms("fitted_refusal", model, row_tolerance=1e-4, guarantees=[1])


def _broken(bind, guarantees, *, settings=None, model=None):
    """Try a method whose binder may do anything to the model; return the error."""
    model = model or tiny_model("llama")
    with pytest.raises(ConformanceError) as caught:
        assert_conforms(
            "refusal_direction",
            model,
            settings=settings or {"coefficient": 4.0},
            bind=lambda step, artifacts: bind(model, step, artifacts),
            guarantees=guarantees,
        )
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, SteerguardError)
    return caught.value


ALL = (1, 2, 3, 4, 6, 7, 8)


def test_a_method_that_ignores_the_gate_breaks_guarantee_1():
    def bind(model, step, artifacts):
        decoder_blocks(model)[2].register_forward_hook(lambda _module, _inputs, output: output + 1.0)
        return bind_direction(step, artifacts)

    error = _broken(bind, ALL)
    assert "Guarantee 1, neutral is identity" in error.summary
    assert error.where.startswith("row ")
    assert error.expected == "the bits of the unguided run"


def test_a_method_that_acts_at_coefficient_zero_breaks_guarantee_1():
    def bind(_model, step, _artifacts):
        # A gate that is open adds to every bit, also at coefficient 0.
        return [_item(step, torch.ones(32), block=block) for block in step.blocks]

    error = _broken(bind, ALL)
    assert "a coefficient of 0 changed a row" in error.summary


def test_a_method_that_steers_padding_breaks_guarantee_2():
    def bind(model, step, artifacts):
        def act(_module, inputs, output):
            if output.shape[1] == 1:
                return None
            # The longest row has no padding, and all others begin with some.
            changed = output.clone()
            changed[3, 0] += 5.0
            return changed

        decoder_blocks(model)[1].register_forward_hook(act)
        return bind_direction(step, artifacts)

    error = _broken(bind, [2])
    assert "padding was changed" in error.summary
    assert error.where == "row 3, column 0, padding left, in front of block 2"


def test_a_method_that_remembers_other_calls_breaks_guarantee_3():
    def bind(model, step, artifacts):
        # What a row gets depends on how many rows there are.
        decoder_blocks(model)[2].register_forward_hook(lambda _module, _inputs, output: output * output.shape[0] ** 0.5)
        return bind_direction(step, artifacts)

    error = _broken(bind, [3])
    assert "Guarantee 3" in error.summary


def test_a_method_that_leaves_a_hook_breaks_guarantee_4():
    def bind(model, step, artifacts):
        decoder_blocks(model)[1].register_forward_hook(lambda *_: None)
        return bind_direction(step, artifacts)

    error = _broken(bind, [4])
    assert "Guarantee 4, no trace" in error.summary
    assert error.found == "hooks of `model.layers.1` _forward_hooks: 0 before, 1 after"
    assert error.where == "after the guard was taken off"


def test_a_method_that_changes_a_weight_breaks_guarantee_4():
    def bind(model, step, artifacts):
        model.lm_head.weight.data[0, 0] += 1.0
        return bind_direction(step, artifacts)

    error = _broken(bind, [4])
    assert "lm_head.weight" in error.found


def _item(step, vector, block=2):
    schedule = Constant(vector=vector, positions="all")
    return Intervention(step=step.id, block=block, schedule=schedule, gate=VerdictGate())


def test_a_method_that_counts_positions_it_does_not_change_breaks_guarantee_6():
    error = _broken(
        lambda _model, step, _artifacts: [_item(step, torch.zeros(32), block=block) for block in (1, 2)], ALL
    )
    assert "Guarantee 6" in error.summary
    assert (error.expected, error.found) == ("in front of block 2", "nowhere")


def test_a_method_that_changes_positions_it_does_not_count_breaks_guarantee_6():
    def bind(model, step, artifacts):
        def act(_module, _inputs, output):
            # Only in decode steps, and only in a row that is open anyway: no closed row shows it.
            return output + 1.0 if output.shape[1] == 1 else None

        decoder_blocks(model)[1].register_forward_hook(act)
        return bind_direction(step, artifacts)

    error = _broken(bind, [6], settings={"coefficient": 4.0, "positions": "prefill"})
    assert "other positions were changed" in error.summary


def test_a_method_that_steers_another_block_than_it_declares_breaks_guarantee_6():
    def bind(_model, step, _artifacts):
        return [_item(step, torch.ones(32), block=3)]

    error = _broken(bind, [6])
    assert "Guarantee 6" in error.summary
    assert (error.expected, error.found) == ("blocks 1, 2", "block 3")


def test_a_method_that_runs_a_block_again_breaks_guarantee_7():
    def bind(model, step, artifacts):
        inside = []

        def again(module, inputs, named, _output):
            if not inside:
                inside.append(1)
                module(*inputs, **{**named, "past_key_values": None, "attention_mask": None})
                inside.clear()

        decoder_blocks(model)[3].register_forward_hook(again, with_kwargs=True)
        return bind_direction(step, artifacts)

    error = _broken(bind, [7])
    assert "Guarantee 7, the cost is as stated" in error.summary
    assert error.where == "block 3"


def test_a_method_that_hides_what_is_not_finite_breaks_guarantee_8():
    def bind(model, step, artifacts):
        # In front of the head, so that no logit shows what the blocks made.
        model.model.norm.register_forward_pre_hook(lambda _module, inputs: (inputs[0].nan_to_num(),))
        return bind_direction(step, artifacts)

    error = _broken(bind, [8])
    assert "Guarantee 8" in error.summary
    assert error.where == "row 0, decode"
    assert (error.expected, error.found) == ("refuse for the cause non_finite", "guide for the cause rule")


def test_it_needs_no_test_runner():
    code = (
        "import sys; from steerguard.testing import assert_conforms, tiny_model;"
        "assert_conforms('fitted_refusal', tiny_model('llama'), guarantees=[1, 6]);"
        "print('pytest' in sys.modules or any(name.split('.')[0] == 'tests' for name in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip().endswith("False")
