from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steerguard.cli.policy import app
from steerguard.policy.json_schema import render
from steerguard.policy.load import load_policy

FULL = Path(__file__).parents[2] / "documents" / "full.yaml"

runner = CliRunner()


def test_validate_prints_name_version_and_digest() -> None:
    result = runner.invoke(app, ["validate", "harmlessness", str(FULL)])
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    policy = load_policy("harmlessness")
    assert first == f"harmlessness: ok: harmlessness {policy.metadata.version} {policy.digest}"
    assert second.endswith(f"ok: full 2.3.4 {load_policy(FULL).digest}")


def test_validate_checks_every_file_and_exits_with_1(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(FULL.read_text(encoding="utf-8").replace("coefficient", "coefficent"), encoding="utf-8")
    result = runner.invoke(app, ["validate", str(bad), "absent", "refuse-only"])
    assert result.exit_code == 1
    assert "refuse-only: ok" in result.stdout
    assert f"{bad}:31:5" in result.stderr
    assert "Did you mean `coefficient`?" in result.stderr
    assert "PolicyNotFoundError" in result.stderr


def test_show_prints_defaults_and_plain_words() -> None:
    result = runner.invoke(app, ["show", "refuse-only"])
    assert result.exit_code == 0
    assert "the request is refused (rule likely)" in result.stdout
    assert "max_candidates: 1" in result.stdout


def test_show_json_is_the_effective_document() -> None:
    result = runner.invoke(app, ["show", "--json", str(FULL)])
    assert json.loads(result.stdout) == load_policy(FULL).document()


def test_show_of_an_unknown_name_exits_with_1() -> None:
    result = runner.invoke(app, ["show", "harmles"])
    assert result.exit_code == 1
    assert "No shipped policy" in result.stderr


def test_schema_prints_the_schema() -> None:
    assert runner.invoke(app, ["schema"]).stdout == render()


@pytest.mark.parametrize("arguments", [["validate", "harmlessness"], ["show", "harmlessness"]])
def test_policy_commands_import_neither_torch_nor_transformers(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from steerguard.cli.policy import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'structlog'} | ({'rich'} if 'validate' in sys.argv else set())\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    command = [sys.executable, "-c", program, *arguments]
    subprocess.run(command, check=True, env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True)
