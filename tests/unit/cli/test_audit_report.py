"""`steerguard audit report`."""

from __future__ import annotations

import json

import pytest
from tests import audit_days as days
from tests.html_page import Page
from typer.testing import CliRunner

from steerguard.audit.evidence.layout import logs_in
from steerguard.cli.audit import app


def run(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.fixture
def logs(tmp_path):
    directory = tmp_path / "audit"
    directory.mkdir()
    days.write_days(directory, days=3, requests=8)
    return directory


def test_page_and_figures_are_written_and_agree(logs, tmp_path):
    result = run(logs, "--html", tmp_path / "r.html", "--json", tmp_path / "r.json", "--key", days.KEY.text)
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "r.json").read_text())
    page = Page((tmp_path / "r.html").read_text())
    assert page.faults == []
    assert f"{document['totals']['decisions']:,}" in page.text()
    assert document["verification"]["anchored"] is True
    assert result.stdout == ""


def test_figures_are_printed_where_no_page_is_asked_for(logs, tmp_path):
    printed = json.loads(run(logs).stdout)
    dashed = json.loads(run(logs, "--json", "-", "--html", tmp_path / "r.html").stdout)
    assert printed["totals"] == dashed["totals"]
    assert printed["verification"]["anchored"] is False


def test_framework_and_period_are_taken(logs):
    document = json.loads(run(logs, "--framework", "soc2", "--since", "2026-03-02", "--until", "2026-03-03").stdout)
    assert [one["framework"] for one in document["frameworks"]["tables"]] == ["soc2"]
    assert document["totals"]["first_t"].startswith("2026-03-02")
    assert document["totals"]["last_t"].startswith("2026-03-02")


def test_a_broken_log_gives_a_report_and_exit_status_one(logs, tmp_path):
    path = logs_in(logs)[1].segments[0][1]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b'"mode":"enforce"', b'"mode":"monitor"', 1))
    result = run(logs, "--html", tmp_path / "r.html")
    assert result.exit_code == 1
    assert "broken" in result.stderr
    assert "The logs do not verify." in Page((tmp_path / "r.html").read_text()).text()


@pytest.mark.parametrize("arguments", [("nowhere",), ("--since", "soon"), ("--key", "nonsense")])
def test_what_cannot_be_read_is_exit_status_two(logs, tmp_path, arguments):
    given = (tmp_path / "nowhere",) if arguments == ("nowhere",) else (logs, *arguments)
    result = run(*given)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr


def test_a_page_that_cannot_be_written_is_exit_status_two(logs, tmp_path):
    result = run(logs, "--html", tmp_path / "no" / "r.html")
    assert result.exit_code == 2
    assert "No such file or directory" in result.stderr


def test_a_directory_without_logs_is_exit_status_two(tmp_path):
    assert run(tmp_path).exit_code == 2
