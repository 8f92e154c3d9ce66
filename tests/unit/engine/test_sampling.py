"""The guided loop: numbers that are not finite, refused rows, prompts without a header."""

from __future__ import annotations

import json

import pytest
import torch
from tests.guarded_models import (
    TEMPLATE,
    answers,
    blocks_of,
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    run,
    same_rows,
    shared_model,
    split_of,
    splitting_threshold,
    tokenizer,
)

from steerguard.models.chat import pad_batch
from steerguard.testing import EOS_ID, MemorySink


def _poison(model, block, row, *, from_pass=0, value=float("nan")):
    """Put NaN or another value into one row of a block's output, from the n-th forward pass of its life on once it is armed."""
    state = {"pass": None}

    def hook(_module, _inputs, output):
        if state["pass"] is None:
            return None
        state["pass"] += 1
        if state["pass"] <= from_pass:
            return None
        output = output.clone()
        output[row] = value
        return output

    blocks_of(model)[block].register_forward_hook(hook)
    return state


SAMPLING = pytest.mark.parametrize("settings", [{}, {"do_sample": True}], ids=["greedy", "sampled"])


@SAMPLING
@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("threshold", ["closed", "split"])
def test_a_row_that_is_not_finite_where_the_probe_reads_is_refused_and_the_others_are_untouched(
    threshold, block, settings
):
    model = fresh_model()
    value = 1e6 if threshold == "closed" else splitting_threshold()
    settings = {**settings, "max_new_tokens": 30}
    with guarded(model, policy(value), registry=registry_for(shared_model())) as wrapped:
        clean = run(wrapped, prompts(8), **settings)
        state = _poison(model, block, 3)
        state["pass"] = 0
        with wrapped.guard.collect() as reports:
            tokens, _ = run(wrapped, prompts(8), **settings)
        state["pass"] = None
    width = prompts(8)["input_ids"].shape[1]
    assert (reports[3].cause, reports[3].intended, reports[3].applied) == ("non_finite", "refuse", "refuse")
    assert reports[3].readings[0].score is None
    assert reports[3].doses == ()
    assert tokenizer().decode(answers(tokens, width)[3], skip_special_tokens=True) == TEMPLATE
    others = [row for row in range(8) if row != 3]
    assert all(report.cause != "non_finite" for report in reports if report.row != 3)
    assert [answers(tokens, width)[row] for row in others] == [answers(clean[0], width)[row] for row in others]


@SAMPLING
@pytest.mark.parametrize("max_new_tokens", [1, 8])
@pytest.mark.parametrize("from_pass", [0, 2], ids=["prefill", "decode"])
def test_an_open_row_whose_state_stops_being_finite_is_replaced_by_a_refusal(from_pass, max_new_tokens, settings):
    if from_pass and max_new_tokens == 1:
        max_new_tokens = 4
    model = fresh_model()
    settings = {**settings, "max_new_tokens": max_new_tokens, "min_new_tokens": max_new_tokens}
    with guarded(model, policy(-1e6), registry=registry_for(shared_model())) as wrapped:
        clean = run(wrapped, prompts(4), **settings)
        state = _poison(model, 3, 2, from_pass=from_pass)
        state["pass"] = 0
        with wrapped.guard.collect() as reports:
            tokens, _ = run(wrapped, prompts(4), **settings)
        state["pass"] = None
    width = prompts(4)["input_ids"].shape[1]
    assert [report.cause for report in reports] == ["rule", "rule", "non_finite", "rule"]
    assert reports[2].applied == "refuse"
    text = tokenizer().decode(answers(tokens, width)[2], skip_special_tokens=True)
    assert TEMPLATE.startswith(text)
    assert all(answers(tokens, width)[row] == answers(clean[0], width)[row] for row in (0, 1, 3))


