"""What an evaluation folder was begun with: written once, compared on every later start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerguard.canonical import canonical_bytes, digest
from steerguard.errors import EvaluationError
from steerguard.evaluate.durable import write_whole
from steerguard.evaluate.journal import ROWS_FILE

SETTINGS_FILE = "settings.json"
_SHOWN = 5


def prepare_folder(folder: Path) -> None:
    """Make the folder of an evaluation, or accept one that is empty or holds an evaluation.

    Raises:
        EvaluationError: the folder cannot be made or holds something else.
    """
    try:
        # Prompts and answers lie here in the clear.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / SETTINGS_FILE).exists():
            return
        foreign = [entry.name for entry in folder.iterdir() if not _left_by_a_kill(entry)]
    except OSError as error:
        raise EvaluationError(
            "The output folder cannot be used.", where=folder, found=error.strerror or type(error).__name__
        ) from error
    if foreign:
        raise EvaluationError(
            "The output folder holds something that is no evaluation.",
            where=folder,
            expected=f"a new or empty folder, or one with {SETTINGS_FILE}",
            found=min(foreign),
            next_step="Choose a new folder with --out.",
        )


def stored_settings(folder: Path) -> dict[str, Any] | None:
    """Return what the evaluation in a folder was begun with; None for a new one.

    Raises:
        EvaluationError: the settings cannot be read.
    """
    path = folder / SETTINGS_FILE
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_bytes())
        settings: dict[str, Any] = document["settings"]
        whole = document["digest"] == digest(settings)
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise EvaluationError(
            "The settings of the evaluation cannot be read.",
            where=path,
            expected="the file as it was written",
            next_step="Choose a new folder with --out.",
        )
    return settings


def store_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a new folder."""
    write_whole(
        folder / SETTINGS_FILE, canonical_bytes({"digest": digest(settings), "settings": dict(settings)}) + b"\n"
    )


def require_same(folder: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than those that the rows were made with.

    Raises:
        EvaluationError: names every setting that changed.
    """
    before, after = _flat(stored), _flat(asked)
    changed = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    if not changed:
        return
    lines = [f"{key}: {before.get(key, 'absent')} → {after.get(key, 'absent')}" for key in changed]
    more = f", and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    raise EvaluationError(
        "The evaluation in this folder was begun with other settings.",
        where=folder,
        expected="the same model, policies, prompts and settings",
        found="; ".join(lines[:_SHOWN]) + more,
        next_step="Put them back as they were, or choose a new folder with --out.",
    )


def _left_by_a_kill(entry: Path) -> bool:
    """Tell whether a file is what a start leaves behind that was killed before it had written its settings."""
    return entry.name.startswith(f".{SETTINGS_FILE}.") or (entry.name == ROWS_FILE and entry.stat().st_size == 0)


def _flat(node: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(node, Mapping):
        found: dict[str, str] = {}
        for key, value in node.items():
            found.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
        return found
    return {prefix: json.dumps(node, ensure_ascii=False, sort_keys=True)}
