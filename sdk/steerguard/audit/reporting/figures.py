"""Every figure of a report, gathered record by record in constant memory.

    figures = Figures(Selection(since=…, until=…))
    report = verify_path(path, on_record=figures.add)
    figures.document()

Of decisions of a streamed answer the complete record counts; what was recorded before there was an answer is counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from steerguard.audit.reading.announcement import announces
from steerguard.audit.reading.gates import gated_step
from steerguard.audit.reading.quantiles import GREATEST
from steerguard.audit.reading.selection import Selection, fits
from steerguard.audit.reading.stats import Totals
from steerguard.audit.reporting.cadence import Cadence
from steerguard.audit.reporting.happenings import Happenings, bypass, change, upkeep
from steerguard.audit.reporting.histogram import Histogram
from steerguard.audit.reporting.volume import Volume

MAX_SOURCES: Final = 24
"""Readers whose scores get a histogram, those seen first; the figures of all are in the totals."""
MAX_THRESHOLDS: Final = 12
"""Different thresholds that are drawn for one reader, those seen first."""

Record = Mapping[str, Any]


class Figures:
    """Takes verified records in the order of their logs.

    Args:
        selection: which records count; the gaps between checkpoints are those of all records.
    """

    def __init__(self, selection: Selection | None = None) -> None:
        self.totals = Totals()
        self.undated = 0
        """Records whose time is none, such as a 31st of February."""
        self.volume = Volume()
        self.scores: dict[str, ScoreFigures] = {}
        self.changes = Happenings()
        self.bypasses = Happenings()
        self.upkeep = Happenings()
        self.cadence = Cadence()
        self.selection = Selection() if selection is None else selection

    def add(self, record: Record) -> None:
        """Count one record, whatever it holds."""
        if not self.selection.admits(record):
            if fits(record):
                self.cadence.add(record)
            return
        misfits = self.totals.misfits
        self.totals.add(record)
        if self.totals.misfits > misfits:
            return
        self.cadence.add(record)
        if announces(record):
            return
        if not _is_time(record["t"]):
            self.undated += 1
            return
        self._sort_in(record)

    def _sort_in(self, record: Record) -> None:
        if record["type"] == "guard.decision":
            self.volume.add(record["t"], record["intended"], record["applied"])
            for reading in record["readings"]:
                self._reading(reading)
        elif record["type"] == "guard.bypass":
            self.bypasses.add(record, bypass(record))
        elif (what := change(record)) is not None:
            self.changes.add(record, what)
        elif (what := upkeep(record)) is not None:
            self.upkeep.add(record, what)

    def _reading(self, reading: Record) -> None:
        source = reading["source"]
        if gated_step(source) is not None or (source not in self.scores and len(self.scores) >= MAX_SOURCES):
            return
        self.scores.setdefault(source, ScoreFigures()).add(reading)

    def document(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        totals = self.totals.document()
        return {
            "totals": totals,
            "undated": self.undated,
            "volume": {"seconds": self.volume.seconds, "spans": self.volume.rows()},
            "scores": [{"source": name, **self.scores[name].document()} for name in sorted(self.scores)],
            "overhead": _overhead(totals),
            "changes": _rows(self.changes),
            "bypasses": _rows(self.bypasses),
            "upkeep": _rows(self.upkeep),
            "cadence": self.cadence.document(),
        }


class ScoreFigures:
    """The scores of one reader as a histogram, with the thresholds that they were compared with."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.not_finite = 0
        self._thresholds: dict[tuple[str, str, str], str | None] = {}
        self.more_thresholds = False
        """Whether there were more different thresholds than are kept, or one that no drawing could show."""

    def add(self, reading: Record) -> None:
        """Count one reading."""
        score = math.nan if reading["score"] is None else float(reading["score"])
        if math.isfinite(score):
            self.histogram.add(score)
        else:
            self.not_finite += 1
        for bound in reading["thresholds"]:
            key = (bound["rule"], bound["bound"], bound["value"])
            if key in self._thresholds:
                continue
            if len(self._thresholds) >= MAX_THRESHOLDS or abs(float(bound["value"])) > GREATEST:
                self.more_thresholds = True
            else:
                self._thresholds[key] = bound["fpr"]

    def document(self) -> dict[str, Any]:
        """Return it as JSON values; numbers are decimal strings, as in records."""
        return {
            "bins": [
                {"low": repr(low), "high": repr(high), "count": count} for low, high, count in self.histogram.rows()
            ],
            "not_finite": self.not_finite,
            "thresholds": [
                {"rule": rule, "bound": bound, "value": value, "fpr": fpr}
                for (rule, bound, value), fpr in self._thresholds.items()
            ],
            "more_thresholds": self.more_thresholds,
        }


def _overhead(totals: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Return what guidance added; null where nothing was generated, or no request was recorded."""
    generated, extra = totals["generated_tokens"], totals["extra_forward_tokens"]["total"]
    guard, duration = totals["guard_us"]["total"], totals["duration_us"]["total"]
    return {
        "extra_forward_tokens": int(extra),
        "generated_tokens": generated,
        "extra_per_generated_token": extra / generated if generated else None,
        "guard_us": int(guard),
        "duration_us": int(duration),
        "guard_share_of_duration": guard / duration if duration else None,
    }


def _rows(happenings: Happenings) -> dict[str, Any]:
    return {"entries": [asdict(row) for row in happenings.rows()], "left_out": happenings.left_out}


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
