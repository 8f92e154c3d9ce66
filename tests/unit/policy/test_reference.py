from __future__ import annotations

from pathlib import Path

import pytest

from steerguard.policy.document import Policy
from steerguard.policy.generated import keep_in_step
from steerguard.policy.json_schema import policy_schema
from steerguard.policy.reference import render

PAGE = Path(__file__).parents[3] / "docs" / "policy-reference.md"


def test_committed_page_is_up_to_date() -> None:
    keep_in_step(render, ["--check", str(PAGE)], command="steerguard.policy.reference")


def test_page_has_every_field_of_every_part() -> None:
    page = render()
    for name, part in policy_schema()["$defs"].items():
        assert f"## {name}\n" in page
        assert all(f"| `{field}` |" in page for field in part["properties"])
    assert all(f"| `{info.alias or name}` |" in page for name, info in Policy.model_fields.items())


def test_stale_page_fails_the_check_and_write_repairs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("old", encoding="utf-8")
    with pytest.raises(SystemExit, match="1"):
        keep_in_step(render, ["--check", str(page)], command="steerguard.policy.reference")
    assert "--write" in capsys.readouterr().err
    keep_in_step(render, ["--write", str(page)], command="steerguard.policy.reference")
    keep_in_step(render, ["--check", str(page)], command="steerguard.policy.reference")
