"""`steerguard audit`: check logs, read what was decided, and keep what may be kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import typer

from steerguard.cli.audit_content import content
from steerguard.cli.audit_erase import erase
from steerguard.cli.audit_export import export
from steerguard.cli.audit_keys import keygen, rotate
from steerguard.cli.audit_prove import prove
from steerguard.cli.audit_query import query
from steerguard.cli.audit_replay import replay
from steerguard.cli.audit_report import report
from steerguard.cli.audit_retention import hold, prune
from steerguard.cli.audit_stats import stats
from steerguard.cli.audit_tail import tail
from steerguard.cli.audit_verify import verify

app = typer.Typer(name="audit", help="Check audit logs and read what was decided.", no_args_is_help=True)

COMMANDS: Mapping[str, Callable[..., None]] = {
    "verify": verify,
    "prove": prove,
    "query": query,
    "stats": stats,
    "tail": tail,
    "export": export,
    "report": report,
    "replay": replay,
    "content": content,
    "erase": erase,
    "prune": prune,
    "hold": hold,
    "keygen": keygen,
    "rotate": rotate,
}
"""Command and what carries it out; its help is the function's own."""

for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
