"""`steerguard audit replay`: decide recorded readings under another policy, or check recorded verdicts against their lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerguard.cli.audit_answer import BROKEN, USAGE, print_document, refuse
from steerguard.cli.audit_options import AsJson, LogPath, PinnedCheckpoints, PinnedKeys, pins_of
from steerguard.cli.audit_reading import Since, Until, exit_code, read, when
from steerguard.cli.reporting import reported
from steerguard.cli.visible import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steerguard.audit.replaying.replay import Replay
    from steerguard.audit.replaying.self_check import SelfCheck

NewPolicy = Annotated[
    str | None,
    typer.Option("--policy", metavar="POLICY", help="Name of a shipped policy, or a file.", show_default=False),
]
Check = Annotated[
    bool,
    typer.Option("--check", help="Check that every verdict follows from its own line; the default without --policy."),
]
Registry = Annotated[
    str | None,
    typer.Option("--registry", metavar="FOLDER", help="Folder of the registry with the artifacts; else embedded."),
]
Listed = Annotated[int, typer.Option("--list", min=0, help="Show so many of the records that differ.")]


def replay(
    path: LogPath,
    *,
    policy: NewPolicy = None,
    check: Check = False,
    registry: Registry = None,
    since: Since = None,
    until: Until = None,
    listed: Listed = 20,
    as_json: AsJson = False,
    keys: PinnedKeys = None,
    checkpoints: PinnedCheckpoints = None,
) -> None:
    """Check that verdicts follow from their lines, or show what another policy would have decided; nothing is guessed.

    Exit status: 0 done, 1 a log is broken or a verdict does not follow from its line, 2 it cannot be read.
    """
    if policy is not None and check:
        refuse("Give either --policy or --check.")
    with reported(USAGE):
        from steerguard.audit.reading.selection import Selection, fits

        chosen = Selection(since=when(since), until=when(until))
        run = _self_check(listed) if policy is None else _replay(policy, registry, listed)
        misfits = 0

        def decide(record: dict[str, Any]) -> None:
            nonlocal misfits
            if not fits(record):
                misfits += 1
                return
            run.learn(record)
            if chosen.admits(record):
                run.add(record)

        checked = read(path, pins_of(keys, checkpoints), decide)
    document = run.document()
    if as_json:
        print_document({**document, "misfits": misfits})
    elif policy is None:
        _print_check(document)
    else:
        _print_replay(document, policy)
    failed = policy is None and document["disagreed"] > 0
    raise typer.Exit(BROKEN if failed else exit_code(checked, misfits=misfits))


def _self_check(listed: int) -> SelfCheck:
    from steerguard.audit.replaying.self_check import SelfCheck

    return SelfCheck(keep=listed)


def _replay(policy: str, registry: str | None, listed: int) -> Replay:
    from steerguard.audit.replaying.replay import Replay
    from steerguard.cli.registry_source import local_registry
    from steerguard.policy.load import load_policy

    return Replay(load_policy(policy), local_registry(registry), keep=listed)


def _print_check(document: Mapping[str, Any]) -> None:
    typer.echo(
        f"{document['records']} decisions: {document['agreed']} follow from their own line, {document['disagreed']} do not"
    )
    if document["of_copies"]:
        typer.echo(
            f"  {document['of_copies']} of those that follow name further rules, which may have matched another copy of the "
            "prompt within the score tolerance"
        )
    for one in document["disagreements"]:
        say(f"  {one['log']} {one['seq']} ({one['req']} row {one['row']}): {one['reason']}")
    _left_out(document["disagreed"] - len(document["disagreements"]))


def _print_replay(document: Mapping[str, Any], policy: str) -> None:
    say(
        f"{document['records']} decisions under {policy}: {document['changed']} differ, "
        f"{document['decided'] - document['changed']} stay, {document['undecided']} cannot be decided"
    )
    for heading, name in (
        ("intended action:", "actions"),
        ("rules that match newly (+) or no longer (-):", "rules"),
        ("cannot be decided:", "reasons"),
    ):
        if document[name]:
            typer.echo(heading)
            for words, count in document[name].items():
                say(f"  {count:>9}  {words}")
    if document["announced"]:
        typer.echo(
            f"{document['announced']} records from before a streamed answer are left out: the complete ones count"
        )
    if document["changes"]:
        typer.echo("records that differ:")
    for one in document["changes"]:
        rules = f"{', '.join(one['rules_before']) or 'no rule'} → {', '.join(one['rules_after']) or 'no rule'}"
        say(f"  {one['log']} {one['seq']} ({one['req']} row {one['row']}): {one['before']} → {one['after']}; {rules}")
    _left_out(document["changed"] - len(document["changes"]))


def _left_out(count: int) -> None:
    if count > 0:
        typer.echo(f"  {count} more; see --list")
