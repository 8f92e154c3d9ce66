"""The command as a process: what scripts see of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.audit_events import LOG, decision
from tests.chained_logs import write_log

from steerguard.cli.main import PIPE_CLOSED

READING = (
    ["query"],
    ["query", "--json"],
    ["query", "--jsonl"],
    ["tail"],
    ["stats"],
    ["stats", "--json"],
    ["verify"],
    ["export", "--format", "jsonl"],
    ["export", "--format", "cloudevents"],
    ["export", "--format", "csv"],
)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("logs")
    write_log(directory, [decision(req=f"r{number}") for number in range(50)], log=LOG)
    return directory


def answer(*words, stdout, **variables):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    command = [sys.executable, "-m", "steerguard.cli.main", *words]
    done = subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, env=environment, text=True, timeout=120, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_reader_that_went_away_is_no_broken_log(command, logs):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        code, said = answer("audit", command[0], str(logs), *command[1:], stdout=writing)
    finally:
        os.close(writing)
    assert code == PIPE_CLOSED
    assert "Error" not in said
    assert "Broken pipe" not in said


def test_exit_codes_of_commands_are_handed_on(logs, tmp_path):
    assert answer("audit", "verify", str(logs), stdout=subprocess.DEVNULL) == (0, "")
    code, said = answer("audit", "verify", str(tmp_path), stdout=subprocess.DEVNULL)
    assert (code, "There is no audit log" in said) == (2, True)


def test_a_table_in_a_file_is_neither_folded_nor_coloured_whatever_the_environment_says(logs, tmp_path):
    path = tmp_path / "table.txt"
    with path.open("wb") as out:
        forced = {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "COLUMNS": "40"}
        assert answer("audit", "query", str(logs), "--last", "1", stdout=out, **forced)[0] == 0
    text = path.read_text("utf-8")
    assert "\x1b" not in text
    assert "intended → applied" in text
