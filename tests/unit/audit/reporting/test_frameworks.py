"""The table of requirements: every row names what exists, what it does not cover, and claims no conformity."""

from __future__ import annotations

import re

from steerguard.audit.records.events import RECORDS
from steerguard.audit.reporting.frameworks import CAUTION, CERTAINTY, FRAMEWORK_NAMES, HELP, TITLES, help_for

TYPE = re.compile(r"\b(?:log|guard|policy|artifact|budget|content)\.[a-z_]+\b")


def texts():
    for entry in HELP:
        yield from (entry.asks, entry.lacks, *entry.helps)


def test_every_record_type_that_is_named_exists():
    named = {name for text in texts() for name in TYPE.findall(text)}
    assert len(named) > 8
    assert named <= set(RECORDS)


def test_nothing_claims_conformity():
    for text in (*texts(), CAUTION, *CERTAINTY.values()):
        assert not re.search(r"complian|conform|certif|guarantee", text, flags=re.IGNORECASE)


def test_every_row_says_what_it_does_not_cover():
    assert all(entry.helps and entry.lacks.endswith(".") and entry.asks.endswith(".") for entry in HELP)


def test_the_requirements_of_the_issue_are_there():
    found = {name: " ".join(entry.control for entry in help_for(name)) for name in FRAMEWORK_NAMES}
    for name, controls in {
        "eu-ai-act": ("Art. 12", "Art. 19", "Art. 26(6)"),
        "iso-42001": ("A.6.2.8",),
        "nist-ai-rmf": ("MEASURE", "MANAGE"),
        "soc2": ("CC7.2", "CC7.3", "CC8.1"),
        "gdpr": ("5(1)", "Art. 17", "25", "Art. 32"),
    }.items():
        assert all(control in found[name] for control in controls)
    assert set(TITLES) == set(CERTAINTY) == set(FRAMEWORK_NAMES)
    assert len(help_for(None)) == len(HELP)


def test_periods_come_with_their_article():
    for entry in HELP:
        if entry.control in {"Art. 19", "Art. 26(6)"}:
            assert "at least six months" in entry.asks
