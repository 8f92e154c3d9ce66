"""The reference page of audit records says something about every field, and is what the models say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from steerguard.audit.records import reference
from steerguard.audit.records.events import RECORDS
from steerguard.audit.records.reference import meaning_of, render
from steerguard.audit.records.reference_words import MEANINGS
from steerguard.policy.generated import keep_in_step

PAGE = Path(__file__).parents[4] / "docs" / "audit-records.md"
ROW = re.compile(r"^\| `(\w+)` \| (.*) \| (.*) \|$", re.MULTILINE)


def sections():
    return dict(re.findall(r"^### ([^\n]+)\n(.*?)(?=^##|\Z)", render(), re.MULTILINE | re.DOTALL))


def test_the_committed_page_is_the_generated_one():
    keep_in_step(render, ["--check", str(PAGE)], command="steerguard.audit.records.reference")


@pytest.mark.parametrize("kind", RECORDS)
def test_every_field_of_every_event_has_a_value_and_a_meaning(kind):
    envelope = {"v", "log", "seq", "t", "mono", "prev", "request_id", "trace_id", "tenant", "type"}
    wanted = {field.alias or name for name, field in RECORDS[kind].model_fields.items()} - envelope
    rows = ROW.findall(sections()[kind])
    assert {name for name, _, _ in rows} == wanted
    assert [name for name, value, meaning in rows if not value or not meaning.endswith(".")] == []


def test_every_part_that_is_linked_has_a_section():
    linked = set(re.findall(r"\]\(#(\w+)\)", render())) - {"values"}
    assert linked == {name.lower() for name in sections() if name not in RECORDS}


def test_no_words_are_left_that_no_field_uses(monkeypatch):
    used = set()

    class Watched(dict):
        def get(self, key, default=None):
            used.update({key} & set(self))
            return super().get(key, default)

        def __getitem__(self, key):
            used.add(key)
            return super().__getitem__(key)

    monkeypatch.setattr(reference, "MEANINGS", Watched(MEANINGS))
    render()
    assert set(MEANINGS) - used == set()


def test_a_field_that_nothing_is_said_about_is_an_error():
    with pytest.raises(KeyError):
        meaning_of("log.open", "nothing", {})
