import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from tests.text_judges import ANSWERS, PROMPTS, inputs

from steerguard.critics.callable_cost import CallableCost
from steerguard.critics.cost import CostInputs
from steerguard.errors import CostModelError, GuidanceError

SECRET = "the words of a user"


def cost_of(judge, prompts=PROMPTS, answers=ANSWERS):
    model = CallableCost(name="mine", unit="words", threshold=3.0, judge=judge)
    assert model.blocks == ()
    return model.cost(inputs(prompts, answers))


def returning(values):
    return lambda *_: values


def test_the_numbers_of_the_callable_are_the_costs_in_order():
    found = cost_of(lambda prompts, answers: [len(p) - len(a) for p, a in zip(prompts, answers, strict=True)])
    assert found.dtype == torch.float32
    assert found.tolist() == [len(p) - len(a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, iter, lambda v: np.array(v, dtype=np.float16)])
def test_sequences_arrays_tensors_and_iterators_are_numbers_alike(kind):
    assert cost_of(returning(kind([1.0, 2.5, -3.0, 0.0]))).tolist() == [1.0, 2.5, -3.0, 0.0]


def test_an_empty_answer_is_not_judged_and_costs_nan():
    seen = []

    def judge(prompts, answers):
        seen.append((list(prompts), list(answers)))
        return [7.0] * len(answers)

    found = cost_of(judge, ("a", "b", "c"), ("x", "", "z"))
    assert seen == [(["a", "c"], ["x", "z"])]
    assert found[[0, 2]].tolist() == [7.0, 7.0]
    assert math.isnan(found[1])
    assert cost_of(judge, ("a",), ("",)).isnan().all()
    assert len(seen) == 1


def test_a_raising_callable_is_a_guidance_error_with_its_cause_and_without_text():
    cause = KeyError(SECRET)

    def judge(prompts, answers):
        raise cause

    with pytest.raises(CostModelError, match="KeyError") as caught:
        cost_of(judge, (SECRET,), ("x",))
    assert isinstance(caught.value, GuidanceError)
    assert caught.value.__cause__ is cause
    assert SECRET not in str(caught.value)


def test_a_result_that_raises_while_it_is_read_is_translated_too():
    def judge(prompts, answers):
        yield 1.0
        raise OSError(SECRET)

    with pytest.raises(CostModelError, match="OSError") as caught:
        cost_of(judge)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError, KeyboardInterrupt])
def test_out_of_memory_and_interrupts_pass_as_they_are(error):
    def judge(prompts, answers):
        raise error

    with pytest.raises(error):
        cost_of(judge)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39, 10**400])
def test_a_number_that_is_not_finite_in_float32_is_refused(value):
    with pytest.raises(CostModelError, match="not finite"):
        cost_of(returning([0.0, value, 1.0, 2.0]))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1.0], "1"),
        ([1.0] * 5, "5"),
        ([], "0"),
        (None, "NoneType"),
        (1.0, "float"),
        (torch.tensor(1.0), "Tensor"),
        ("1234", "str"),
        ({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}, "dict"),
        ([True, False, True, False], "bool"),
        (["1", "2", "3", "4"], "str"),
        ([None] * 4, "NoneType"),
        ([Decimal(1)] * 4, "Decimal"),
        (torch.zeros(4, 1), "list"),
    ],
)
def test_anything_but_one_number_per_answer_is_refused(values, found):
    with pytest.raises(CostModelError, match="something else than one number per answer") as caught:
        cost_of(returning(values))
    assert caught.value.found == found


def test_rows_must_match_and_be_text():
    judge = returning([1.0])
    with pytest.raises(CostModelError, match="one prompt per answer"):
        cost_of(judge, ("a", "b"), ("x",))
    with pytest.raises(CostModelError, match="reads text"):
        cost_of(judge, ("a",), (b"x",))
    model = CallableCost(name="mine", unit="words", threshold=3.0, judge=judge)
    with pytest.raises(CostModelError, match="text of every answer"):
        model.cost(CostInputs(means=torch.zeros(2, 1, 4)))


async def asynchronous(prompts, answers):
    return [0.0] * len(answers)


@pytest.mark.parametrize(
    "changes",
    [{"name": ""}, {"unit": ""}, {"threshold": math.nan}, {"threshold": True}, {"judge": 3}, {"judge": asynchronous}],
)
def test_what_is_no_cost_model_is_refused_when_it_is_made(changes):
    with pytest.raises(CostModelError, match="not a cost model"):
        CallableCost(**{"name": "mine", "unit": "words", "threshold": 1.0, "judge": returning([])} | changes)
