from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading

import pytest
from tests.audit_events import LOG, OTHER_LOG, bypass, decision, refusal
from tests.chained_logs import chained, content, fields, write_log
from typer.testing import CliRunner

from steerguard.audit.evidence.layout import segment_name
from steerguard.audit.records.chain import leaf_hash
from steerguard.cli.audit import app

SECONDS = 30


def run(*arguments):
    return CliRunner().invoke(app, ["tail", *(str(argument) for argument in arguments)])


def test_the_newest_records_are_shown_and_that_nothing_was_verified(tmp_path):
    write_log(tmp_path, [decision(req="r1"), bypass()], log=OTHER_LOG)
    write_log(tmp_path, [refusal(req="r2")])
    result = run(tmp_path, "-n", 3)
    assert result.exit_code == 0
    shown = [line.split("  ")[1:3] for line in result.stdout.splitlines()]
    assert shown == [[f"{OTHER_LOG}/2", "guard.bypass"], [f"{LOG}/2", "log.close"], [f"{OTHER_LOG}/3", "log.close"]]
    assert result.stderr == "tail does not verify what it shows: `steerguard audit verify` does.\n"


def test_types_and_lines_of_json(tmp_path):
    path = write_log(tmp_path, [decision(), bypass(), refusal(req="r2")])
    result = run(tmp_path, "--type", "guard.decision", "-n", 1, "--jsonl")
    assert [json.loads(line)["req"] for line in result.stdout.splitlines()] == ["r2"]
    assert run(path, "--jsonl").stdout == path.read_text("ascii")
    assert run(path, "-n", 0).stdout == ""


def test_a_break_is_a_warning_and_exits_1(tmp_path):
    path = write_log(tmp_path, [bypass(), bypass()])
    path.write_bytes(path.read_bytes().replace(b"scoring", b"scorin9", 1))
    result = run(tmp_path)
    assert result.exit_code == 1
    assert f"warning: {path.name}: a line's hash is not the `prev` of the next one" in result.stderr
    assert len(result.stdout.splitlines()) == 4


def test_nothing_to_read_exits_2(tmp_path):
    assert run(tmp_path).exit_code == 2
    assert run(tmp_path / "absent").exit_code == 2
    assert run(tmp_path, "--type", "nothing").exit_code == 2


@pytest.mark.parametrize("form", [[], ["--jsonl"]])
def test_a_hostile_line_reaches_no_terminal(tmp_path, form):
    hostile = "\x1b]0;owned\x07\x9b31m\u202e\x7f\n"
    write_log(tmp_path, [{**fields(decision()), "cause": hostile}, {"type": hostile, hostile: hostile}])
    result = run(tmp_path, *form)
    assert [one for one in result.output if not one.isprintable() and one != "\n"] == []
    assert len(result.stdout.splitlines()) == 4


class Followed:
    """The command in a process of its own, with its lines as they come."""

    def __init__(self, path):
        # A test run in the background may ignore Ctrl-C, and its children with it.
        heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        run = f"{heeding}; from steerguard.cli.main import main; main()"
        command = [sys.executable, "-c", run, "audit", "tail", "-f", "--jsonl", str(path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True, encoding="utf-8"
        )
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=lambda: [self.lines.put(line) for line in self.process.stdout])
        self.reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.process.kill()
        self.process.wait(SECONDS)
        self.reader.join(SECONDS)
        self.process.stdout.close()
        self.process.stderr.close()

    def next(self):
        found = json.loads(self.lines.get(timeout=SECONDS))
        return found["log"], found["seq"]

    def interrupt(self):
        """Send Ctrl-C; return the exit code and the errors."""
        self.process.send_signal(signal.SIGINT)
        errors = self.process.stderr.read()
        return self.process.wait(SECONDS), errors


def test_following_shows_lines_segments_and_logs_as_they_come_and_ends_quietly(tmp_path):
    path = write_log(tmp_path, [bypass()], close=False)
    *_, last = path.read_bytes().splitlines()
    third, fourth = chained([bypass(), bypass()], prev=leaf_hash(last), seq=2)
    with Followed(tmp_path) as followed:
        assert [followed.next(), followed.next()] == [(LOG, 0), (LOG, 1)]
        with path.open("ab") as file:
            file.write(content([third]))
        assert followed.next() == (LOG, 2)
        (tmp_path / segment_name(LOG, 1)).write_bytes(content([fourth]))
        assert followed.next() == (LOG, 3)
        write_log(tmp_path, [], log=OTHER_LOG, close=False)
        assert followed.next() == (OTHER_LOG, 0)
        code, errors = followed.interrupt()
    assert code == 0
    assert errors.split("\n", 1)[0].startswith("tail does not verify")
    assert "Traceback" not in errors


def test_a_break_while_following_exits_1_at_the_end(tmp_path):
    path = write_log(tmp_path, [bypass()], close=False)
    with Followed(tmp_path) as followed:
        followed.next()
        followed.next()
        with path.open("ab") as file:
            file.write(content(chained([bypass()], seq=2)))
        assert followed.next() == (LOG, 2)
        code, errors = followed.interrupt()
    assert code == 1
    assert "the hash of the line before is not the `prev` of this one" in errors