@pytest.mark.parametrize(
    "settings", [{}, {"do_sample": True}, {"use_cache": False}], ids=["greedy", "sampled", "uncached"]
)
@pytest.mark.parametrize("earlier", ["closed", "open"])
def test_a_row_with_a_linear_gate_that_is_not_finite_is_refused_and_the_others_keep_every_bit(earlier, settings):
    model = fresh_model()
    document = policy(-1e6, settings="coefficient: 4.0, gate: per_block")
    with guarded(model, document, registry=registry_for(shared_model())) as wrapped:
        with wrapped.guard.collect() as reports:
            clean = run(wrapped, prompts(8), **settings)
        blocks = [report.doses[0].open_blocks if report.doses else () for report in reports]
        row = next(index for index, opened in enumerate(blocks) if (1 in opened) == (earlier == "open"))
        state = _poison(model, 2, row)
        state["pass"] = 0
        with wrapped.guard.collect() as reports:
            found = run(wrapped, prompts(8), **settings)
        state["pass"] = None
    broken = reports[row]
    assert (broken.cause, broken.intended, broken.applied) == ("non_finite", "refuse", "refuse")
    assert [reading.score is None for reading in broken.readings] == [False, False, True]
    assert [dose.open_blocks for dose in broken.doses] == ([(1,)] if earlier == "open" else [])
    width = prompts(8)["input_ids"].shape[1]
    assert TEMPLATE.startswith(tokenizer().decode(answers(found[0], width)[row], skip_special_tokens=True))
    others = [index for index in range(8) if index != row]
    assert same_rows(others, clean, found, width)
    assert [reports[other].cause for other in others] == ["rule"] * 7


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_linear_gate_that_is_not_finite_decides_nothing_where_the_verdict_does_not_guide(value):
    model = fresh_model()
    document = policy(splitting_threshold(), settings="coefficient: 4.0, gate: per_block")
    with guarded(model, document, registry=registry_for(shared_model())) as wrapped:
        with wrapped.guard.collect() as clean:
            run(wrapped, prompts(8))
        state = _poison(model, 2, slice(None), value=value)
        state["pass"] = 0
        with wrapped.guard.collect() as reports:
            run(wrapped, prompts(8))
        state["pass"] = None
    wanted = [("allow", "default") if one.intended == "allow" else ("refuse", "non_finite") for one in clean]
    assert len(set(wanted)) == 2
    assert [(report.applied, report.cause) for report in reports] == wanted


@SAMPLING
def test_two_rows_that_break_at_different_places_are_both_refused(settings):
    model = fresh_model()
    with guarded(model, policy(-1e6), registry=registry_for(shared_model())) as wrapped:
        at_probe, later = _poison(model, 0, 1), _poison(model, 3, 2)
        at_probe["pass"] = later["pass"] = 0
        with wrapped.guard.collect() as reports:
            run(wrapped, prompts(4), max_new_tokens=1, **settings)
        at_probe["pass"] = later["pass"] = None
    assert [report.applied for report in reports] == ["guide", "refuse", "refuse", "guide"]


def test_a_closed_row_whose_own_logits_are_nan_is_left_as_the_unguided_run_has_it():
    model = fresh_model()
    registry = registry_for(shared_model())
    state = _poison(model, 3, 0)
    threshold = splitting_threshold()
    with guarded(model, policy(threshold), registry=registry) as wrapped:
        closed = next(
            report.row
            for report in wrapped.guard.check(
                [[{"role": "user", "content": text}] for text in ("hello there", "how to cook")]
            )
            if report.intended == "allow"
        )
        assert closed == 0
        state["pass"] = 0
        with wrapped.guard.collect() as reports:
            tokens, _ = run(wrapped, prompts(8))
        state["pass"] = None
    state["pass"] = 0
    plain, _ = run(model, prompts(8))
    width = prompts(8)["input_ids"].shape[1]
    assert reports[0].applied == "allow"
    assert any(report.applied == "guide" for report in reports)
    assert answers(tokens, width)[0] == answers(plain, width)[0]


def test_a_closed_row_whose_own_logits_are_nan_cannot_be_sampled_as_in_the_unguided_run():
    model = fresh_model()
    with guarded(model, policy(splitting_threshold()), registry=registry_for(shared_model())) as wrapped:
        state = _poison(model, 3, 0)
        state["pass"] = 0
        with pytest.raises(RuntimeError, match="probability tensor"):
            run(wrapped, prompts(8), do_sample=True)
        state["pass"] = None
        with wrapped.guard.collect() as reports:
            run(wrapped, prompts(8), do_sample=True)
    assert reports[0].applied == "allow"
    assert any(report.applied == "guide" for report in reports)


