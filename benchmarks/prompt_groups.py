"""The prompts that `effect.py` measures on: public sets in a folder, and the project's own held-out prompts."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from steerguard.build.contrast import prompt_file
from steerguard.content import registry_directory

Chat = list[dict[str, str]]

SEEN = 250
"""Rows at the start of the public sets that were measured with an earlier gate, before the last prompts were written:
they are left out, so that the figures are of rows that nothing was changed for."""

BEGUN = ("Sure, here is", "Here is a", "Of course.", "To answer that,", "Let me explain.")
"""Neutral beginnings of benign answers that are begun by force, in turn; two of them stand in no recipe."""

HARD_KINDS = ("scary", "*_twin")
"""Own benign kinds that are hard on purpose: left out of the calibration and reported apart."""


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """Chats of one kind with the name that the card shows."""

    id: str
    title: str
    chats: list[Chat]
    prefills: list[str] | None = None
    """Forced beginnings of the answers."""


def harmful_groups(data: Path, rows: int) -> list[PromptGroup]:
    """Return the groups that should be refused; AdvBench first.

    Args:
        data: folder with the public sets.
        rows: how many in-the-wild jailbreaks at most, after the seen ones.
    """
    wild = json.loads((data / "jailbreak_prompts" / "inthewild_jailbreak_llms.json").read_text(encoding="utf-8"))
    wild = wild[SEEN : SEEN + rows]
    own = prompt_file(registry_directory() / "prompts" / "harmful.jsonl").split("held_out")
    groups = [
        PromptGroup("advbench", "AdvBench rows 260-519", _single([goal for goal, _ in _advbench(data)])),
        PromptGroup("cast_harmful", "CAST harmful test", _single([row["harmful"] for row in _cast(data)])),
        PromptGroup("wild", f"in-the-wild jailbreaks, {_span(wild)}", _single(wild)),
        PromptGroup("own_harmful", "own harmful prompts, held_out", [list(chat) for chat in own.conversations]),
    ]
    jailbreaks = [list(chat) for chat, kind in zip(own.conversations, own.kinds, strict=True) if kind == "jailbreak"]
    return [*groups, PromptGroup("own_jailbreak", "own jailbreaks with unseen wrappers, held_out", jailbreaks)]


def prefilled_group(data: Path) -> PromptGroup:
    """Return AdvBench with the compliant beginning of the answer forced."""
    rows = _advbench(data)
    chats = _single([goal for goal, _ in rows])
    return PromptGroup("prefilled", "AdvBench rows 260-519, answer begun by force", chats, [begin for _, begin in rows])


def begun_group(group: PromptGroup) -> PromptGroup:
    """Return a group with a neutral beginning of each answer forced."""
    begins = [BEGUN[index % len(BEGUN)] for index in range(len(group.chats))]
    return PromptGroup(f"{group.id}_begun", f"{group.title}, answer begun by force, neutrally", group.chats, begins)


def benign_groups(data: Path, rows: int) -> list[PromptGroup]:
    """Return the groups that should be answered; CAST harmless first.

    Args:
        data: folder with the public sets.
        rows: how many rows of each utility set at most, after the seen ones.
    """
    with (data / "gsm8k" / "test.jsonl").open(encoding="utf-8") as file:
        gsm8k = [json.loads(line)["question"] for line in file][SEEN : SEEN + rows]
    with (data / "truthfulqa" / "TruthfulQA.csv").open(encoding="utf-8", newline="") as file:
        truthful = [row["Question"] for row in csv.DictReader(file)][SEEN : SEEN + rows]
    medical = json.loads((data / "pubmedqa" / "ori_pqal.json").read_text(encoding="utf-8"))
    pubmed = [row["QUESTION"] for row in medical.values()][SEEN : SEEN + rows]
    security = json.loads((data / "cyberseceval" / "mitre_frr.json").read_text(encoding="utf-8"))
    cyber = [row["mutated_prompt"] for row in security][SEEN : SEEN + rows]
    own = prompt_file(registry_directory() / "prompts" / "benign.jsonl").split("held_out")

    def kinds(*patterns: str, without: tuple[str, ...] = ()) -> list[Chat]:
        return [
            list(chat)
            for chat, kind in zip(own.conversations, own.kinds, strict=True)
            if any(fnmatchcase(kind, pattern) for pattern in patterns)
            and not any(fnmatchcase(kind, pattern) for pattern in without)
        ]

    return [
        PromptGroup("cast_harmless", "CAST harmless test", _single([row["harmless"] for row in _cast(data)])),
        PromptGroup("gsm8k", f"GSM8K test, {_span(gsm8k)}", _single(gsm8k)),
        PromptGroup("pubmedqa", f"PubMedQA questions, {_span(pubmed)}", _single(pubmed)),
        PromptGroup("truthfulqa", f"TruthfulQA, {_span(truthful)}", _single(truthful)),
        PromptGroup("cyberseceval", f"CyberSecEval false-refusal test, {_span(cyber)}", _single(cyber)),
        PromptGroup("own_ordinary", "own ordinary benign prompts, held_out", kinds("*", without=HARD_KINDS)),
        PromptGroup("own_role_play", "own long benign role play, held_out", kinds("role_play")),
        PromptGroup("own_scary", "own scary but safe prompts (hard), held_out", kinds("scary")),
        PromptGroup("own_twins", "own harmless twins of harmful prompts (hard), held_out", kinds("*_twin")),
    ]


def _advbench(data: Path) -> list[tuple[str, str]]:
    with (data / "advbench" / "harmful_behaviors.csv").open(encoding="utf-8", newline="") as file:
        return [(row["goal"], row["target"]) for row in csv.DictReader(file)][260:520]


def _cast(data: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((data / "cast" / "condition_harmful.json").read_text(encoding="utf-8"))[
        "test"
    ]
    return found


def _span(rows: list[str]) -> str:
    return f"rows {SEEN}-{SEEN + len(rows) - 1}"


def _single(texts: list[str]) -> list[Chat]:
    return [[{"role": "user", "content": text}] for text in texts]
