"""The part of the report that says what was verified: first in one sentence, then log by log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree as ET

from steerguard.audit.reporting.markup import e, table

Document = Mapping[str, Any]


def banner(checked: Document) -> ET.Element:
    """Return the verdict on the logs in plain words, to stand at the top."""
    broken = [log for log in checked["logs"] if log["first_bad"] is not None]
    if checked["status"] == "broken":
        return e(
            "div",
            e(
                "p",
                e("strong", "The logs do not verify. "),
                "Something was changed, removed or lost. Only the records before that count in this report, and the rest may not be relied on.",
            ),
            e(
                "ul",
                (_broken(log) for log in broken),
                (_missing(one) for one in checked["missing"]),
                _misfits(checked["misfits"]),
            ),
            class_="banner broken",
            role="alert",
        )
    records = sum(log["records"] for log in checked["logs"])
    sentence = (
        f"Every record of {_plural(len(checked['logs']), 'log')} verifies: {records:,} records, no gap and no edit."
    )
    if checked["anchored"]:
        return e(
            "div",
            e("p", e("strong", sentence), " All of them lie under checkpoints of a pinned key, or kept elsewhere."),
            class_="banner sound",
        )
    return e(
        "div",
        e("p", e("strong", sentence), f" {_unanchored(checked)}"),
        class_="banner partly",
    )


def verification(checked: Document) -> Iterator[ET.Element]:
    """Yield the tables of logs, pruned ranges and keys."""
    logs = checked["logs"]
    rows = [
        (
            log["log"],
            "broken" if log["status"] == "broken" else "verified",
            f"{log['records']:,}",
            f"{log['anchored']:,}" if log["pinned"] else "nothing pinned",
            f"{log['unanchored']:,}",
            f"{log['checkpoints']:,}",
            _end(log),
        )
        for log in logs
    ]
    head = ("Log", "Status", "Records", "Anchored up to", "Not anchored", "Checkpoints", "How it ended")
    result = table("Logs, oldest first", head, rows, numbers=(2, 3, 4, 5), whole=(0,))
    yield e("details", e("summary", f"All {len(rows)} logs"), result) if len(rows) > 30 else result
    yield e(
        "p",
        "Anchored records lie under a checkpoint whose key was pinned for this report, or that was kept elsewhere. "
        "The others are consistent, but whoever held the files and the key could have rewritten them.",
        class_="soft",
    )
    pruned = [*checked["pruned"], *(one for log in logs for one in log["pruned"])]
    if pruned:
        yield table(
            "Records that were deleted because their time was over",
            ("Log", "Records", "From", "To", "Whole log", "Said by"),
            (
                (one["log"], "{:,} to {:,}".format(*one["records"]), one["first_t"][:10], one["last_t"][:10],
                 "yes" if one["whole"] else "no", f"{one['by_log']} record {one['by_seq']}")
                for one in pruned
            ),
            whole=range(6),
        )  # fmt: skip
    keys = {(key["name"], key["hash"], key["pinned"]) for log in logs for key in log["keys"]}
    if keys:
        yield table(
            "Keys that signed checkpoints",
            ("Key", "Hash", "Pinned"),
            ((name, hash_, "yes" if pinned else "no") for name, hash_, pinned in sorted(keys)),
        )
    warnings = [(log["log"], warning) for log in logs for warning in log["warnings"]]
    warnings += [("the directory", warning) for warning in checked["warnings"]]
    if warnings:
        yield table("Warnings", ("Log", "Warning"), warnings[:200])
        if len(warnings) > 200:
            yield e("p", f"{len(warnings) - 200:,} further warnings are left out.", class_="soft")


def _broken(log: Document) -> ET.Element:
    bad = log["first_bad"]
    place = f"record {bad['seq']:,}"
    if bad["until"] is not None and bad["until"] != bad["seq"]:
        place = f"one of the records {bad['seq']:,} to {bad['until']:,}"
    file = f", in {bad['file']}" + (f" line {bad['line']:,}" if bad["line"] else "") if bad["file"] else ""
    return e("li", f"Log {log['log']}: {place}{file}: {bad['reason']}. {log['records']:,} records before it verified.")


def _misfits(count: int) -> ET.Element | None:
    return (
        e("li", f"{_plural(count, 'record')} that verified did not fit the schema of the type: they are left out.")
        if count
        else None
    )


def _missing(one: Document) -> ET.Element:
    return e("li", f"Log {one['log']} is missing; it is named by {one['named_by']}.")


def _unanchored(checked: Document) -> str:
    logs = checked["logs"]
    if not any(log["pinned"] for log in logs):
        return "No key and no checkpoint was pinned, so this rests on keys that the logs name themselves: it shows no rewriting by whoever held them."
    if not any(log["unanchored"] for log in logs):
        return "A log does not end with log.close, or a record of what was deleted is not anchored: something may have been cut off."
    count, size = sum(log["unanchored"] for log in logs), sum(log["unanchored_bytes"] for log in logs)
    found = sum(log["as_found"] for log in logs if log["unanchored"])
    recovered = f", {found:,} of them first signed by recovery" if found else ""
    return f"{count:,} records ({size:,} bytes) lie after the last pinned checkpoint{recovered}, and could have been rewritten."


def _end(log: Document) -> str:
    if log["status"] == "broken":
        return "see above"
    if log["recovered"]:
        return "its process died; recovered" + (f": {log['loss']}" if log["loss"] else "")
    if log["in_use"]:
        return "still open"
    return "closed" if log["closed"] else "not closed"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
