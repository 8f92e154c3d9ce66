"""How fast answers were made. Kept apart from the result, because no two runs take the same time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from steerguard.evaluate.durable import write_whole

SPEED_FILE = "speed.json"
_WRITE_EVERY = 10.0
"""Seconds between two writes, so that a killed run loses little and a fast one is not slowed down."""


class SpeedMeter:
    """Adds up seconds and tokens per run and set, over every start of the same evaluation.

    What was measured between the last write and a kill is lost; `rows` says how many rows the seconds belong to.

    Args:
        folder: of the evaluation.
        clock: seconds from any start.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = monotonic) -> None:
        self._path = folder / SPEED_FILE
        self._clock = clock
        self._written = clock()
        self._parts: dict[tuple[str, str], dict[str, float]] = {}
        self._search: dict[str, Any] | None = None
        self._load()

    def searched(self, seconds: float, trials: list[dict[str, Any]]) -> None:
        """Keep what the search of the batch size measured."""
        self._search = {"seconds": round(seconds, 3), "trials": trials}

    def add(self, run: str, name: str, *, rows: int, tokens: int, generate_seconds: float, seconds: float) -> None:
        """Add one batch; write now and then."""
        part = self._parts.setdefault((run, name), {"rows": 0, "tokens": 0, "generate_seconds": 0.0, "seconds": 0.0})
        part["rows"] += rows
        part["tokens"] += tokens
        part["generate_seconds"] += generate_seconds
        part["seconds"] += seconds
        if self._clock() - self._written >= _WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """Write the file."""
        parts = [
            {
                "run": run,
                "set": name,
                "rows": part["rows"],
                "tokens": part["tokens"],
                "seconds": round(part["seconds"], 3),
                "generate_seconds": round(part["generate_seconds"], 3),
                "tokens_per_second": round(part["tokens"] / part["generate_seconds"], 2)
                if part["generate_seconds"]
                else None,
            }
            for (run, name), part in self._parts.items()
        ]
        content = json.dumps({"parts": parts, "batch_size_search": self._search}, indent=1, ensure_ascii=False)
        write_whole(self._path, content.encode() + b"\n")
        self._written = self._clock()

    def _load(self) -> None:
        try:
            document = json.loads(self._path.read_bytes())
            self._search = document["batch_size_search"]
            for part in document["parts"]:
                self._parts[part["run"], part["set"]] = {
                    key: part[key] for key in ("rows", "tokens", "generate_seconds", "seconds")
                }
        except (OSError, ValueError, KeyError, TypeError):
            # Speed is no part of the result: what cannot be read is measured anew.
            self._parts, self._search = {}, None