def test_monitor_mode_leaves_a_broken_row_as_the_unguided_run_has_it():
    model = fresh_model()
    with guarded(model, policy(0.0), registry=registry_for(shared_model()), mode="monitor") as wrapped:
        state = _poison(model, 0, 1)
        state["pass"] = 0
        with wrapped.guard.collect() as reports:
            watched = run(wrapped, prompts(3))
    state["pass"] = 0
    plain = run(model, prompts(3))
    assert (reports[1].intended, reports[1].applied, reports[1].cause) == ("refuse", "allow", "non_finite")
    assert torch.equal(watched[0], plain[0])
    assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(watched[1], plain[1], strict=True))
    assert torch.isnan(watched[1][0][1]).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_refused_row_holds_the_template_as_if_generated(side):
    model = shared_model()
    batch = prompts(8, side)
    width = batch["input_ids"].shape[1]
    plain, _ = run(model, batch, max_new_tokens=40)
    with guarded(model, policy(split_of(model, 8, side), "refuse")) as wrapped, wrapped.guard.collect() as reports:
        tokens, _ = run(wrapped, batch, max_new_tokens=40)
    template = tokenizer()(TEMPLATE, add_special_tokens=False)["input_ids"]
    refused = [report.row for report in reports if report.applied == "refuse"]
    assert 0 < len(refused) < 8
    for row in range(8):
        assert torch.equal(tokens[row, :width], batch["input_ids"][row])
        if row in refused:
            generated = tokens[row, width:].tolist()
            assert generated[: len(template) + 1] == [*template, EOS_ID]
            assert set(generated[len(template) + 1 :]) <= {0}
            assert not reports[row].template_cut
            assert reports[row].usage.generated_tokens == len(template) + 1
        else:
            assert answers(tokens, width)[row] == answers(plain, width)[row]


@pytest.mark.parametrize("limit", [1, 2, 5, 9, 16, 23, 24, 25, 26])
def test_a_template_that_does_not_fit_is_cut_at_a_word_and_said_so(limit):
    with guarded(shared_model(), policy(-1e6, "refuse")) as wrapped, wrapped.guard.collect() as reports:
        tokens, _ = run(wrapped, prompts(2), max_new_tokens=limit)
    width = prompts(2)["input_ids"].shape[1]
    assert tokens.shape[1] - width <= limit
    text = tokenizer().decode(tokens[0, width:], skip_special_tokens=True)
    whole = len(tokenizer()(TEMPLATE)["input_ids"])
    assert [report.template_cut for report in reports] == [limit < whole] * 2
    assert (text == TEMPLATE) == (limit >= whole)
    assert text == "" or text in [" ".join(TEMPLATE.split(" ")[:count]) for count in range(1, 6)]


def test_a_batch_of_refused_rows_runs_exactly_one_forward_pass():
    model = shared_model()
    passes = []
    with guarded(model, policy(-1e6, "refuse")) as wrapped:
        handle = blocks_of(model)[0].register_forward_hook(lambda *_: passes.append(None))
        run(wrapped, prompts(4), max_new_tokens=40)
        handle.remove()
    assert len(passes) == 1


def test_without_an_end_of_sequence_the_template_stands_alone():
    model = fresh_model()
    model.generation_config.eos_token_id = None
    batch = prompts(2)
    with guarded(model, policy(-1e6, "refuse"), registry=registry_for(shared_model())) as wrapped:
        tokens, _ = run(wrapped, batch, max_new_tokens=40, eos_token_id=None)
    template = tokenizer()(TEMPLATE, add_special_tokens=False)["input_ids"]
    assert tokens[0, batch["input_ids"].shape[1] :].tolist() == template


def test_with_several_end_tokens_the_row_ends_with_the_first():
    batch = prompts(2)
    with guarded(shared_model(), policy(-1e6, "refuse")) as wrapped:
        tokens, _ = run(wrapped, batch, max_new_tokens=40, eos_token_id=[5, EOS_ID])
    assert tokens[0, -1].item() == 5


