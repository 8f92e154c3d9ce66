"""Write the figures of README and docs from `benchmarks/results`, so that none is typed.

    python benchmarks/figures.py --write     # rewrite every block
    python benchmarks/figures.py --check     # exit 1 when a block is not what the results say

A block begins with `<!-- figures:NAME PREFIX… -->` and ends with `<!-- /figures -->`. NAME is a result file without its
ending. The prefixes choose rows by id (`effect`: the figure's id, `calibration`: the pool, `build_times`: the recipe,
`judge`: the group of figures, `score_spread`: the model, `near_thresholds`: the set of prompts, `critic`: budget and length, `search` and what begins
so: set and method, with baseline, rows and reading in `search_compared`, the bar in `search_bars`, `overhead`,
`overhead_compiled` and `evaluate_speed`: the first column, `registry_speed`: `verify` or `resolve`, `audit_cost`: event, way and `signed`); without one, all rows are shown. A result or row that is missing is shown as not
measured, and named on standard error.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import audit_figures

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NOT_MEASURED = "Not measured in this state of the project."
_BLOCK = re.compile(r"(<!-- figures:([a-z_]+)((?: [\w.-]+)*) -->\n).*?(<!-- /figures -->)", re.DOTALL)
_MARKER = re.compile(r"<!-- /?figures")

Row = tuple[str, Sequence[str]]
"""Id, which prefixes choose by, and cells."""
Table = tuple[Sequence[str], Sequence[Row]]
"""Heads of the columns, and rows."""


def main() -> None:
    """Rewrite or check every page; 1 on drift."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder with README.md and docs")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", action="store_true")
    mode.add_argument("--check", action="store_true")
    options = parser.parse_args()
    drifted = []
    for page in pages(options.root):
        text = page.read_text(encoding="utf-8")
        try:
            fresh, missing = rewritten(text, options.results)
        except ValueError as error:
            sys.exit(f"{page}: {error}")
        for block in missing:
            sys.stderr.write(f"{page}: not measured: {block}\n")
        if fresh != text:
            drifted.append(page)
            if options.write:
                page.write_text(fresh, encoding="utf-8")
    if drifted and options.check:
        sys.exit("These are not what benchmarks/results says; run `make figures`: " + ", ".join(map(str, drifted)))


