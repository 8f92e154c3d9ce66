from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.proven_logs import KEY, LOG, OTHER_KEY, head_over, lines_of, write_log
from typer.testing import CliRunner

from steerguard.audit.proving.proof import PROOF_FORMAT, script_content
from steerguard.cli.audit import app

SIZE = 12


@pytest.fixture
def logs(tmp_path):
    folder = tmp_path / "audit"
    folder.mkdir()
    lines = lines_of(SIZE)
    write_log(folder, lines, [head_over(lines, size) for size in (5, 10)])
    return folder


def prove(*arguments):
    return CliRunner().invoke(app, ["prove", *map(str, arguments)])


def test_a_request_is_proven_and_checked_by_the_script_beside_it(logs, tmp_path):
    out, script = tmp_path / "proof.json", tmp_path / "check.py"
    result = prove(logs, "--request", "request-4", "--key", KEY.text, "--out", out, "--script", script)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"2 records proven in {out}, under {KEY.text}\n"
    assert script.read_bytes() == script_content()
    command = [sys.executable, "-I", "-S", script.name, out.name, "--key", KEY.text]
    checked = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout.count("Proven: record")) == (0, 2)


def test_the_document_goes_to_standard_output(logs):
    result = prove(logs, "--log", LOG, "--seq", 4)
    document = json.loads(result.stdout)
    assert document["format"] == PROOF_FORMAT
    [proof] = document["proofs"]
    assert sorted(proof) == ["checkpoint", "key", "path", "record", "seq"]
    assert (proof["seq"], json.loads(proof["record"])["seq"]) == (4, 4)


def test_a_key_may_be_the_path_of_its_file(logs, tmp_path):
    path = tmp_path / "checkpoint.vkey"
    path.write_text(KEY.text + "\n")
    assert prove(logs, "--log", LOG, "--seq", 4, "--key", path).exit_code == 0
    path.write_text(OTHER_KEY.text + "\n")
    result = prove(logs, "--log", LOG, "--seq", 4, "--key", path)
    assert result.exit_code == 1
    assert "signed by a key that counts" in result.stderr


def test_checkpoints_may_lie_elsewhere(logs, tmp_path):
    copy = tmp_path / "copy"
    copy.write_bytes(head_over(lines_of(SIZE), SIZE).note.content)
    assert prove(logs, "--log", LOG, "--seq", 11).exit_code == 1
    assert prove(logs, "--log", LOG, "--seq", 11, "--checkpoint", copy).exit_code == 0


def test_an_unanchored_record_is_told_apart(logs, tmp_path):
    out = tmp_path / "proof.json"
    result = prove(logs, "--log", LOG, "--seq", 11, "--out", out)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("UnanchoredRecordError: The record is not covered by a checkpoint yet")
    assert not out.exists()


def test_what_is_wrong_beside_a_proof_is_pointed_out(logs):
    lines = lines_of(SIZE)
    write_log(logs, lines[:7], [head_over(lines, size) for size in (5, 10)])
    result = prove(logs, "--log", LOG, "--seq", 4)
    assert result.exit_code == 0
    assert result.stderr == f"warning: {LOG}: the log ends before the 10 records that were signed\n"
    assert json.loads(result.stdout)["proofs"]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--log", LOG),
        ("--seq", 1),
        ("--request", "request-1", "--seq", 1),
        ("--request", "request-1", "--log", LOG),
        ("--request", "request-1", "--log", LOG, "--seq", 1),
    ],
)
def test_it_must_be_said_what_to_prove(logs, options):
    result = prove(logs, *options)
    assert result.exit_code == 2
    assert "--request, or both --log and --seq" in result.stderr


@pytest.mark.parametrize("seq", [-1, "x"])
def test_a_number_must_be_a_position(logs, seq):
    assert prove(logs, "--log", LOG, "--seq", seq).exit_code == 2


def test_a_file_that_cannot_be_written_is_an_error(logs, tmp_path):
    for option in ("--out", "--script"):
        result = prove(logs, "--log", LOG, "--seq", 4, option, tmp_path / "gone" / "file")
        assert result.exit_code == 1
        assert "cannot be written" in result.stderr


def test_a_path_that_is_not_there_is_an_error(tmp_path):
    result = prove(tmp_path / "gone", "--request", "a")
    assert result.exit_code == 1
    assert result.stderr.startswith("AuditVerificationError: ")
