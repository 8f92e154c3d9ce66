"""The parts of the report page, from the document of its figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from xml.etree import ElementTree as ET

from steerguard.audit.reporting.charts import actions_over_time, number, scores_against_thresholds, span_name
from steerguard.audit.reporting.markup import e, table
from steerguard.audit.reporting.verification import banner, verification
from steerguard.audit.reporting.words import counts_in_words, duration, interval, length, minute, percent
from steerguard.decision import ACTION_ORDER

Document = Mapping[str, Any]

CONTENTS: Final = (
    ("verified", "What was verified"),
    ("actions", "Decisions"),
    ("scores", "Scores against thresholds"),
    ("overhead", "Overhead"),
    ("changes", "Policies and artifacts"),
    ("bypasses", "Bypasses"),
    ("errors", "Errors and budgets"),
    ("upkeep", "Keys, retention and erasure"),
    ("cadence", "Checkpoints"),
    ("frameworks", "Requirements"),
)


def sections(document: Document) -> Iterator[ET.Element]:
    """Yield the parts of the page in their order."""
    yield e("a", "Skip to the report", class_="skip", href="#report")
    yield _header(document)
    parts = (
        verification(document["verification"]),
        _actions(document),
        _scores(document),
        _overhead(document),
        _changes(document),
        _bypasses(document),
        _errors(document),
        _upkeep(document),
        _cadence(document),
        _frameworks(document),
    )
    yield e(
        "main",
        (_section(name, title, part) for (name, title), part in zip(CONTENTS, parts, strict=True)),
        id="report",
    )


def _header(document: Document) -> ET.Element:
    totals = document["totals"]
    first, last = totals["first_t"], totals["last_t"]
    covers = f"{minute(first)} to {minute(last)}" if first else "no record"
    asked = " ".join(
        f"{word} {minute(document[name])}" for name, word in (("since", "from"), ("until", "before")) if document[name]
    )
    return e(
        "header",
        e("h1", "Guard audit report"),
        e(
            "p",
            f"Records from {covers}." if first else "No record counts for this report.",
            f" Asked for: {asked}." if asked else None,
        ),
        e(
            "p",
            f"Made on {minute(document['generated'])} with steerguard {document['steerguard']}. All times are UTC.",
            class_="soft",
        ),
        _themes(),
        banner(document["verification"]),
        e("nav", e("ul", (e("li", e("a", title, href=f"#{name}")) for name, title in CONTENTS)), aria_label="Contents"),
    )


def _themes() -> ET.Element:
    """Return the choice of colours, which the style sheet alone carries out."""
    choices = (("system", "as the system"), ("light", "light"), ("dark", "dark"))
    return e(
        "fieldset",
        e("legend", "Colours"),
        (
            e(
                "label",
                e(
                    "input",
                    type="radio",
                    name="colours",
                    id=f"colours-{name}",
                    **({"checked": ""} if name == "system" else {}),
                ),
                f" {words}",
            )
            for name, words in choices
        ),
        class_="screen",
    )


def _section(name: str, title: str, part: object) -> ET.Element:
    return e("section", e("h2", title, id=f"{name}-title"), part, id=name, aria_labelledby=f"{name}-title")


def _actions(document: Document) -> Iterator[ET.Element]:
    totals, volume = document["totals"], document["volume"]
    decided = totals["decisions"]
    if not decided:
        yield e("p", "There are no decisions in this period.", class_="empty")
        return
    yield e(
        "dl",
        _figure("Decisions", f"{decided:,}", "rows of requests"),
        _figure("Refused", percent(totals["refused"]["share"]), interval(totals["refused"])),
        _figure("Guided", percent(totals["guided"]["share"]), interval(totals["guided"])),
        _figure(
            "Requests",
            f"{sum(totals['calls'].values()):,}",
            counts_in_words(totals["calls"]) or "none recorded as such",
        ),
        class_="figures",
    )
    if totals["announced"]:
        yield e(
            "p",
            f"{totals['announced']:,} further decisions were recorded before a streamed answer began; of these answers the complete records count.",
            class_="soft",
        )
    spans, seconds = volume["spans"], volume["seconds"]
    if spans:
        yield e(
            "figure",
            e("figcaption", f"Applied actions per {length(seconds)}"),
            e("ul", (e("li", e("span", class_=f"key k-{action}"), action) for action in ACTION_ORDER), class_="legend"),
            actions_over_time(spans, seconds=seconds),
        )
        yield _folded("The same as a table", _volume(spans, seconds))
    yield table(
        "Intended and applied action",
        ("Intended → applied", "Decisions", "Share"),
        ((name, f"{count:,}", percent(count / decided)) for name, count in totals["outcomes"].items()),
        numbers=(1, 2),
    )
    yield _tallies(
        totals,
        (
            ("Cause of the intended action", "Cause", "causes"),
            ("Rules that matched", "Rule", "rules"),
            ("Policies in force", "Policy", "policies"),
            ("Models", "Model", "models"),
            ("Modes", "Mode", "modes"),
        ),
    )


def _volume(spans: list[Document], seconds: int) -> ET.Element:
    applied = ([span["applied"][action] for action in ACTION_ORDER] for span in spans)
    return table(
        f"Decisions by applied action per {length(seconds)}",
        ("From", "Decisions", *ACTION_ORDER, "intended: refuse"),
        (
            (
                span_name(span["start"], seconds),
                f"{sum(counts):,}",
                *(f"{count:,}" for count in counts),
                f"{span['intended']['refuse']:,}",
            )
            for span, counts in zip(spans, applied, strict=True)
        ),
        numbers=range(1, 7),
    )


def _scores(document: Document) -> Iterator[ET.Element]:
    found = [figures for figures in document["scores"] if figures["bins"]]
    if not found:
        yield e("p", "No score was read in this period.", class_="empty")
        return
    yield e(
        "p",
        "Each bar counts scores of one interval. The numbered lines are the thresholds that the scores were compared with.",
    )
    for figures in found:
        totals = document["totals"]["scores"].get(figures["source"])
        yield e(
            "figure",
            e("figcaption", figures["source"]),
            scores_against_thresholds(figures),
            e("p", _spread(totals, figures), class_="soft"),
        )
        if figures["thresholds"]:
            yield table(
                f"Thresholds of {figures['source']}",
                ("Line", "Rule or step", "Holds when the score is", "Asked for as a rate"),
                (
                    (
                        str(line),
                        bound["rule"],
                        f"{'at least' if bound['bound'] == 'at_least' else 'below'} {float(bound['value']):.9g}",
                        bound["fpr"] or "no, as this number",
                    )
                    for line, bound in enumerate(figures["thresholds"], 1)
                ),
                stacked=True,
            )
        if figures["more_thresholds"]:
            yield e("p", "There were more different thresholds; the first ones are drawn.", class_="soft")


def _spread(totals: Document | None, figures: Document) -> str:
    if totals is None:
        return f"{figures['not_finite']:,} were not finite."
    return (
        f"Scores: {totals['count']:,}, median {number(totals['median'])}, 95th percentile {number(totals['p95'])}; "
        f"{totals['near']:,} within their tolerance of a threshold, where the stricter verdict was taken; "
        f"{totals['not_finite']:,} not finite."
    )


def _overhead(document: Document) -> Iterator[ET.Element]:
    overhead = document["overhead"]
    tokens, share = overhead["extra_per_generated_token"], overhead["guard_share_of_duration"]
    yield e(
        "dl",
        _figure(
            "Extra forward tokens per generated token",
            "-" if tokens is None else f"{tokens:.3f}",
            f"{overhead['extra_forward_tokens']:,} extra for {overhead['generated_tokens']:,} generated",
        ),
        _figure(
            "Share of the time outside generation",
            "-" if share is None else percent(share),
            "no request was recorded"
            if share is None
            else f"{duration(overhead['guard_us'])} of {duration(overhead['duration_us'])}",
        ),
        class_="figures",
    )
    whole = document["totals"]["duration_us"]
    if whole["count"]:
        guard = document["totals"]["guard_us"]
        columns = (("Median", "median"), ("95 %", "p95"), ("99 %", "p99"), ("Longest", "greatest"))
        yield table(
            "Time per request",
            ("", *(title for title, _ in columns)),
            (
                (title, *(duration(values[key]) for _, key in columns))
                for title, values in (("Whole call", whole), ("Guard: checks, planning, decisions, records", guard))
            ),
            numbers=range(1, 5),
        )


def _changes(document: Document) -> Iterator[ET.Element]:
    yield e(
        "p",
        "What was put in force, replaced, refused or revoked. Equal events are one line with their first and last time. Digests are cut to 12 digits.",
    )
    yield from _happenings(
        "Changes of policies and artifacts", document["changes"], "No policy or artifact changed in this period."
    )


def _bypasses(document: Document) -> Iterator[ET.Element]:
    yield e("p", "What passed without full guidance because someone had allowed it, with the reason stated.")
    yield from _happenings("Bypasses", document["bypasses"], "Nothing passed without guidance in this period.")


def _errors(document: Document) -> Iterator[ET.Element]:
    totals = document["totals"]
    tables = (
        ("Errors by class", "Error", "errors"),
        ("Errors by stage", "Stage", "error_stages"),
        ("Decisions with an error", "Error", "row_errors"),
        ("Policies and artifacts that were refused", "Error", "rejections"),
        ("Decisions against their budget", "Outcome", "budgets"),
        ("Limits that were reached", "Limit", "budget_exceeded"),
    )
    if not totals["errors"]:
        yield e("p", "No guard.error record in this period.", class_="empty")
    yield _tallies(totals, tables)


def _upkeep(document: Document) -> Iterator[ET.Element]:
    yield from _happenings(
        "Keys, retention, holds, erasure and recovery",
        document["upkeep"],
        "No key was changed, nothing was deleted, erased, held or recovered in this period.",
    )


def _cadence(document: Document) -> Iterator[ET.Element]:
    cadence = document["cadence"]
    if not cadence["checkpoints"]:
        yield e(
            "p",
            "The records name no checkpoint: whoever could write the files could have rewritten all of them.",
            class_="empty",
        )
        return
    yield e(
        "p",
        f"The tamper window was at most {cadence['most_open_records']:,} records and {duration(cadence['longest_open_us'])}: "
        "so much stood between two checkpoints, or since the last one. Until a checkpoint is kept elsewhere, whoever can "
        "write the files and holds the key can rewrite what it covers.",
    )
    copies = cadence["fewest_copies"]
    yield e(
        "dl",
        _figure("Checkpoints", f"{cadence['checkpoints']:,}", "named by verified records"),
        _figure("Most records at once", f"{cadence['most_open_records']:,}", "not yet under a checkpoint"),
        _figure("Longest time", duration(cadence["longest_open_us"]), "until a checkpoint covered a record"),
        _figure("Copies elsewhere", "-" if copies is None else f"{copies}", "of the checkpoint with the fewest"),
        class_="figures",
    )
    yield e("p", "Counted over all verified records, also those outside the period.", class_="soft")


def _frameworks(document: Document) -> Iterator[ET.Element]:
    yield e("p", document["frameworks"]["caution"], class_="note")
    for entry in document["frameworks"]["tables"]:
        yield e("h3", entry["title"])
        yield e("p", entry["certainty"], class_="soft")
        yield table(
            f"{entry['title']}: what helps you meet it",
            ("Requirement", "What it asks for", "What helps you meet it", "What this does not cover"),
            (
                (row["control"], row["asks"], e("ul", (e("li", one) for one in row["helps"])), row["lacks"])
                for row in entry["rows"]
            ),
            stacked=True,
        )


def _happenings(caption: str, found: Document, none: str) -> Iterator[ET.Element]:
    if not found["entries"]:
        yield e("p", none, class_="empty")
        return
    yield table(
        caption,
        ("First", "Last", "Times", "Event", "What"),
        (
            (
                minute(row["first"]),
                "-" if row["first"] == row["last"] else minute(row["last"]),
                f"{row['times']:,}",
                row["kind"],
                row["what"],
            )
            for row in found["entries"]
        ),
        numbers=(2,),
        whole=(0, 1, 3),
        stacked=True,
    )
    if found["left_out"]:
        yield e("p", f"{found['left_out']:,} older lines are left out.", class_="soft")


def _tallies(totals: Document, tables: Iterable[tuple[str, str, str]]) -> ET.Element:
    """Return small tables side by side: caption, title of the first column, and name of the counts in the totals."""
    return e(
        "div", (_tally(caption, head, totals[name]) for caption, head, name in tables if totals[name]), class_="tallies"
    )


def _tally(caption: str, head: str, counts: Mapping[str, int]) -> ET.Element:
    shown = list(counts.items())
    result = table(
        caption, (head, "Count"), ((name or "(no name)", f"{count:,}") for name, count in shown), numbers=(1,)
    )
    return result if len(shown) <= 12 else _folded(f"{caption}: {len(shown)}", result)


def _folded(title: str, content: ET.Element) -> ET.Element:
    return e("details", e("summary", title), content)


def _figure(title: str, value: str, note: str) -> ET.Element:
    return e("div", e("dt", title), e("dd", e("strong", value), e("span", note, class_="soft")))
