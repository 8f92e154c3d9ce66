from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proven_logs import KEY, LOG, OTHER_KEY, SIGNER, head_over, lines_of

from steerguard.audit.evidence.checkpoint import TreeHead
from steerguard.audit.evidence.note import sign_note
from steerguard.audit.evidence.tree import inclusion_path
from steerguard.audit.proving.proof import PROOF_FORMAT, SCRIPT_NAME, Proof, proof_document, script_content
from steerguard.audit.proving.standalone import verify_proof as script
from steerguard.signing.keys import SigningKey

SIZE = 11


def proof_of(seq, size=SIZE, *, lines=None, head=None, key=KEY):
    lines = lines_of(size) if lines is None else lines
    leaves = [hashlib.sha256(b"\x00" + line).digest() for line in lines[:size]]
    head = head_over(lines, size) if head is None else head
    return Proof.of(seq, lines[seq], head.note.content, inclusion_path(seq, size, leaves), key.text)


def fields_of(proof):
    return json.loads(proof_document([proof]))["proofs"][0]


def accepts(fields, key=KEY.text):
    """Whether the script's own function takes the proof; what it raises is what `main` reports."""
    try:
        script._checked(key, **fields)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return False
    return True


# The script as somebody without this package runs it.


@pytest.fixture
def alone(tmp_path):
    """Run the script in a folder that holds nothing else, without site packages and without the environment."""
    (tmp_path / SCRIPT_NAME).write_bytes(script_content())

    def run(document, *arguments):
        (tmp_path / "proof.json").write_text(document, encoding="utf-8")
        command = [sys.executable, "-I", "-S", "-W", "error", SCRIPT_NAME, *arguments]
        return subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_a_proof_is_proven_by_python_alone(alone):
    proof = proof_of(7)
    result = alone(proof_document([proof]), "proof.json", "--key", KEY.text)
    assert (result.returncode, result.stderr) == (0, "")
    name = f"{KEY.name}+{KEY.hash}"
    assert (
        result.stdout
        == f"Proven: record 7 of log {LOG} is in the tree of 11 records that {name} signed:\n{proof.record}\n"
    )


def test_several_proofs_are_proven_together_or_not_at_all(alone):
    good, altered = proof_of(3), fields_of(proof_of(8))
    result = alone(proof_document([good, proof_of(8)]), "proof.json", "--key", KEY.text)
    assert (result.returncode, result.stdout.count("Proven: ")) == (0, 2)
    altered["record"] = altered["record"].replace("request-3", "request-4")
    result = alone(
        json.dumps({"format": PROOF_FORMAT, "proofs": [fields_of(good), altered]}), "proof.json", "--key", KEY.text
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert "not at this place in the tree" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [(), ("proof.json",), ("proof.json", "--key"), ("proof.json", KEY.text), ("--key", KEY.text), ("a", "b", "c", "d")],
)
def test_without_a_key_nothing_is_proven(alone, arguments):
    result = alone(proof_document([proof_of(7)]), *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert "KEY FROM ITS OWNER" in result.stderr


@pytest.mark.parametrize("key", ["", "a", "a+b", KEY.text + "=", KEY.text[:-1], OTHER_KEY.text, f" {KEY.text}"])
def test_under_another_key_nothing_is_proven(alone, key):
    result = alone(proof_document([proof_of(7)]), "proof.json", "--key", key)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Not proven: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{}",
        "[]",
        "null",
        "[" * 100_000,
        '{"format": "' + PROOF_FORMAT + '", "proofs": []}',
        '{"format": "' + PROOF_FORMAT + '", "proofs": {}}',
        '{"format": "' + PROOF_FORMAT + '", "proofs": [{}]}',
        '{"format": "' + PROOF_FORMAT + '", "proofs": ["key"]}',
        '{"format": "' + PROOF_FORMAT + '", "proofs": [{"\\u001b[2J": 1}]}',
    ],
)
def test_what_is_no_proof_proves_nothing(alone, document):
    result = alone(document, "proof.json", "--key", KEY.text)
    assert (result.returncode, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stderr


def test_another_version_of_the_document_proves_nothing(alone):
    document = proof_document([proof_of(7)]).replace("version 1", "version 2")
    assert alone(document, "proof.json", "--key", KEY.text).returncode == 1


def test_a_file_that_is_not_there_proves_nothing(alone):
    result = alone("", "other.json", "--key", KEY.text)
    assert (result.returncode, result.stdout) == (1, "")
    assert "other.json" in result.stderr


def test_the_script_is_short_and_needs_only_the_standard_library():
    text = script_content().decode("utf-8")
    assert len(text.splitlines()) <= 80
    modules = re.findall(r"^\s*(?:from|import) (\w+)", text, flags=re.MULTILINE)
    assert modules
    assert set(modules) <= sys.stdlib_module_names
    assert "steerguard." not in text.replace("steerguard.errors", "")


# What it accepts.


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31])
def test_every_record_of_a_tree_is_accepted(size):
    lines = lines_of(size)
    head = head_over(lines, size)
    for seq in range(size):
        assert accepts(fields_of(proof_of(seq, size, lines=lines, head=head)))


