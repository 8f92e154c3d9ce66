from __future__ import annotations

import csv
import io
import json
import os
import pty
import stat
import subprocess
import sys
from typing import get_args

import pytest
from tests.audit_events import LOG, OTHER_LOG, bypass, decision, refusal
from tests.chained_logs import fields, write_log
from typer.testing import CliRunner

from steerguard.audit.evidence.layout import segment_name
from steerguard.audit.reading.export import Format
from steerguard.cli.audit import app


def run(*arguments):
    return CliRunner().invoke(app, ["export", *(str(argument) for argument in arguments)])


@pytest.fixture
def logs(tmp_path):
    directory = tmp_path / "logs"
    directory.mkdir()
    write_log(directory, [decision(req="r1"), bypass()], log=OTHER_LOG)
    write_log(directory, [refusal(req="r2")], log=LOG)
    return directory


def test_lines_go_to_the_standard_output_as_they_are(logs):
    result = run(logs, "--format", "jsonl")
    assert result.exit_code == 0
    assert result.stdout_bytes == b"".join((logs / segment_name(log, 0)).read_bytes() for log in (OTHER_LOG, LOG))
    assert result.stderr == "exported: 7 records\n"


def test_a_file_gets_the_same_and_is_for_its_owner_only(logs, tmp_path):
    for form in get_args(Format):
        out = tmp_path / f"out.{form}"
        result = run(logs, "--format", form, "--out", out)
        assert (result.exit_code, result.stdout) == (0, "")
        assert out.read_bytes() == run(logs, "--format", form).stdout_bytes
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "logs",
        *sorted(f"out.{form}" for form in get_args(Format)),
    ]


def test_filters_are_those_of_query(logs):
    found = run(logs, "--format", "cloudevents", "--action", "refuse").stdout
    assert [json.loads(line)["subject"] for line in found.splitlines()] == ["r2"]
    found = run(logs, "--format", "jsonl", "--type", "guard.bypass").stdout
    assert [json.loads(line)["type"] for line in found.splitlines()] == ["guard.bypass"]
    assert run(logs, "--format", "csv", "--since", "1h").stdout.count("\n") == 1


def test_of_a_broken_log_what_verified_is_exported(logs, tmp_path):
    path = logs / segment_name(OTHER_LOG, 0)
    path.write_bytes(path.read_bytes().replace(b"scoring", b"scorin9"))
    out = tmp_path / "out.csv"
    result = run(logs, "--format", "csv", "--out", out)
    assert result.exit_code == 1
    assert f"{OTHER_LOG}: broken, 2 records verified" in result.stderr
    rows = list(csv.DictReader(io.StringIO(out.read_text("utf-8"), newline="")))
    assert [row["request"] for row in rows] == ["r1", "r2"]


def test_what_does_not_fit_is_left_out_and_exits_1(logs):
    write_log(logs, [{**fields(decision()), "cause": "\x1b[2J"}, refusal(req="r3")])
    for form in ("csv", "cloudevents"):
        result = run(logs, "--format", form)
        assert result.exit_code == 1
        assert "records that do not fit the schema of their type: 1" in result.stderr
        assert "\x1b" not in result.output
        assert "r3" in result.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "xml"], "xml"),
        ([], "--format"),
        (["--format", "csv", "--type", "guard.bypass"], "guard.decision only"),
        (["--format", "csv", "--since", "yesterday"], "not a time"),
    ],
)
def test_what_cannot_be_asked_exits_2(logs, options, said):
    result = run(logs, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_where_nothing_can_be_exported_no_file_is_made(logs, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, out in ((empty, "out"), (empty / "absent", "out"), (logs, segment_name(LOG, 0)), (logs, "absent/out")):
        before = sorted(tmp_path.rglob("*"))
        result = run(path, "--format", "jsonl", "--out", tmp_path / out)
        assert result.exit_code == 2
        assert sorted(tmp_path.rglob("*")) == before


def test_lines_are_not_put_on_a_terminal(logs):
    command = [sys.executable, "-m", "steerguard.cli.main", "audit", "export", str(logs), "--format", "jsonl"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    terminal, inner = pty.openpty()
    try:
        done = subprocess.run(
            command, stdin=inner, stdout=inner, stderr=subprocess.PIPE, env=environment, timeout=60, check=False
        )
    finally:
        os.close(inner)
        os.close(terminal)
    assert done.returncode == 2
    assert b"not put on a terminal" in done.stderr
