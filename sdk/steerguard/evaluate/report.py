"""One self-contained HTML file for one evaluation: tables, drawings and a browser of the answers.

The file loads nothing, its content security policy allows its own style and script alone, and it is a function of the
document and the rows: equal input gives equal bytes. jinja2 and matplotlib come with the extra `eval`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from importlib import resources
from typing import Any

from steerguard.evaluate.plots import needs_extra
from steerguard.evaluate.report_drawings import interval_drawings, score_sections
from steerguard.evaluate.report_samples import sample_data, script_json
from steerguard.evaluate.report_tables import figure_rows, summary_groups
from steerguard.evaluate.result import UNGUIDED, Evaluation
from steerguard.evaluate.rows import EvaluatedRow
from steerguard.evaluate.visible_text import visible

_TEMPLATE = "report_template.html.j2"
_STYLE = "report_style.css"
_SCRIPT = "report_script.js"


def render_report(evaluation: Evaluation, rows: Iterable[EvaluatedRow]) -> str:
    """Return the report as one HTML document.

    Args:
        evaluation: the result document; every figure of the report stands in it.
        rows: prompts and answers for the sample browser, in any order; may be empty.

    Raises:
        SteerguardError: jinja2 or matplotlib is not installed, or a row does not belong to the document.
    """
    try:
        from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - optional extra `eval`
        from markupsafe import Markup  # noqa: PLC0415 - optional extra `eval`
    except ImportError as error:
        raise needs_extra("jinja2") from error

    def shown(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=shown
    )
    samples = sample_data(evaluation, rows)
    style, script = _packaged(_STYLE), _packaged(_SCRIPT)
    # What goes in as Markup was made by this package: its own files, escaped JSON, drawings whose labels are escaped.
    return environment.from_string(_packaged(_TEMPLATE)).render(
        evaluation=evaluation,
        policies=[run for run in evaluation.runs if run.name != UNGUIDED],
        summary=summary_groups(evaluation),
        figures=figure_rows(evaluation),
        drawings=interval_drawings(evaluation),
        score_sections=score_sections(evaluation),
        sample_count=len(samples["samples"]),
        safe=Markup,
        style=Markup(style),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - a file of this package
        data=Markup(script_json(samples)),  # noqa: S704 - ASCII without <, > and &
        policy=_content_security_policy(style, script),
    )


def _packaged(name: str) -> str:
    return resources.files("steerguard.evaluate").joinpath(name).read_text(encoding="utf-8")


def _content_security_policy(style: str, script: str) -> str:
    """Allow the two inline blocks by their hashes and nothing else, no network in particular."""
    return (
        f"default-src 'none'; style-src '{_source_hash(style)}'; script-src '{_source_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _source_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
