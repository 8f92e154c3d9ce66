from __future__ import annotations

import json

import pytest

from steerguard.errors import PolicySyntaxError
from steerguard.policy.problems import Position, Problems
from steerguard.policy.yaml_subset import MAX_BYTES, MAX_DEPTH, read_document


def data_of(text: str, file: str = "x.yaml") -> object:
    return read_document(text, file=file).data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("+12", 12),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("TRUE", True),
        ("False", False),
        ("on", "on"),
        ("Off", "Off"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("y", "y"),
        ("tRue", "tRue"),
        ("190:20:30", "190:20:30"),
        ("1_000", "1_000"),
        ("0b101", "0b101"),
        ("2027-01-31", "2027-01-31"),
        ("1.0.0", "1.0.0"),
        ("=", "="),
        ("~", None),
        ("", None),
        ("'true'", "true"),
        ('"1"', "1"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = data_of(f"key: {text}\n")
    assert found == {"key": value}
    assert isinstance(found, dict)
    assert type(found["key"]) is type(value)


def test_block_scalars_are_text() -> None:
    assert data_of("a: |\n  12\nb: >-\n  true\n") == {"a": "12\n", "b": "true"}


def test_positions_are_those_of_keys_and_list_items() -> None:
    positions = read_document("a:\n  - b: 1\n    c:\n      2\n", file="x.yaml").positions
    assert positions["a",] == Position(line=1, column=1)
    assert positions["a", 0] == Position(line=2, column=5)
    assert positions["a", 0, "c"] == Position(line=3, column=5)


def test_numbers_keep_the_text_they_were_written_as() -> None:
    assert read_document("a: 1.10\nb: '1.10'\n", file="x.yaml").written == {("a",): "1.10"}


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"b":[true,null,"\\ud83d\\ude00","\\/"],"c":{"d":-1.5E-3}}',
        '{\n\t"a": 1,\n\t"b": ["x"]\n}',
        '\ufeff{"a": {}}',
    ],
)
def test_json_is_read_as_json(text: str) -> None:
    assert data_of(text, "x.json") == json.loads(text.removeprefix("\ufeff"))


def test_json_errors_carry_line_and_column() -> None:
    with pytest.raises(PolicySyntaxError) as caught:
        data_of('{\n  "a": 1,\n}', "x.json")
    assert isinstance(caught.value.where, Problems)
    (problem,) = caught.value.where
    assert problem.position is not None
    assert problem.position.line >= 2
    assert "Not valid JSON" in str(caught.value)


def test_duplicate_keys_are_refused_in_json_too() -> None:
    with pytest.raises(PolicySyntaxError, match="stands twice"):
        data_of('{"a": 1, "a": 2}', "x.json")


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "\ufeff"])
def test_empty_documents_are_refused(text: str) -> None:
    with pytest.raises(PolicySyntaxError, match="empty"):
        data_of(text)


def test_depth_is_limited() -> None:
    data_of("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(PolicySyntaxError, match="levels deep"):
        data_of("[" * 5000 + "]" * 5000)
    with pytest.raises(PolicySyntaxError, match="levels deep"):
        data_of("[" * 100_000 + "]" * 100_000, "x.json")


def test_size_is_limited_in_bytes() -> None:
    with pytest.raises(PolicySyntaxError, match="too large"):
        data_of("# " + "é" * (MAX_BYTES // 2) + "\na: 1")


def test_long_numbers_are_refused() -> None:
    with pytest.raises(PolicySyntaxError, match="at most 64"):
        data_of(f"a: {'9' * 5000}")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("%YAML 1.1\n---\na: 1", "directives"),
        ("%TAG ! tag:x,2000:\n---\na: 1", "directives"),
        ("a: ! 1", "tag"),
        ('a: "\\Uffffffff"', "not a Unicode character"),
        ('a: "\\U00110000"', "not a Unicode character"),
        ("&a x: 1", "anchor"),
        ("a: &x [1]\nb: *x", "alias"),
        ("*a : 1", "alias"),
        ("a: 1\n...\n---\nb: 2", "second one"),
    ],
)
def test_what_lies_outside_the_subset_is_refused(text: str, part: str) -> None:
    with pytest.raises(PolicySyntaxError, match=part):
        data_of(text)


def test_one_document_start_line_is_fine() -> None:
    assert data_of("---\na: 1\n...\n") == {"a": 1}


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(PolicySyntaxError, match="anchor"):
        data_of("\n".join(lines))
