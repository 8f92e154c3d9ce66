"""Whatever bytes a registry hands out, a parser returns a document or raises its one documented error."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.registry_parsers import PARSERS

from steerguard.errors import SteerguardError
from steerguard.signing.dsse import pre_authentication_encoding

INPUTS = 2000


def outcome(parser, content):
    """Return what the parser said of the input: `accepted`, or the summary of its error."""
    refusal = None
    try:
        written = parser.accept(content)
    except SteerguardError as error:
        refusal = error
    if refusal is None:
        assert written is None or written == content
        return "accepted"
    assert type(refusal) is parser.error, refusal
    assert refusal.where is not None
    assert len(str(refusal)) < parser.message_limit
    return refusal.summary


@pytest.mark.parametrize("name", PARSERS)
def test_a_valid_document_is_accepted(name):
    assert outcome(PARSERS[name], PARSERS[name].valid) == "accepted"


@pytest.mark.parametrize("name", PARSERS)
def test_hostile_inputs_give_documented_errors_only(name):
    parser = PARSERS[name]
    draw = random.Random(f"{name} 2026-11-22")
    outcomes = Counter(outcome(parser, parser.draw(draw)) for _ in range(INPUTS))
    assert sum(outcomes.values()) == INPUTS
    # The inputs reach every depth: some are still valid, and many kinds of damage are told apart.
    assert outcomes["accepted"] < INPUTS / 2
    assert len(outcomes) >= (2 if name == "envelope" else 4)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=300))
@example(content=b"")
@example(content=b"{}")
@example(content=b"null")
def test_any_bytes_give_documented_errors_only(name, content):
    outcome(PARSERS[name], content)


@pytest.mark.parametrize("name", PARSERS)
def test_a_document_of_one_kind_is_none_of_another(name):
    for other, parser in PARSERS.items():
        assert (outcome(PARSERS[name], parser.valid) == "accepted") == (other == name)


@given(payload=st.binary(max_size=60), kind=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_what_is_signed_tells_type_and_payload_apart_again(payload, kind):
    head, length, rest = pre_authentication_encoding(payload, kind).split(b" ", 2)
    found_kind, (length_of_payload, found) = rest[: int(length)], rest[int(length) + 1 :].split(b" ", 1)
    assert (head, found_kind.decode(), found) == (b"DSSEv1", kind, payload)
    assert int(length_of_payload) == len(payload)


@pytest.mark.parametrize("name", PARSERS)
def test_every_cut_of_a_valid_document_is_refused(name):
    valid = PARSERS[name].valid
    for length in range(0, len(valid), max(1, len(valid) // 200)):
        assert outcome(PARSERS[name], valid[:length]) != "accepted"
