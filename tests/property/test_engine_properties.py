"""Properties of the engine's pure parts."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.guarded_models import tokenizer

from steerguard.detect.linear_probe import LinearProbe
from steerguard.engine.refusal import RefusalTemplate, replace_rows
from steerguard.guidance.inferaligner.formula import mean_difference, midpoint_bias
from steerguard.guidance.vector_schedules import shift

WORDS = st.text(st.characters(codec="ascii", categories=("L", "P", "N")), min_size=1, max_size=6)


@given(words=st.lists(WORDS, min_size=1, max_size=6), limit=st.integers(0, 40), end=st.none() | st.just(2))
def test_a_fitted_template_is_the_longest_run_of_whole_words_within_the_limit(words, limit, end):
    text = " ".join(words)
    fitted = RefusalTemplate(text, tokenizer()).fit(limit, end)
    assert len(fitted.ids) <= limit
    ids = fitted.ids[:-1] if fitted.ids and fitted.ids[-1] == end else fitted.ids
    found = tokenizer().decode(ids)
    prefixes = [" ".join(words[:count]) for count in range(len(words) + 1)]
    assert found in prefixes
    assert fitted.cut == (found != text)
    longer = [prefix for prefix in prefixes if len(tokenizer()(prefix)["input_ids"]) <= limit]
    assert found == longer[-1]


@given(
    rows=st.integers(1, 4),
    width=st.integers(0, 5),
    replaced=st.dictionaries(st.integers(0, 3), st.lists(st.integers(3, 9), max_size=7).map(tuple), min_size=1),
)
def test_replacing_rows_keeps_prompts_and_every_other_row(rows, width, replaced):
    replaced = {row: ids for row, ids in replaced.items() if row < rows} or {0: (5,)}
    sequences = torch.arange(100, 100 + rows * (3 + width)).reshape(rows, 3 + width)
    result = replace_rows(sequences, prompt_width=3, rows=replaced, pad=0)
    for row in range(rows):
        assert torch.equal(result[row, :3], sequences[row, :3])
        generated = result[row, 3:].tolist()
        wanted = list(replaced[row]) if row in replaced else sequences[row, 3:].tolist()
        assert generated[: len(wanted)] == wanted
        assert set(generated[len(wanted) :]) <= {0}
    longest = max(len(ids) for ids in replaced.values())
    assert result.shape[1] - 3 == (longest if len(replaced) == rows else max(width, longest))


@given(seed=st.integers(0, 999), rows=st.integers(1, 9), blocks=st.integers(1, 4))
def test_a_probe_scores_a_row_by_itself_bit_by_bit(seed, rows, blocks):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(blocks, 24, generator=generator)
    bias = torch.randn(blocks, generator=generator)
    probe = LinearProbe(id="d", blocks=tuple(range(blocks)), over=("end",) * blocks, weight=weight, bias=bias)
    states = torch.randn(rows, blocks, 24, generator=generator)
    together = probe.score(states)
    assert torch.equal(together, torch.cat([probe.score(states[row : row + 1]) for row in range(rows)]))
    reference = ((states.double() * weight.double()).sum(-1) + bias.double()).mean(1)
    assert torch.allclose(together.double(), reference, atol=1e-4)


@given(seed=st.integers(0, 999), coefficient=st.floats(0, 8), strength=st.floats(0.125, 4))
def test_a_shift_is_linear_in_coefficient_and_strength(seed, coefficient, strength):
    theta = torch.randn(16, generator=torch.Generator().manual_seed(seed))
    found = shift(theta, strength=strength, coefficient=coefficient)
    assert torch.allclose(found, theta * coefficient * strength, rtol=1e-6)
    assert torch.equal(shift(theta, strength=strength, coefficient=0.0), torch.zeros(16))


@given(seed=st.integers(0, 999), harmful=st.integers(1, 6), harmless=st.integers(1, 6))
def test_the_midpoint_bias_puts_the_class_means_at_equal_distance_on_both_sides(seed, harmful, harmless):
    generator = torch.Generator().manual_seed(seed)
    bad = torch.randn(harmful, 3, 8, generator=generator) + 1
    good = torch.randn(harmless, 3, 8, generator=generator)
    srv = torch.nn.functional.normalize(mean_difference(bad, good), dim=-1)
    bias = midpoint_bias(srv, bad, good)
    over = (srv * bad.mean(0)).sum(-1) + bias
    under = (srv * good.mean(0)).sum(-1) + bias
    assert (over >= 0).all()
    assert torch.allclose(over, -under, atol=1e-5)
