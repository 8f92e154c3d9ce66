from __future__ import annotations

import pytest

from steerguard.audit.reading.gates import gated_step


@pytest.mark.parametrize(
    ("source", "step"),
    [("align/block 10", "align"), ("a/b/block 3", "a/b"), ("harmful_intent", None), ("align", None), ("a/b", None)],
)
def test_a_source_names_the_step_of_its_gate(source, step):
    assert gated_step(source) == step
