from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from steerguard.audit.fields import ArtifactPin, ModelReference, PolicyReference
from steerguard.audit.log import AuditLog
from steerguard.audit.record import DecisionContext, decision_event, token_content
from steerguard.cli.audit import app
from steerguard.decision import Decision, Dose, Reading, Threshold, Usage

DIGEST = "sha256:" + "a" * 64
CONTEXT = DecisionContext(
    policy=PolicyReference(name="harmlessness", version="1.0.0", digest=DIGEST),
    plan=DIGEST,
    model=ModelReference(name="[red]tiny", architecture="LlamaForCausalLM", dtype="float32"),
    artifacts=(ArtifactPin(ref="harmful-intent/tiny@1.0.0", digest=DIGEST),),
)


def decision(request):
    return Decision(
        request=request,
        row=0,
        mode="enforce",
        readings=(
            Reading(source="harm", score=0.5, thresholds=(Threshold(rule="steer", bound="at_least", value=0.25),)),
            Reading(
                source="close",
                score=0.2,
                thresholds=(Threshold(rule="steer", bound="at_least", value=0.25),),
                tolerance=0.1,
                near=True,
            ),
            Reading(source="odd", score=None, thresholds=(Threshold(rule="steer", bound="below", value=5.0),)),
        ),
        rules=("steer",),
        cause="rule",
        intended="guide",
        applied="guide",
        doses=(
            Dose(
                step="align",
                method="inferaligner",
                open_blocks=(3,),
                coefficient="1.0",
                positions=12,
                expected_positions=12,
            ),
        ),
        usage=Usage(prompt_tokens=8, generated_tokens=4, extra_forward_tokens=0),
    )


@pytest.fixture
def log_file(tmp_path):
    with AuditLog.open(tmp_path, content="none") as log:
        for request in ("r1", "r2", "r2", "r3"):
            log.record(decision_event(decision(request), CONTEXT, content=token_content(None, [1, 2], [3])))
    return log.path


def run(*arguments):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_verify_says_ok_for_a_file_and_for_its_directory(log_file):
    assert run("verify", log_file) == (0, f"{log_file.stem}: ok, 6 records verified\n")
    assert run("verify", log_file.parent)[0] == 0


def test_verify_names_the_first_bad_line_and_exits_1(log_file):
    log_file.write_bytes(log_file.read_bytes().replace(b'"req":"r3"', b'"req":"r9"'))
    code, output = run("verify", log_file)
    assert code == 1
    assert "broken, 4 records verified" in output
    assert "line 5 (record 4), chain:" in output


def test_verify_reports_a_torn_tail_and_a_missing_close(log_file):
    content = log_file.read_bytes()
    log_file.write_bytes(content[:-5])
    code, output = run("verify", log_file)
    assert code == 1
    assert "bytes after the last newline" in output
    log_file.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))
    code, output = run("verify", log_file)
    assert code == 0
    assert "warning: no log.close" in output


def test_verify_json_has_the_same_facts(log_file):
    log_file.write_bytes(log_file.read_bytes() + b"{}\n")
    code, output = run("verify", log_file.parent, "--json")
    (report,) = json.loads(output)
    assert code == 1
    assert (report["status"], report["records"], report["first_bad"]["fault"]) == ("broken", 5, "schema")
    assert "schema" in report["reason"]


@pytest.mark.parametrize("command", ["verify", "show"])
def test_nothing_to_read_exits_2(tmp_path, command):
    assert run(command, tmp_path)[0] == 2
    code, output = run(command, tmp_path / "absent.jsonl")
    assert code == 2
    assert "cannot be read" in output


def test_show_prints_scores_thresholds_and_doses(log_file):
    code, output = run("show", log_file, "--request", "r1")
    assert code == 0
    assert "harm 0.5 vs ≥ 0.25 (steer)" in output
    assert "close 0.2 vs ≥ 0.25 (steer), within the tolerance" in output
    assert "(steer), within" not in output.partition("close")[0]
    assert "odd not finite vs < 5 (steer)" in output
    assert "guide → guide" in output
    assert "align x1.0, 1 blocks, 12/12 positions" in output
    assert "r2" not in output


def test_show_keeps_the_newest_rows(log_file):
    code, output = run("show", log_file.parent, "--last", "2", "--json")
    assert code == 0
    assert [row["req"] for row in json.loads(output)] == ["r2", "r3"]
    assert [row["seq"] for row in json.loads(run("show", log_file, "--request", "r2", "--json")[1])] == [2, 3]


def test_show_leaves_out_what_does_not_verify_and_exits_1(log_file):
    lines = log_file.read_bytes().splitlines(keepends=True)
    log_file.write_bytes(b"".join([*lines[:3], lines[4]]))
    code, output = run("show", log_file)
    assert code == 1
    assert "r1" in output
    assert "r2" not in output
    assert "broken" in output


def test_show_leaves_out_a_record_that_was_edited_and_exits_1(log_file):
    log_file.write_bytes(log_file.read_bytes().replace(b'"req":"r3"', b'"req":"r9"'))
    code, output = run("show", log_file)
    assert code == 1
    assert "r2" in output
    assert "r9" not in output


def test_show_warns_that_the_last_record_of_an_open_log_is_not_confirmed(log_file):
    log_file.write_bytes(b"".join(log_file.read_bytes().splitlines(keepends=True)[:-1]))
    code, output = run("show", log_file)
    assert code == 0
    assert "r3" in output
    assert "record 4 is the last one and is not confirmed" in output
    assert "not confirmed" not in run("show", log_file, "--request", "r1")[1]


def test_the_command_line_starts_without_torch_and_rich_tables():
    script = "import sys, steerguard.cli.audit; assert not {'torch', 'rich.table', 'structlog'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=60)