def pages(root: Path) -> list[Path]:
    """Return README and every page of docs."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def rewritten(text: str, results: Path) -> tuple[str, list[str]]:
    """Return a page with every block written anew, and the blocks for which there is no figure.

    Raises:
        ValueError: a marker is not part of a block, or names a result that no table is known for.
    """
    missing: list[str] = []

    def block(found: re.Match[str]) -> str:
        begin, name, chosen, end = found.groups()
        prefixes = tuple(chosen.split())
        if name not in TABLES:
            raise ValueError(f"no table is known for figures:{name}; known are {', '.join(sorted(TABLES))}")
        lines = table_lines(results, name, prefixes)
        if not lines:
            missing.append(f"{name}{chosen}")
        return begin + "\n".join(lines or [NOT_MEASURED]) + "\n" + end

    if len(_MARKER.findall(text)) != 2 * len(_BLOCK.findall(text)):
        raise ValueError("a figures marker is not part of a block that begins and ends")
    return _BLOCK.sub(block, text), missing


def chosen_by(prefix: str, name: str) -> bool:
    """Tell whether a prefix names a row: whole parts only, so that `gate.fpr_0.1` is not also `gate.fpr_0.15`."""
    return not prefix or name == prefix or name.startswith(prefix if prefix.endswith(".") else f"{prefix}.")


def table_lines(results: Path, name: str, prefixes: tuple[str, ...]) -> list[str]:
    """Return the table of one result as Markdown lines, rows in the order of the prefixes; none where nothing is there."""
    file = results / f"{FILES.get(name, name)}.json"
    if not file.is_file():
        return []
    heads, rows = TABLES[name](json.loads(file.read_text(encoding="utf-8")))
    wanted = [row for prefix in prefixes or ("",) for row in rows if chosen_by(prefix, row[0])]
    cells = [row for place, (_, row) in enumerate(wanted) if wanted[place] not in wanted[:place]]
    if not cells:
        return []
    return [_line(heads), "|" + "---|" * len(heads), *map(_line, cells)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _effect(report: Mapping[str, Any]) -> Table:
    rows = [
        (one["id"], (one["title"], one["set"], one["value"], _interval(one) or "–", str(one.get("n", "–"))))  # noqa: RUF001 - a dash for "none"
        for one in report["figures"]
    ]
    return ("figure", "on", "value", "95 % interval", "n"), rows


def _calibration(report: Mapping[str, Any]) -> Table:
    heads = (
        "benign pool",
        "asked",
        "n calibration",
        "n test",
        "mean realised",
        "splits above",
        "at most expected",
        "holds",
    )
    rows = [
        (
            name,
            (
                name.replace("_", " "),
                one["fpr"],
                str(one["n_calibration"]),
                str(one["n_test"]),
                one["mean_realised"],
                f"{above['rate']} ({above['count']} of {above['n']})",
                above["at_most_expected"],
                "yes" if one["holds"] else "no",
            ),
        )
        for name, pool in report["pools"].items()
        for one in pool
        for above in (one["splits_above_asked"],)
    ]
    return heads, rows


def _judge(report: Mapping[str, Any]) -> Table:
    judges = [dict(_flat(judge)) for judge in report["judges"].values()]
    named = (name.replace("_", " ") for name in report["judges"])
    rows = [
        (
            group,
            (
                f"{group.replace('_', ' ')}: {figure.replace('_', ' ')}",
                *(one.get((group, figure), "-") for one in judges),
            ),
        )
        for group, figure in judges[0]
    ]
    return ("", *named), rows


def _flat(judge: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], str]]:
    for group, figures in judge.items():
        if isinstance(figures, Mapping):
            for figure, value in figures.items():
                yield (group, figure), _cell(value)
        elif group != "identity":
            yield ("training", group), _cell(figures)


def _overhead(report: Mapping[str, Any]) -> Table:
    rows = [
        (
            one["model"],
            (
                one["model"],
                one["variant"],
                f"{one['ratio']:.4f}",
                " to ".join(f"{end:.4f}" for end in one["interval"]),
                "–" if one["bar"] is None else str(one["bar"]),  # noqa: RUF001 - a dash for "none"
                one["verdict"],
            ),
        )
        for one in report["figures"]
    ]
    return ("model", "variant", "time of a decode step, ratio", "95 % interval", "bar", "verdict"), rows


def _build_times(report: Mapping[str, Any]) -> Table:
    lanes = len(report["lanes"])
    rows = [
        (one["recipe"], (one["recipe"], f"{one['seconds']:.0f}", f"{one['seconds'] / 60:.1f}", str(report["threads"])))
        for one in report["builds"]
    ]
    wall, threads = report["wall_seconds"], str(lanes * report["threads"])
    rows.append(("all", (f"all, {lanes} at a time", f"{wall:.0f}", f"{wall / 60:.1f}", threads)))
    return ("recipe", "seconds", "minutes", "threads"), rows


def _evaluate_speed(report: Mapping[str, Any]) -> Table:
    work = f"{report['rows']} prompts, {report['max_new_tokens']} new tokens, {report['threads']} threads"
    limit = str(report["speed"]["limit"])
    rows = [(way, (way, work, f"{ratio:.3f}", limit)) for way, ratio in report["speed"]["ratio"].items()]
    return ("way", "work", "seconds per answered row, ratio to bare `generate`", "bar"), rows


def _registry_speed(report: Mapping[str, Any]) -> Table:
    bars, resolve = report["bars"], report["resolve"]
    rows = [
        (
            f"verify.{one['weights']}",
            (
                f"verify {one['mebibytes']} MiB of {one['weights']}, ratio to plain sha256",
                f"{one['ratio']:.2f}",
                f"at least {bars['ratio']}",
                f"{one['peak_copies']:.1f} copies in memory",
            ),
        )
        for one in report["verification"]
    ]
    measured = ("resolve a locked, pulled, signed and vetted artifact", f"{resolve['ms']:.1f} ms")
    bar = (f"at most {bars['resolve_ms']:.0f} ms", f"{resolve['connections']} connections")
    return ("what", "measured", "bar", "beside it"), [*rows, ("resolve", (*measured, *bar))]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, Mapping):
        return str(value)
    if "rate" in value:
        return f"{value['rate']} ({value['count']} of {value['n']}), {_interval(value)}"
    return f"{value['value']}, {value['low']} to {value['high']}"


def _interval(one: Mapping[str, Any]) -> str | None:
    return None if one.get("wilson_low") is None else f"{one['wilson_low']} to {one['wilson_high']}"


def _score_spread(report: Mapping[str, Any]) -> Table:
    heads = (
        "model",
        "weights",
        "detector",
        "prompts",
        "largest difference",
        "median",
        "deviation of the scores",
        "tolerance",
    )
    names = ("model", "weights", "detector", "prompts", "largest", "median", "deviation", "tolerance")
    return heads, [
        (one["model"].replace(":", "."), tuple(str(one[name]) for name in names)) for one in report["spreads"]
    ]


def _near_thresholds(report: Mapping[str, Any]) -> Table:
    heads = ("prompts", "fpr", "n", "taken", "within the tolerance", "more taken if the bound were not raised")
    shares = ("taken", "near", "added_to_an_unraised_bound")
    rows = [
        (one["id"], (one["set"], one["fpr"], str(one["taken"]["n"]), *(one[name]["rate"] for name in shares)))
        for one in report["shares"]
    ]
    return heads, rows


def _written(name: str) -> Callable[[Mapping[str, Any]], Table]:
    """Return the reader of a table that the result holds as it is shown."""

    def table(report: Mapping[str, Any]) -> Table:
        found = report["tables"][name]
        return found["heads"], [(one["id"], one["cells"]) for one in found["rows"]]

    return table


FILES: Mapping[str, str] = {
    **audit_figures.FILES,
    "near_thresholds": "score_spread",
    "critic_bar": "critic",
    "search_judged": "search",
    "search_texts": "search",
    "search_compared": "search",
    "search_bars": "search",
}
"""Result file of a table that does not bear its name."""


def _cost_model(report: Mapping[str, Any]) -> Table:
    """Return what a cost model's answers were measured on; ids are `labelled` and the names of the sets."""
    found, sets = report["evaluate"], report["packaged_model"]["sets"]
    words, pair = found["words"], f"{found['auroc']['low']} to {found['auroc']['high']}"
    rows = [
        (
            "labelled",
            ("AUROC", "labelled answers of other questions", found["auroc"]["value"], pair, str(found["rows"])),
        ),
        (
            "labelled",
            (
                "AUROC of words (TF-IDF), same training rows",
                "the same",
                words["auroc"]["value"],
                "–",  # noqa: RUF001 - a dash for "none"
                str(found["rows"]),
            ),
        ),
        (
            "labelled",
            (
                "difference of the two, paired by question",
                "the same",
                words["difference"]["value"],
                f"{words['difference']['low']} to {words['difference']['high']}",
                str(found["rows"]),
            ),
        ),
        *(
            ("labelled", _flagged(*one))
            for one in (
                ("over the threshold", "harmful ones among them", found["harmful_found"]),
                ("over the threshold", "harmless ones among them", found["harmless_flagged"]),
            )
        ),
        *((name, _flagged("over the threshold", one["name"], one["flagged"])) for name, one in sets.items()),
    ]
    return ("figure", "on", "value", "95 % interval", "n"), rows


