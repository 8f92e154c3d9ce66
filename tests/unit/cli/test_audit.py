from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from steerguard.cli.audit import COMMANDS, app


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_the_command_line_starts_without_torch_and_rich_tables():
    script = "import sys, steerguard.cli.audit; assert not {'torch', 'rich.table', 'structlog'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=60)