def _mixed_prompts():
    ids = [row[mask.bool()].tolist() for row, mask in zip(*prompts(2).values(), strict=True)]
    raw = tokenizer()("no header at all")["input_ids"]
    return pad_batch([ids[0], raw, ids[1]], tokenizer())


def test_a_prompt_without_a_header_is_refused_and_its_neighbours_are_untouched():
    model = shared_model()
    batch = _mixed_prompts()
    plain, _ = run(model, batch)
    with guarded(model, policy(1e6)) as wrapped, wrapped.guard.collect() as reports:
        tokens, _ = run(wrapped, batch)
    width = batch["input_ids"].shape[1]
    assert [report.cause for report in reports] == ["default", "unrecognised_prompt", "default"]
    assert [report.applied for report in reports] == ["allow", "refuse", "allow"]
    assert reports[1].readings == ()
    assert all(answers(tokens, width)[row] == answers(plain, width)[row] for row in (0, 2))


def test_a_prompt_without_a_header_passes_when_the_policy_says_so_and_each_use_is_recorded():
    model = shared_model()
    batch = _mixed_prompts()
    plain, _ = run(model, batch)
    sink = MemorySink()
    loosened = "unrecognised_prompt: {action: allow, reason: completions are reviewed by hand, expires: 2999-12-31}"
    with (
        guarded(model, policy(1e6, more=loosened), audit=memory_log(sink)) as wrapped,
        wrapped.guard.collect() as reports,
    ):
        tokens, _ = run(wrapped, batch)
        records = [json.loads(line) for line in sink.lines]
    assert torch.equal(tokens, plain)
    assert (reports[1].applied, reports[1].cause) == ("allow", "unrecognised_prompt")
    (bypass,) = [record for record in records if record["type"] == "guard.bypass"]
    assert (bypass["kind"], bypass["req"]) == ("unrecognised_prompt", reports[1].request)
    assert (bypass["reason"], bypass["expires"]) == ("completions are reviewed by hand", "2999-12-31")


def test_a_prompt_without_a_header_is_never_steered_by_a_rule_that_always_matches():
    rules = """
rules:
  - {id: r, when: {always: true}, then: {action: guide, use: [steer]}}
default: {action: allow}"""
    with guarded(shared_model(), policy(rules=rules, detector=False)) as wrapped, wrapped.guard.collect() as reports:
        run(wrapped, _mixed_prompts())
    assert [report.applied for report in reports] == ["guide", "refuse", "guide"]
    assert [bool(report.doses) for report in reports] == [True, False, True]


def test_a_batch_over_the_memory_budget_is_refused_row_by_row():
    model = fresh_model("llama", hidden_size=256, num_blocks=16)
    registry = registry_for(model, steered_blocks=tuple(range(1, 16)))
    with guarded(model, policy(-1e6, more="budget: {max_extra_memory_mib: 1}"), registry=registry) as wrapped:
        assert wrapped.guard.plan.cost.extra_bytes(1) < 2**20 < wrapped.guard.plan.cost.extra_bytes(70)
        with wrapped.guard.collect() as few:
            run(wrapped, prompts(1), max_new_tokens=2)
        with wrapped.guard.collect() as many:
            batch = {name: tensor.repeat(70, 1) for name, tensor in prompts(1).items()}
            run(wrapped, batch, max_new_tokens=2)
    assert [report.applied for report in few] == ["guide"]
    assert {(report.applied, report.cause, report.doses) for report in many} == {("refuse", "budget", ())}


def test_a_dictionary_output_carries_the_reports_and_the_cache():
    model = shared_model()
    plain = model.generate(**prompts(3), max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    with guarded(model, policy(1e6)) as wrapped:
        output = wrapped.generate(**prompts(3), max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    assert type(output) is type(plain)
    assert torch.equal(output.sequences, plain.sequences)
    assert type(output.past_key_values) is type(plain.past_key_values)
    assert output.past_key_values.get_seq_length() == plain.past_key_values.get_seq_length()
    assert [report.row for report in output.guidance] == [0, 1, 2]
    assert len({report.request for report in output.guidance}) == 1
