"""The model's own answers: forced beginnings are drawn alike for every set, and refusals are left out."""

from __future__ import annotations

import torch

from steerguard.build.answers import AnsweredPrompts, drawn_begins, not_refused
from steerguard.build.contrast import PromptSet
from steerguard.build.donor import end_of_turn, own_answers
from steerguard.build.recipe_answers import AnswerSettings
from steerguard.models.chat import encode_prompts
from steerguard.testing import tiny_model

BEGINS = ("Sure", "Of course", "First")
SETTINGS = AnswerSettings(tokens=8, begin=BEGINS, begin_share=0.5)


def answered(tokenizer, texts):
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    ids = torch.full((len(rows), max(map(len, rows)) + 1), -1)
    for index, row in enumerate(rows):
        ids[index, : len(row) + 1] = torch.tensor([*row, end_of_turn(tokenizer)])
    prompts = PromptSet(
        ids=tuple(map(str, range(len(rows)))),
        kinds=("kind",) * len(rows),
        splits=("build",) * len(rows),
        conversations=(({"role": "user", "content": "x"},),) * len(rows),
    )
    return AnsweredPrompts(prompts=prompts, begins=(None,) * len(rows), ids=ids)


def test_beginnings_are_the_same_for_the_same_seed_and_for_every_set():
    drawn = drawn_begins(4000, SETTINGS, seed=7)
    assert drawn == drawn_begins(4000, SETTINGS, seed=7)
    assert drawn[:100] == drawn_begins(100, SETTINGS, seed=7)
    assert drawn != drawn_begins(4000, SETTINGS, seed=8)
    assert 1800 < sum(begin is not None for begin in drawn) < 2200
    assert all(550 < drawn.count(begin) < 800 for begin in BEGINS)
    assert set(drawn_begins(50, AnswerSettings(tokens=8), seed=0)) == {None}


def test_an_answer_follows_its_forced_beginning(chatml_tokenizer):
    model, chats = tiny_model("llama").eval(), [[{"role": "user", "content": text}] for text in ("one", "two, longer")]
    found = own_answers(
        model, chatml_tokenizer, chats, tokens=5, batch_size=2, progress=lambda _done: None, begins=["Sure", None]
    )
    for chat, begin, ids in zip(chats, ("Sure", None), found, strict=True):
        prompt = torch.tensor([encode_prompts(chatml_tokenizer, [chat], [begin])[0].ids])
        alone = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False
        )
        kept = ids[ids >= 0]
        assert kept.tolist() == alone[0, prompt.shape[1] :][: len(kept)].tolist()


def test_lengths_leave_out_the_end_of_the_turn_and_refusals_teach_nothing(chatml_tokenizer):
    texts = ("I'm sorry, but I can't help with that.", "First take the key.", "I cannot help. Ask another.")
    some = answered(chatml_tokenizer, texts)
    assert some.lengths(chatml_tokenizer) == [
        len(chatml_tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts
    ]
    kept = not_refused(some, chatml_tokenizer)
    assert kept.prompts.ids == ("1",)
    assert torch.equal(kept.ids[0], some.ids[1])
