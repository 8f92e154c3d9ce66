"""What a set of prompts is called on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerguard.errors import SteerguardError
from steerguard.evaluate.prompt_spec import parse_spec, parse_specs


def parts(text):
    spec = parse_spec(text)
    return spec.name, str(spec.path), spec.column, spec.prefill, spec.start, spec.stop


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.txt", ("a", "a.txt", None, None, None, None)),
        ("a.txt.gz[5:]", ("a", "a.txt.gz", None, None, 5, None)),
        ("adv=d/adv.csv#goal+target[260:520]", ("adv", "d/adv.csv", "goal", "target", 260, 520)),
        ("x.jsonl+start[:3]", ("x", "x.jsonl", None, "start", None, 3)),
        ("x.json#test.harmful", ("x", "x.json", "test.harmful", None, None, None)),
        ("data.csv/b+c/my file.v2.json#a b", ("my-file.v2", "data.csv/b+c/my file.v2.json", "a b", None, None, None)),
        ("./a=b.csv#q", ("a-b", "a=b.csv", "q", None, None, None)),
        ("n=a=b.csv", ("n", "a=b.csv", None, None, None, None)),
        ("x.json#a#b", ("x", "x.json", "a#b", None, None, None)),
    ],
)
def test_a_specification_is_read_part_by_part(text, expected):
    assert parts(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompts.cvs#goal", "Did you mean `.csv`"),
        ("prompts", "no suffix"),
        ("", "no suffix"),
        ("a.csv#", "empty column"),
        ("a.csv#q+", "empty column"),
        ("a.csv[3:3]", "empty"),
        ("a.csv[-3:]", "cannot be read"),
        ("a.csv[1]", "cannot be read"),
        ("a.txt#goal", "no columns"),
        ("a.txt+target", "no prefill column"),
    ],
)
def test_a_wrong_one_is_refused_with_what_is_legal(text, said):
    with pytest.raises(SteerguardError) as caught:
        parse_spec(text)
    assert said in str(caught.value)
    assert caught.value.expected is not None


def test_two_sets_need_two_names():
    with pytest.raises(SteerguardError, match="same name"):
        parse_specs(["a/x.txt"], ["b/x.csv"])
    harmful, benign = parse_specs(["a/x.txt"], ["y=b/x.csv"])
    assert (harmful[0].name, benign[0].name, benign[0].path) == ("x", "y", Path("b/x.csv"))


def test_no_set_at_all_is_refused():
    with pytest.raises(SteerguardError, match="nothing to evaluate"):
        parse_specs([], [])
