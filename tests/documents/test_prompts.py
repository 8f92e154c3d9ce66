"""The project's own contrast prompts: floors, schema, and the properties that keep a gate from learning style."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest

PROMPTS = Path(__file__).resolve().parents[2] / "registry" / "prompts"
DOMAINS = ("O1", "O2", "O3", "O4", "O5", "O6")
KINDS = ("imperative", "question", "first_person", "role_play", "long", "multi_turn", "system")
HARMFUL_KINDS = (*KINDS, "jailbreak")
STYLES = (*KINDS, "instruction_with_input")
TWINS = tuple(f"{kind}_twin" for kind in STYLES)
BENIGN_KINDS = (*STYLES, *TWINS, "scary", "cyber", "research_question", "word_problem")
SPLIT_SHARES = {
    "harmful": {"build": 0.64, "held_out": 0.36},
    "benign": {"build": 0.6, "calibration": 0.2, "held_out": 0.2},
}
VERBS = ("write", "create", "develop", "explain", "give", "provide", "design", "outline", "draft", "teach", "describe")
MAX_WORDS = 325
PLAIN_MAX_WORDS = 270

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
    assert (
        share(BENIGN, "imperative", "instruction_with_input", "imperative_twin", "instruction_with_input_twin") >= 0.4
    )
    assert share(BENIGN, "scary", "cyber", *TWINS) >= 0.25
    harmful, benign = (Counter(row["kind"] for row in rows) for rows in (HARMFUL, BENIGN))
    assert all(harmful[kind] >= 12 for kind in HARMFUL_KINDS)
    assert all(benign[kind] >= 12 for kind in BENIGN_KINDS)


def test_every_split_has_every_kind_in_its_share() -> None:
    for name, rows, kinds in (("harmful", HARMFUL, HARMFUL_KINDS), ("benign", BENIGN, BENIGN_KINDS)):
        splits = Counter(row["split"] for row in rows)
        assert set(splits) == set(SPLIT_SHARES[name])
        for split, target in SPLIT_SHARES[name].items():
            assert splits[split] / len(rows) == pytest.approx(target, abs=0.02)
            assert {row["kind"] for row in rows if row["split"] == split} == set(kinds)
    cells = Counter((row["domain"], row["kind"], row["split"]) for row in HARMFUL)
    assert [cell for cell in product(DOMAINS, KINDS, SPLIT_SHARES["harmful"]) if not cells[cell]] == []


def test_prompts_of_one_making_share_a_split() -> None:
    """Jailbreaks out of one wrapper, and templated rows out of one group, are never measured on what built."""
    for field, rows in (("wrapper", HARMFUL), ("group", BENIGN)):
        splits: dict[int, set[str]] = {}
        for row in rows:
            if field in row:
                splits.setdefault(row[field], set()).add(row["split"])
        assert splits
        assert [number for number, found in splits.items() if len(found) > 1] == []


def test_a_twin_names_a_harmful_row() -> None:
    known = {row["id"] for row in HARMFUL}
    twins = [row for row in BENIGN if "twin_of" in row]
    assert [row["id"] for row in twins if row["twin_of"] not in known or row["kind"] not in TWINS] == []


def test_schema() -> None:
    turns = ["user", "assistant", "user"]
    shapes = {"system": [["system", "user"]], "multi_turn": [turns, ["user", "assistant", *turns]]}
    for rows, splits, kinds, extra in (
        (HARMFUL, {"build", "held_out"}, HARMFUL_KINDS, ["domain"]),
        (BENIGN, {"build", "held_out", "calibration"}, BENIGN_KINDS, []),
    ):
        for row in rows:
            name = row["id"]
            origin = [field for field in ("wrapper", "group", "twin_of") if field in row]
            assert len(origin) <= 1, name
            assert list(row) == ["id", "split", *extra, "kind", *origin, "messages"], name
            assert ("wrapper" in row) == (row["kind"] == "jailbreak"), name
            assert row["split"] in splits, name
            assert row["kind"] in kinds, name
            assert row.get("domain", DOMAINS[0]) in DOMAINS, name
            roles = [message["role"] for message in row["messages"]]
            assert roles in shapes.get(row["kind"].removesuffix("_twin"), [["user"]]), name
            for message in row["messages"]:
                assert list(message) == ["role", "content"], name
                assert message["content"] == message["content"].strip() != "", name


def test_lengths() -> None:
    for row in BOTH:
        words = len(whole(row).split())
        assert 2 <= words <= (MAX_WORDS if row["kind"] == "jailbreak" else PLAIN_MAX_WORDS), row["id"]
        assert row["kind"].removesuffix("_twin") != "long" or words >= 60, row["id"]


def test_ids_are_unique_and_belong_to_their_file() -> None:
    assert len({row["id"] for row in BOTH}) == len(BOTH)
    assert all(re.fullmatch(r"h\d{3,4}", row["id"]) for row in HARMFUL)
    assert all(re.fullmatch(r"b\d{3,4}", row["id"]) for row in BENIGN)


def test_no_duplicates() -> None:
    for text in (request, whole):
        counts = Counter(folded(text(row)) for row in BOTH)
        assert [prompt for prompt, times in counts.items() if times > 1 or not prompt] == []


def test_verbs_are_shared_by_both_classes() -> None:
    harmful, benign = (Counter(map(first_word, rows)) for rows in (HARMFUL, BENIGN))
    assert [verb for verb in VERBS if harmful[verb] < 4 or benign[verb] < 4] == []
    plain = Counter(first_word(row) for row in HARMFUL if row["kind"] != "jailbreak")
    alone = sum(times for word, times in plain.items() if times >= 4 and not benign[word])
    assert alone / plain.total() < 0.01


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
    assert [list(row) for row in REFUSALS] == [["id", "text"]] * 24
    assert [row["id"] for row in REFUSALS] == [f"r{number}" for number in range(1, 25)]
    assert REFUSALS[0]["text"] == "I'm sorry, but I can't help with that."
    assert len({folded(row["text"]) for row in REFUSALS}) == 24
    assert all(re.search(r"\b(can't|cannot|unable|not able)\b", row["text"]) for row in REFUSALS)
    assert all(len(row["text"].split()) <= 15 for row in REFUSALS)


def test_card_states_the_counts() -> None:
    card = (PROMPTS / "README.md").read_text(encoding="utf-8")
    for name, rows in (("harmful", HARMFUL), ("benign", BENIGN)):
        for (kind, split), times in Counter((row["kind"], row["split"]) for row in rows).items():
            assert f"| {name} | {kind} | {split} | {times} |" in card
    assert all(f"| {domain} | {Counter(row['domain'] for row in HARMFUL)[domain]} |" in card for domain in DOMAINS)
    assert "Apache-2.0" in card
