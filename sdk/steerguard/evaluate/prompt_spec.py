"""The grammar that names a set of prompts on the command line: `[NAME=]PATH[#COLUMN][+PREFILL_COLUMN][[START:STOP]]`."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from steerguard.errors import PromptFileError, SteerguardError

GRAMMAR = "[NAME=]PATH[#COLUMN][+PREFILL_COLUMN][[START:STOP]]"
EXAMPLE = "advbench=advbench.csv#goal+target[260:520]"
SUFFIXES = (".txt", ".csv", ".json", ".jsonl")

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(?=.)")
_RANGE = re.compile(r"\[([^\[\]]*)\]$")
# The path ends at the first known suffix after which a column, a prefill column or nothing follows.
_PATH = re.compile(r"(?P<path>.+?\.(?:txt|csv|jsonl|json)(?:\.gz)?)(?:#(?P<column>[^+]*))?(?:\+(?P<prefill>.*))?")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec:
    """Where the prompts of one set lie."""

    name: str
    path: Path
    column: str | None = None
    """Dotted path of the column with the prompts; None takes the only one, or chats."""
    prefill: str | None = None
    """Column with the forced beginning of each answer."""
    start: int | None = None
    stop: int | None = None
    """Rows `start` to `stop - 1`, counted from 0."""

    @property
    def suffix(self) -> str:
        """Kind of file: the suffix without `.gz`."""
        return Path(self.path.name.removesuffix(".gz")).suffix


def parse_spec(text: str) -> PromptSpec:
    """Read one set as it is written on the command line.

    The name defaults to the file's name without suffixes. A file whose own name has a `=` is written `./a=b.csv`.

    Raises:
        PromptFileError: the text does not follow the grammar.
    """
    rest, start, stop = _range(text)
    named = _NAME.match(rest)
    if named is not None:
        rest = rest[named.end() :]
    found = _PATH.fullmatch(rest)
    if found is None:
        raise _unreadable_path(rest, text)
    for what in ("column", "prefill"):
        if found[what] == "":
            raise _wrong("A set of prompts names an empty column.", text, f"a name after {'#+'[what == 'prefill']}")
    path = Path(found["path"])
    if found["column"] and path.name.removesuffix(".gz").endswith(".txt"):
        raise _wrong("A text file has no columns.", text, "PATH[[START:STOP]] for a .txt file")
    if found["prefill"] and path.name.removesuffix(".gz").endswith(".txt"):
        raise _wrong("A text file has no prefill column.", text, "a .csv, .json or .jsonl file with both columns")
    return PromptSpec(
        name=named[1] if named is not None else _default_name(path),
        path=path,
        column=found["column"],
        prefill=found["prefill"],
        start=start,
        stop=stop,
    )


def parse_specs(harmful: list[str], benign: list[str]) -> tuple[tuple[PromptSpec, ...], tuple[PromptSpec, ...]]:
    """Read all sets of one evaluation.

    Raises:
        PromptFileError: one does not follow the grammar, two have the same name, or there is none at all.
    """
    parsed = tuple(map(parse_spec, harmful)), tuple(map(parse_spec, benign))
    if not harmful and not benign:
        raise PromptFileError(
            "There is nothing to evaluate.",
            expected="at least one --harmful or --benign set",
            found="none",
            next_step=f"Write for example --harmful {EXAMPLE}",
        )
    seen: set[str] = set()
    for spec in (*parsed[0], *parsed[1]):
        if spec.name in seen:
            raise PromptFileError(
                "Two sets of prompts have the same name.",
                expected="a name of its own for each set",
                found=spec.name,
                next_step=f"Put a name in front: NAME={spec.path}",
            )
        seen.add(spec.name)
    return parsed


def _range(text: str) -> tuple[str, int | None, int | None]:
    """Take the row range off the end."""
    found = _RANGE.search(text)
    if found is None:
        return text, None, None
    ends = re.fullmatch(r"(\d*):(\d*)", found[1])
    if ends is None:
        raise _wrong("A range of rows cannot be read.", text, "[START:STOP] with whole numbers, counted from 0")
    start, stop = (int(end) if end else None for end in ends.groups())
    if stop is not None and (start or 0) >= stop:
        raise _wrong("A range of rows is empty.", text, "START below STOP")
    return text[: found.start()], start, stop


def _unreadable_path(rest: str, text: str) -> SteerguardError:
    name = re.split(r"[#+]", rest)[0].removesuffix(".gz")
    suffix = Path(name).suffix
    near = difflib.get_close_matches(suffix.lower(), SUFFIXES, n=1, cutoff=0.5) if suffix else []
    return PromptFileError(
        "A set of prompts names no file of a known kind.",
        where=text,
        expected=f"{GRAMMAR} with a file {', '.join(SUFFIXES)}, or one of them with .gz",
        found=suffix or "no suffix",
        next_step=f"Did you mean `{near[0]}`?" if near else f"Write for example {EXAMPLE}",
    )


def _wrong(summary: str, text: str, expected: str) -> SteerguardError:
    return PromptFileError(summary, where=text, expected=expected, next_step=f"Write for example {EXAMPLE}")


def _default_name(path: Path) -> str:
    stem = Path(path.name.removesuffix(".gz")).stem
    return _NOT_IN_NAMES.sub("-", stem).strip("-.") or "prompts"
