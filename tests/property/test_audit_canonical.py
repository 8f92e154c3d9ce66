from __future__ import annotations

import json

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from steerguard.audit.records.chain import canonical_line

keys = st.text(st.characters(max_codepoint=127), max_size=8)
strings = st.text(st.characters(exclude_categories=["Cs"]))
integers = st.integers(-(2**53) + 1, 2**53 - 1)
values = st.recursive(
    st.none() | st.booleans() | integers | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)
records = st.dictionaries(keys, values)


@given(records)
def test_the_canonical_line_is_rfc_8785(record):
    assert canonical_line(record) == rfc8785.dumps(record)


@given(records)
def test_it_is_what_the_standard_library_writes_with_sorted_keys(record):
    plain = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical_line(record) == plain.encode("utf-8")


@given(records)
def test_a_canonical_line_stays_as_it_is(record):
    line = canonical_line(record)
    assert canonical_line(json.loads(line)) == line
    assert b"\n" not in line