def test_a_checkpoint_by_two_keys_counts_under_either():
    lines = lines_of(SIZE)
    head = head_over(lines, SIZE, signers=(SIGNER, SigningKey(bytes(range(1, 33)))))
    for key in (KEY, OTHER_KEY):
        assert accepts(fields_of(proof_of(7, lines=lines, head=head, key=key)), key.text)


def test_a_wrong_signature_by_the_key_spoils_a_good_one():
    fields = fields_of(proof_of(7))
    text, _, line = fields["checkpoint"].rpartition("\n\n")
    wrong = sign_note("other\n", [(KEY.name, SIGNER)]).content.decode().rpartition("\n\n")[2]
    assert accepts({**fields, "checkpoint": f"{text}\n\n{line}"})
    assert not accepts({**fields, "checkpoint": f"{text}\n\n{line}{wrong}"})
    assert not accepts({**fields, "checkpoint": f"{text}\n\n{wrong}{line}"})


def test_a_signed_text_that_is_no_checkpoint_is_not_accepted():
    lines = lines_of(SIZE)
    good = head_over(lines, SIZE).head.text
    for text in (
        good.replace("steerguard-audit/", "example.com/"),
        good + "more\n",
        good.replace("\n11\n", "\n 11\n"),
        good.replace("\n11\n", "\neleven\n"),
        TreeHead(LOG.replace("7809", "7808"), SIZE, head_over(lines, SIZE).head.root).text,
    ):
        note = sign_note(text, [(KEY.name, SIGNER)])
        assert not accepts({**fields_of(proof_of(7)), "checkpoint": note.content.decode()})


@pytest.mark.parametrize("seq", [True, 7.0, "7", None, -1, SIZE, [7], 2**70])
def test_a_place_of_another_kind_is_not_accepted(seq):
    assert not accepts({**fields_of(proof_of(7)), "seq": seq})
    assert not accepts({**fields_of(proof_of(1)), "seq": seq})


def test_a_record_that_would_change_a_terminal_is_not_accepted():
    line = b'{"log":"%s",\t"seq":0}' % LOG.encode()
    leaf = hashlib.sha256(b"\x00" + line).digest()
    note = sign_note(TreeHead(LOG, 1, leaf).text, [(KEY.name, SIGNER)])
    fields = {"seq": 0, "record": line.decode(), "checkpoint": note.content.decode(), "path": [], "key": KEY.text}
    assert not accepts(fields)
    line = line.replace(b"\t", b"")
    note = sign_note(TreeHead(LOG, 1, hashlib.sha256(b"\x00" + line).digest()).text, [(KEY.name, SIGNER)])
    assert accepts({**fields, "record": line.decode(), "checkpoint": note.content.decode()})


@st.composite
def alterations(draw):
    """A proof with something in one of its fields altered."""
    fields = deepcopy(GOOD)
    name = draw(st.sampled_from(sorted(fields)))
    value = fields[name]
    if name == "seq":
        fields[name] = draw(st.integers(-2, 2 * SIZE).filter(lambda one: one != value))
    elif name == "path":
        fields[name] = draw(st.sampled_from([path for path in _altered_paths(value, draw) if path != value]))
    else:
        fields[name] = _altered_text(value, draw)
    return fields


def _altered_paths(path, draw):
    at = draw(st.integers(0, len(path) - 1))
    yield path[:at] + path[at + 1 :]
    yield [*path[:at], path[at], *path[at:]]
    yield [*path[:at], _altered_text(path[at], draw), *path[at + 1 :]]
    yield path[::-1]
    yield []


def _altered_text(text, draw):
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(start + 3, len(text))))
    piece = draw(st.text(st.sampled_from(text) | st.characters(exclude_categories=["Cs"]), max_size=3))
    altered = text[:start] + piece + text[end:]
    return altered if altered != text else text + "\n"


GOOD = fields_of(proof_of(6))


@settings(max_examples=200)
@given(alterations())
def test_a_proof_that_was_altered_in_any_field_is_not_accepted(fields):
    assert not accepts(fields) or _is_good_with_a_cosignature(fields)


def _is_good_with_a_cosignature(fields):
    """A signature line of another key may stand below: that is what cosigning is."""
    rest = {name: value for name, value in fields.items() if name != "checkpoint"}
    return rest == {name: GOOD[name] for name in rest} and fields["checkpoint"].startswith(GOOD["checkpoint"] + "— ")


@pytest.mark.parametrize("name", sorted(GOOD))
def test_no_field_may_be_missing_or_of_another_kind(name):
    assert accepts(GOOD)
    assert not accepts({field: value for field, value in GOOD.items() if field != name})
    for value in (None, 0, "", [], {}, True, [None], ["A"]):
        assert not accepts({**GOOD, name: value})
    assert not accepts({**GOOD, "other": 1})
    assert not accepts({**GOOD, "given": KEY.text})
