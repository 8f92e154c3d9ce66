"""Prompt files of every kind, and everything that can be wrong with them."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerguard.errors import SteerguardError
from steerguard.evaluate.prompt_files import read_prompts
from steerguard.evaluate.prompt_spec import parse_spec

SECRET = "do not print this prompt"
CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
ROWS = [{"goal": "one", "target": "Sure"}, {"goal": "two", "target": "Yes"}]


def read(folder, name, content, rest=""):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return read_prompts(parse_spec(f"{path}{rest}"), "refuse")


def texts(prompts):
    return [prompts.prompt(index) for index in range(len(prompts))]


@pytest.mark.parametrize(
    ("name", "content", "rest"),
    [
        ("a.txt", "one\r\ntwo\n\n", ""),
        ("a.txt", "\ufeffone\ntwo", ""),
        ("a.txt.gz", "zero\none\ntwo\nthree", "[1:3]"),
        ("a.csv", "goal,target\none,Sure\ntwo,Yes\n", "#goal"),
        ("a.csv", "goal\none\ntwo\n", ""),
        ("a.csv", ",goal\n0,one\n1,two\n", "#goal"),
        ("a.csv", "Is this a good question to ask?\none\ntwo\n", "#Is this a good question to ask?"),
        ("a.csv.gz", 'goal,n\n"one",1\n"two",2\n', "#goal"),
        ("a.json", '["one", "two"]', ""),
        ("a.json", json.dumps(ROWS), "#goal"),
        ("a.json", json.dumps({"train": [], "test": ROWS}), "#test.goal"),
        ("a.json", json.dumps({"test": ["one", "two"], "x": []}), "#test"),
        ("a.json", json.dumps({"only": ["one", "two"]}), ""),
        ("a.json", json.dumps({"a": {"b.c": ["one", "two"]}, "d": []}), "#a.b.c"),
        ("a.json", json.dumps([{"q": {"text": "one"}}, {"q": {"text": "two"}}]), "#q.text"),
        ("a.jsonl", '{"q": "one"}\n{"q": "two"}\n', ""),
        ("a.jsonl", '{"q": "one", "n": 1}\n{"q": "two"}\n\n', "#q"),
        ("a.jsonl.gz", '"one"\n"two"', ""),
    ],
)
def test_every_kind_of_file_gives_the_same_prompts(tmp_path, name, content, rest):
    prompts = read(tmp_path, name, content, rest)
    assert texts(prompts) == ["one", "two"]
    assert prompts.described().sha256 == read(tmp_path, "plain.txt", "one\ntwo").described().sha256


def test_chats_are_taken_where_no_column_is_named(tmp_path):
    prompts = read(tmp_path, "a.jsonl", json.dumps({"id": 1, "kind": "x", "messages": CHAT}))
    assert prompts.conversations == (tuple(CHAT),)
    assert texts(prompts) == ["hello"]


@pytest.mark.parametrize("rest", ["#test.goal+target", "#test.goal+test.target"])
def test_a_prefill_column_may_repeat_the_names_in_front(tmp_path, rest):
    prompts = read(tmp_path, "a.json", json.dumps({"test": ROWS, "train": []}), rest)
    assert prompts.prefills == ("Sure", "Yes")
    assert prompts.described().prefilled


def test_prefills_change_the_digest(tmp_path):
    csv = "goal,target\none,Sure\ntwo,Yes\n"
    plain, forced = (read(tmp_path, "a.csv", csv, rest).described() for rest in ("#goal", "#goal+target"))
    assert plain.sha256 != forced.sha256


@pytest.mark.parametrize(
    ("name", "content", "rest", "said"),
    [
        ("a.txt", f"{SECRET}\n\nthree", "", ("line 2", "empty")),
        ("a.txt", "\n\n", "", ("no prompts",)),
        ("a.txt", f"{SECRET}\n", "[0:9]", ("rows 0 to 1", "[0:9]")),
        ("a.txt", "one\n", "[1:]", ("beyond the file",)),
        ("a.txt", b"one\n\xff\xfe", "", ("not UTF-8", "line 2")),
        ("a.csv", f"goal,target\n{SECRET},Sure\n", "#gaol", ("goal, target", "Did you mean `goal`?")),
        ("a.csv", f"goal,target\n{SECRET},Sure\n", "", ("goal, target", "none is named")),
        ("a.csv", f"goal,target\n{SECRET},Sure\n", "#goal+targets", ("Did you mean `target`?",)),
        ("a.csv", f"goal,target\n{SECRET}\n", "#goal", ("line 2", "2 cells")),
        ("a.csv", f"goal,target\n{SECRET},a,b\n", "#goal", ("line 2", "2 cells")),
        ("a.csv", f"goal,target\n{SECRET},\n", "#goal+target", ("line 2", "empty")),
        ("a.csv", f'goal,target\n"{SECRET},a', "#goal", ("cannot be read",)),
        ("a.csv", "goal,goal\na,b\n", "#goal", ("header", "twice: goal")),
        ("a.csv", "", "#goal", ("no prompts",)),
        ("a.csv", f"{SECRET}\nsecond prompt\n", "", ("line 1", "seems to have no header")),
        ("a.csv", f"Why? {SECRET},b\nx,y\n", "", ("line 1", "seems to have no header")),
        ("a.csv", f"{SECRET},{SECRET}\nx,y\n", "", ("header", "twice: 1 column")),
        ("a.csv", f"{SECRET},b\nx,y\n", "", ("2 columns", "Write PATH#COLUMN")),
        ("a.json", json.dumps({SECRET: "x", "b": "y"}), "", ("none is named",)),
        ("a.json", json.dumps({SECRET: ["x"], f"{SECRET}!": ["y"]}), "", ("2 columns",)),
        ("a.json", json.dumps({SECRET: ["x"], "b": ["y"]}), "#do.not.print.this.prompt", ("2 columns",)),
        ("a.json", json.dumps([{SECRET: "x"}, "b"]), "", ("a longer name",)),
        ("a.json", json.dumps([{SECRET: "x"}, {}]), "", ("row 1", "lacks the column")),
        ("a.json", json.dumps([{"q": "x"}, {SECRET: "x"}]), "#q", ("row 1", "1 column")),
        ("a.json", json.dumps([{f"c{index}": "x" for index in range(21)}]), "", ("21 columns",)),
        ("a.jsonl", json.dumps({"messages": [{SECRET: "user"}]}), "", ("role and content", "1 column")),
        ("a.csv", 'goal\n"a"\n""\n', "#goal", ("line 3", "empty")),
        ("a.json", f'["{SECRET}"', "", ("not JSON", "line 1")),
        ("a.json", json.dumps({"train": ROWS, "test": ROWS}), "", ("train.goal", "test.target")),
        ("a.json", json.dumps({"train": ROWS, "test": ROWS}), "#test.gaol", ("Did you mean `test.goal`?",)),
        ("a.json", json.dumps({"train": ROWS, "test": ROWS}), "#tset.goal", ("Did you mean `test.goal`?",)),
        ("a.json", json.dumps({"a": {"b": 3}}), "", ("no list",)),
        ("a.json", "3", "", ("no list", "a number")),
        ("a.json", json.dumps([SECRET, None]), "", ("row 1", "empty")),
        ("a.json", json.dumps([SECRET]), "#goal", ("rows are texts",)),
        ("a.json", json.dumps([{"q": SECRET}, {"q": 7}]), "#q", ("row 1", "int")),
        ("a.json", json.dumps([{"q": SECRET}, {"r": "x"}]), "#q", ("row 1", "lacks the column")),
        ("a.json", '[{"q": "\\ud800"}]', "#q", ("row 0", "half a character")),
        ("a.jsonl", '{"q": "a"}\n\n{"q": "b"}', "", ("line 2", "empty")),
        ("a.jsonl", '{"q": "a"}\n{"q": ', "", ("line 2", "not JSON")),
        ("a.jsonl", json.dumps({"messages": []}), "", ("line 1", "empty")),
        ("a.jsonl", json.dumps({"messages": [*CHAT, {"role": "assistant", "content": "hi"}]}), "", ("assistant",)),
        ("a.jsonl", json.dumps({"messages": [{"role": "boss", "content": SECRET}]}), "", ("system, user, assistant",)),
        ("a.jsonl", json.dumps({"messages": [{"role": "user"}]}), "", ("role and content",)),
        ("a.jsonl", json.dumps({"messages": [{"role": "user", "content": [SECRET]}]}), "", ("line 1", "list")),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_never_with_the_prompt(tmp_path, name, content, rest, said):
    with pytest.raises(SteerguardError) as caught:
        read(tmp_path, name, content, rest)
    message = str(caught.value)
    for word in (*said, "a."):
        assert word in message
    assert SECRET not in message


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "prompts.txt").write_text("x", encoding="utf-8")
    with pytest.raises(SteerguardError, match=r"prompts\.txt"):
        read_prompts(parse_spec(str(tmp_path / "promts.txt")), "answer")


def test_a_torn_compressed_file_is_said_to_be_one(tmp_path):
    whole = gzip.compress(b"one\n" * 100)
    for content in (whole[: len(whole) // 2], b"one\n"):
        (tmp_path / "a.txt.gz").write_bytes(content)
        with pytest.raises(SteerguardError, match="compressed"):
            read_prompts(parse_spec(str(tmp_path / "a.txt.gz")), "answer")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip), min_size=1, max_size=8))
def test_any_text_survives_json_lines(tmp_path_factory, prompts):
    content = "\n".join(json.dumps({"q": text}) for text in prompts)
    assert texts(read(tmp_path_factory.mktemp("any"), "a.jsonl", content)) == prompts
