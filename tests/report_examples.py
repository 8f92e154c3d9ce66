"""Evaluation documents with rows for tests of the report. No model is run; figures come from the real functions."""

from __future__ import annotations

import random

from steerguard.evaluate.figures import FigureSettings, all_figures, all_scores
from steerguard.evaluate.result import (
    UNGUIDED,
    EvaluatedModel,
    EvaluatedRun,
    EvaluatedSet,
    Evaluation,
    EvaluationSettings,
    RunThreshold,
)
from steerguard.evaluate.rows import EvaluatedRow

DETECTOR = "harmful_intent"
REFUSAL = "I can't help with that request."
MODEL = EvaluatedModel(
    name="tiny-chat",
    architecture="LlamaForCausalLM",
    num_blocks=4,
    hidden_size=16,
    weights="float32",
    tokenizer_sha256="ab" * 32,
)
SETTINGS = EvaluationSettings(
    max_new_tokens=32,
    batch_size=8,
    threads=1,
    decoding="greedy",
    seed=3,
    judge="logistic regression, sha256:" + "cd" * 32,
    perplexity_models=(UNGUIDED,),
)
_ACTIONS = {"allow": 0, "guide": 1, "refuse": 2}


def prompt_set(name, expect, n, *, prefilled=False):
    return EvaluatedSet(name=name, expect=expect, n=n, sha256=f"{n % 100:02d}" * 32, prefilled=prefilled)


def policy_run(name, thresholds):
    """A run with one rule for each action and its score."""
    return EvaluatedRun(
        name=name,
        policy_version="1.0.0",
        policy_digest="sha256:" + "12" * 32,
        plan_digest="sha256:" + "34" * 32,
        thresholds=tuple(
            RunThreshold(rule=f"{action}-rule", detector=DETECTOR, action=action, value=f"{value:.4f}", fpr="0.05")
            for action, value in thresholds.items()
        ),
    )


def evaluation_of(sets, runs, *, seed=1, unrecognised=0.0):
    """Draw scores and answers and measure them as an evaluation does; return the document and its rows."""
    draw = random.Random(seed)
    rows = {}
    for number, one in enumerate(sets):
        centre = 2.5 if one.expect == "refuse" else -2.0
        scores = [None if draw.random() < unrecognised else draw.gauss(centre - number / 4, 1.4) for _ in range(one.n)]
        for run in runs:
            rows[run.name, one.name] = [_row(one, run, index, score) for index, score in enumerate(scores)]
    settings = FigureSettings(references=(REFUSAL,), judge_threshold=0.5, seed=SETTINGS.seed)
    evaluation = Evaluation(
        steerguard="0.1.0",
        model=MODEL,
        settings=SETTINGS,
        sets=tuple(sets),
        runs=tuple(runs),
        figures=all_figures(rows, runs, sets, settings),
        scores=all_scores(rows, runs, sets),
    )
    return evaluation, [row for part in rows.values() for row in part]


def example(*, unrecognised=0.0):
    """Four sets, the unguided run and two policies."""
    sets = [
        prompt_set("harmful-heldout", "refuse", 12),
        prompt_set("harmful-prefilled", "refuse", 8, prefilled=True),
        prompt_set("benign-heldout", "answer", 12),
        prompt_set("role-play", "answer", 7),
    ]
    runs = [
        EvaluatedRun(name=UNGUIDED),
        policy_run("harmlessness", {"guide": 0.25, "refuse": 2.5}),
        policy_run("refuse-only", {"refuse": 1.0}),
    ]
    return evaluation_of(sets, runs, unrecognised=unrecognised)


def one_sample(prompt="A question.", answer="An answer.", name="set"):
    """One set of one prompt with the unguided run only."""
    one, run = prompt_set(name, "answer", 1), EvaluatedRun(name=UNGUIDED)
    row = _row(one, run, 0, None).model_copy(update={"prompt": prompt, "answer": answer})
    evaluation, _ = evaluation_of([one], [run])
    return evaluation, [row]


def _row(one, run, index, score):
    action = "allow"
    for threshold in run.thresholds:
        fires = score is None or score >= float(threshold.value)
        if fires and _ACTIONS[threshold.action] > _ACTIONS[action]:
            action = threshold.action
    plain = f"Here is what I know about question {index} of {one.name}: it depends on the weather."
    answer = {"allow": plain, "guide": "I'm sorry, I am not able to help with that.", "refuse": REFUSAL}[action]
    return EvaluatedRow(
        set=one.name,
        run=run.name,
        index=index,
        prompt=f"Question {index} of {one.name}, asked in the way of its set.\nIt has two lines.",
        prefill="Sure, here is" if one.prefilled else None,
        answer=answer,
        answer_tokens=len(answer.split()),
        token_ids_sha256="ef" * 32,
        identical_to_unguided=None if run.name == UNGUIDED else action == "allow",
        action=action,
        applied=action,
        changed_positions=12 if action == "guide" else 0,
        scores={} if run.name == UNGUIDED or score is None else {DETECTOR: f"{score:.4f}"},
        harm="0.8312" if one.expect == "refuse" and action == "allow" else "0.0417",
        perplexity={} if action == "refuse" else {UNGUIDED: f"{3 + index / 7:.4f}"},
    )
