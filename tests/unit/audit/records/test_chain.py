from __future__ import annotations

import enum
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import pytest
import rfc8785

from steerguard.audit.records.chain import canonical_line, leaf_hash
from steerguard.errors import AuditError


def test_keys_are_sorted_and_nothing_is_spaced():
    assert canonical_line({"b": 1, "a": [True, None, {"z": "", "B": -1}]}) == b'{"a":[true,null,{"B":-1,"z":""}],"b":1}'


def test_text_is_escaped_as_little_as_json_allows():
    record = {"t": '"\\/\b\t\n\f\r\x00\x1f\x7fé€\u2028😀'}
    assert canonical_line(record) == rfc8785.dumps(record)
    assert json.loads(canonical_line(record)) == record


def test_the_largest_integers_are_written_out():
    record = {"least": -(2**53) + 1, "most": 2**53 - 1}
    assert canonical_line(record) == rfc8785.dumps(record)


@dataclass
class Point:
    x: int = 1


class Text(str):
    __slots__ = ()


class Colour(enum.Enum):
    RED = "red"


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [Point(), Text("x"), datetime(2026, 1, 1, tzinfo=UTC), b"x", {1}, object(), 2**64, "\ud800", {1: "x"}, nested(300)],
    ids=["dataclass", "subclass", "time", "bytes", "set", "object", "integer", "surrogate", "key", "depth"],
)
def test_what_json_does_not_have_is_refused(value):
    with pytest.raises(ValueError, match="canonical form"):
        canonical_line({"value": value})


@pytest.mark.parametrize("value", [Colour.RED, uuid.UUID(int=0)])
def test_two_kinds_that_orjson_knows_are_what_their_json_says(value):
    """Enumerations and UUIDs never come this far: the allow-list builds plain values."""
    assert isinstance(json.loads(canonical_line({"value": value}))["value"], str)


def test_json_that_is_ready_is_put_in_as_it_is():
    known = orjson.Fragment(canonical_line({"b": 1, "a": 2}))
    assert (
        canonical_line({"z": known, "c": object()}, default=lambda _: known) == b'{"c":{"a":2,"b":1},"z":{"a":2,"b":1}}'
    )


def test_the_leaf_hash_is_that_of_rfc_6962():
    assert leaf_hash(b"") == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


def test_what_the_default_raises_comes_through_as_it_is():
    def refuse(_value):
        raise AuditError("No.")

    with pytest.raises(AuditError, match=r"No\.") as caught:
        canonical_line({"value": object()}, default=refuse)
    assert caught.value.__suppress_context__


def test_an_interrupt_while_a_line_is_made_comes_through():
    def interrupt(_value):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        canonical_line({"value": object()}, default=interrupt)