def _flagged(figure: str, title: str, share: Mapping[str, Any]) -> tuple[str, ...]:
    return figure, title, share["rate"], f"{share['wilson_low']} to {share['wilson_high']}", str(share["n"])


def _search_speed(report: Mapping[str, Any]) -> Table:
    rows = [
        (
            one["weights"],
            (
                one["weights"],
                str(one["prompt_tokens"]),
                f"{one['ratios']['search']['median']} ({one['ratios']['search']['lowest']} to {one['ratios']['search']['highest']})",
                str(one["bar"]),
                one["ratios"]["generate again"]["median"],
                one["ratios"]["prefills every block"]["median"],
                one["bytes_ratio"],
            ),
        )
        for one in report["runs"]
    ]
    heads = (
        "weights",
        "prompt tokens",
        "search",
        "bar",
        "`generate` again",
        "prefills every block",
        "key and value bytes",
    )
    return heads, rows


TABLES: Mapping[str, Callable[[Mapping[str, Any]], Table]] = {
    **audit_figures.TABLES,
    "effect": _effect,
    "calibration": _calibration,
    "judge": _judge,
    "overhead": _overhead,
    "overhead_compiled": _overhead,
    "rolling": _effect,
    "methods": _effect,
    "score_spread": _score_spread,
    "near_thresholds": _near_thresholds,
    "build_times": _build_times,
    "evaluate_speed": _evaluate_speed,
    "registry_speed": _registry_speed,
    "gemma": _effect,
    "multimodal": _effect,
    "cost_model": _cost_model,
    "search_speed": _search_speed,
    "critic": _written("critic"),
    "critic_bar": _written("critic_bar"),
    "search": _written("search"),
    "search_judged": _written("search_judged"),
    "search_texts": _written("search_texts"),
    "search_compared": _written("search_compared"),
    "search_bars": _written("search_bars"),
}

if __name__ == "__main__":
    main()
