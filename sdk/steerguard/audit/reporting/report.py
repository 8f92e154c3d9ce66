"""The report on a directory of logs: one document of figures, as JSON and as a page that shows the same.

Only records that verified count. The page loads nothing, runs no script, and its content security policy allows its own
style sheet alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from importlib import resources
from typing import Any, Final

from steerguard.audit.reporting.figures import Figures
from steerguard.audit.reporting.frameworks import CAUTION, CERTAINTY, TITLES, FrameworkName, help_for
from steerguard.audit.reporting.markup import e, page, style
from steerguard.audit.reporting.sections import sections
from steerguard.audit.verification.report import DirectoryReport, LogReport
from steerguard.version import __version__

REPORT_VERSION: Final = 1
_STYLE: Final = "style.css"


def report_on(
    checked: DirectoryReport,
    figures: Figures,
    *,
    generated: str,
    framework: FrameworkName | None = None,
) -> dict[str, Any]:
    """Return everything that the report says, as JSON values.

    Args:
        checked: what verification found.
        figures: which took every record that verified, `verify_path(…, on_record=figures.add)`.
        generated: when the report is made, as records write times.
        framework: whose table is shown; None for all.
    """
    return {
        "version": REPORT_VERSION,
        "steerguard": __version__,
        "generated": generated,
        "since": figures.selection.since,
        "until": figures.selection.until,
        "verification": _verification(checked, misfits=figures.totals.misfits),
        **figures.document(),
        "frameworks": {"caution": CAUTION, "tables": list(_tables(framework))},
    }


def page_of(document: dict[str, Any]) -> str:
    """Return the page that shows the figures of a report: equal documents give equal pages."""
    sheet = resources.files("steerguard.audit.reporting").joinpath(_STYLE).read_text(encoding="utf-8")
    allowed = "sha256-" + base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src '{allowed}'; base-uri 'none'; form-action 'none'"
    return page(
        e(
            "head",
            e("meta", charset="utf-8"),
            e("meta", http_equiv="Content-Security-Policy", content=policy),
            e("meta", name="viewport", content="width=device-width, initial-scale=1"),
            e("meta", name="referrer", content="no-referrer"),
            e("title", f"Guard audit report, {document['generated'][:10]}"),
            style(sheet),
        ),
        e("body", sections(document)),
    )


def _verification(checked: DirectoryReport, *, misfits: int) -> dict[str, Any]:
    return {
        "status": "broken" if misfits else checked.status,
        "misfits": misfits,
        "anchored": checked.anchored,
        "logs": [_log(report) for report in checked.logs],
        "missing": [asdict(one) for one in checked.missing],
        "pruned": [asdict(one) for one in checked.pruned],
        "warnings": list(checked.warnings),
    }


def _log(report: LogReport) -> dict[str, Any]:
    bad = report.first_bad
    return {
        **asdict(report),
        "first_bad": None if bad is None else {**asdict(bad), "reason": bad.reason},
    }


def _tables(framework: FrameworkName | None) -> Iterator[dict[str, Any]]:
    for name, title in TITLES.items():
        rows = [asdict(entry) for entry in help_for(framework) if entry.framework == name]
        if rows:
            yield {"framework": name, "title": title, "certainty": CERTAINTY[name], "rows": rows}
