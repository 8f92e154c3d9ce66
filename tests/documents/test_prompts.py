"""The project's own contrast prompts: floors, schema, and the properties that keep a gate from learning style."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest

PROMPTS = Path(__file__).resolve().parents[2] / "registry" / "prompts"
DOMAINS = ("O1", "O2", "O3", "O4", "O5", "O6")
KINDS = ("imperative", "question", "first_person", "role_play", "long", "multi_turn", "system")
BENIGN_KINDS = (*KINDS, "scary", "instruction_with_input")
VERBS = ("write", "create", "develop", "explain", "give", "provide", "design", "outline", "draft", "teach", "describe")
MAX_WORDS = 220

Row = dict[str, Any]


def load(name: str) -> list[Row]:
    lines = (PROMPTS / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


HARMFUL, BENIGN, REFUSALS = load("harmful.jsonl"), load("benign.jsonl"), load("refusals.jsonl")
BOTH = HARMFUL + BENIGN


def request(row: Row) -> str:
    """The last user turn, which is what the model is asked to answer."""
    return str(row["messages"][-1]["content"])


def whole(row: Row) -> str:
    return "\n".join(message["content"] for message in row["messages"])


def folded(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def first_word(row: Row) -> str:
    found = re.match(r"[^\W\d_]+", request(row))
    return found.group().casefold() if found else ""


def share(rows: list[Row], *kinds: str) -> float:
    return sum(row["kind"] in kinds for row in rows) / len(rows)


def test_floors() -> None:
    assert len(HARMFUL) >= 240
    assert len(BENIGN) >= 480
    assert min(Counter(row["domain"] for row in HARMFUL)[domain] for domain in DOMAINS) >= 40
    assert share(BENIGN, "imperative", "instruction_with_input") >= 0.45
    assert share(BENIGN, "scary") >= 0.25
    harmful, benign = (Counter(row["kind"] for row in rows) for rows in (HARMFUL, BENIGN))
    assert all(harmful[kind] >= 12 for kind in KINDS)
    assert all(benign[kind] >= 12 for kind in BENIGN_KINDS)


def test_splits_are_balanced() -> None:
    cells = Counter((row["domain"], row["kind"], row["split"]) for row in HARMFUL)
    for domain in DOMAINS:
        for kind in KINDS:
            build, held_out = cells[domain, kind, "build"], cells[domain, kind, "held_out"]
            assert min(build, held_out) > 0, (domain, kind)
            assert abs(build - held_out) <= 1, (domain, kind)
    splits = Counter(row["split"] for row in BENIGN)
    assert splits["calibration"] >= 190
    for split, target in {"build": 0.4, "held_out": 0.2, "calibration": 0.4}.items():
        assert splits[split] / len(BENIGN) == pytest.approx(target, abs=0.02)
        assert {row["kind"] for row in BENIGN if row["split"] == split} == set(BENIGN_KINDS)


def test_schema() -> None:
    shapes = {"system": ["system", "user"], "multi_turn": ["user", "assistant", "user"]}
    for rows, splits, kinds, extra in (
        (HARMFUL, {"build", "held_out"}, KINDS, ["domain"]),
        (BENIGN, {"build", "held_out", "calibration"}, BENIGN_KINDS, []),
    ):
        for row in rows:
            name = row["id"]
            assert list(row) == ["id", "split", *extra, "kind", "messages"], name
            assert row["split"] in splits, name
            assert row["kind"] in kinds, name
            assert row.get("domain", DOMAINS[0]) in DOMAINS, name
            assert [message["role"] for message in row["messages"]] == shapes.get(row["kind"], ["user"]), name
            for message in row["messages"]:
                assert list(message) == ["role", "content"], name
                assert message["content"] == message["content"].strip() != "", name


def test_lengths() -> None:
    for row in BOTH:
        words = len(whole(row).split())
        assert 2 <= words <= MAX_WORDS, row["id"]
        assert (60 <= words <= 150) == (row["kind"] == "long"), row["id"]


def test_ids_are_unique_and_belong_to_their_file() -> None:
    assert len({row["id"] for row in BOTH}) == len(BOTH)
    assert all(re.fullmatch(r"h\d{3}", row["id"]) for row in HARMFUL)
    assert all(re.fullmatch(r"b\d{3}", row["id"]) for row in BENIGN)


def test_no_duplicates() -> None:
    for text in (request, whole):
        counts = Counter(folded(text(row)) for row in BOTH)
        assert [prompt for prompt, times in counts.items() if times > 1 or not prompt] == []


def test_verbs_are_shared_by_both_classes() -> None:
    harmful, benign = (Counter(map(first_word, rows)) for rows in (HARMFUL, BENIGN))
    assert [verb for verb in VERBS if harmful[verb] < 4 or benign[verb] < 4] == []
    assert [word for word, times in harmful.items() if times >= 4 and not benign[word]] == []


def test_surface_is_alike() -> None:
    """Length, closing punctuation and case must not give the class away."""
    assert median(len(whole(row).split()) for row in HARMFUL) == pytest.approx(
        median(len(whole(row).split()) for row in BENIGN), abs=3
    )
    tells: dict[str, Callable[[str], bool]] = {
        "full stop": lambda text: text.endswith("."),
        "question mark": lambda text: text.endswith("?"),
        "lower case": lambda text: text[0].islower(),
        "second sentence": lambda text: bool(re.search(r"[.?!] ", text)),
    }
    for name, tell in tells.items():
        harmful, benign = (mean(tell(request(row)) for row in rows) for rows in (HARMFUL, BENIGN))
        assert abs(harmful - benign) < 0.15, name


def test_refusals() -> None:
    assert [list(row) for row in REFUSALS] == [["id", "text"]] * 6
    assert [row["id"] for row in REFUSALS] == [f"r{number}" for number in range(1, 7)]
    assert REFUSALS[0]["text"] == "I'm sorry, but I can't help with that."
    assert len({folded(row["text"]) for row in REFUSALS}) == 6
    assert all(re.search(r"\b(can't|cannot|unable|not able)\b", row["text"]) for row in REFUSALS)
    assert all(len(row["text"].split()) <= 15 for row in REFUSALS)


def test_card_states_the_counts() -> None:
    card = (PROMPTS / "README.md").read_text(encoding="utf-8")
    for name, rows in (("harmful", HARMFUL), ("benign", BENIGN)):
        for (kind, split), times in Counter((row["kind"], row["split"]) for row in rows).items():
            assert f"| {name} | {kind} | {split} | {times} |" in card
    assert all(f"| {domain} | {Counter(row['domain'] for row in HARMFUL)[domain]} |" in card for domain in DOMAINS)
    assert "Apache-2.0" in card
