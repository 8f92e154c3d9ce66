"""`steerguard registry revoke`: append to the signed list of revocations of a registry, or renew it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from steerguard.artifacts.reference import parse_reference
from steerguard.artifacts.times import time_text
from steerguard.cli.registry_publish import AtLeastOption, NewRegistryOption, ValidDays, floor_of, trusted_keys
from steerguard.cli.registry_source import (
    EndpointOption,
    JsonOption,
    KeyOption,
    RegistryAccess,
    TrustOption,
    local_registry,
    signing_key,
    writable_folder,
)
from steerguard.cli.reporting import reported
from steerguard.errors import ArtifactReferenceError
from steerguard.registry.names import is_hub, organisation_of
from steerguard.registry.revocations import Reason, RevocationAction, RevokedArtifact, RevokedKey

if TYPE_CHECKING:
    from steerguard.registry.revocations import RevocationList
    from steerguard.registry.signed_index import SignedIndex


def revoke(
    registry: Annotated[str, typer.Option("--registry", metavar="FOLDER|hf://ORG", help="Whose list.")],
    *,
    digest: Annotated[
        list[str] | None, typer.Option("--digest", help="sha256:<hex> of a manifest; repeatable.")
    ] = None,
    artifact: Annotated[
        list[str] | None, typer.Option("--artifact", metavar="FAMILY[/VARIANT][@RANGE]", help="By name; repeatable.")
    ] = None,
    key_id: Annotated[list[str] | None, typer.Option("--key-id", help="Id of a signing key; repeatable.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="unsafe, leaked_key, wrong_base or superseded.")] = "unsafe",
    action: Annotated[str, typer.Option("--action", help="refuse, or warn for artifacts.")] = "refuse",
    note: Annotated[str, typer.Option("--note", help="A sentence for people.")] = "",
    renew: Annotated[bool, typer.Option("--renew", help="Sign the list again as it is, with a new expiry.")] = False,
    key: KeyOption = None,
    trust: TrustOption = None,
    endpoint: EndpointOption = None,
    valid_days: ValidDays = 30,
    new_registry: NewRegistryOption = False,
    at_least: AtLeastOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke artifacts or keys. Guards that watch the list stop using them; nothing is deleted."""
    with reported():
        since = time_text(datetime.now(UTC))
        why = _one_of(reason, get_args(Reason), "--reason")
        what = _one_of(action, get_args(RevocationAction), "--action")
        artifacts = [
            *(_by_digest(one, why, what, note, since) for one in digest or ()),
            *(_by_name(one, why, what, note, since) for one in artifact or ()),
        ]
        keys = [RevokedKey.model_construct(key_id=one, reason=cast("Reason", why), since=since) for one in key_id or ()]
        if bool(artifacts or keys) == renew:
            raise ArtifactReferenceError(
                "Say what to revoke, or renew the list.",
                expected="--digest, --artifact or --key-id; or --renew alone",
                found="both" if renew else "neither",
            )
        access = RegistryAccess.of(trust, endpoint)
        document, index = _revoked(
            registry,
            access,
            artifacts,
            keys,
            key=key,
            valid_days=valid_days,
            new_registry=new_registry,
            at_least=at_least,
        )
        if as_json:
            typer.echo(json.dumps(document.model_dump(mode="json", by_alias=True), indent=2, sort_keys=True))
            return
        typer.echo(
            f"list {document.sequence} of {document.registry}: {len(document.artifacts)} revocations of artifacts, "
            f"{len(document.keys)} revoked keys; expires {document.expires}"
        )
        if index is not None:
            typer.echo(f"index {index.sequence} of {index.registry}; expires {index.expires}")


def _revoked(
    registry: str,
    access: RegistryAccess,
    artifacts: list[RevokedArtifact],
    keys: list[RevokedKey],
    *,
    key: Path | None,
    valid_days: int,
    new_registry: bool,
    at_least: str | None,
) -> tuple[RevocationList, SignedIndex | None]:
    signer, valid_for = signing_key(key), timedelta(days=valid_days)
    if not is_hub(registry):
        from steerguard.registry.revoke_locally import revoke_locally

        writable_folder(registry)
        store = local_registry(registry)
        others, _ = trusted_keys(access, store.name)
        document = revoke_locally(
            store,
            artifacts=artifacts,
            keys=keys,
            signer=signer,
            list_keys=others,
            pulled=access.pulled(),
            valid_for=valid_for,
            new_registry=new_registry,
            at_least=_list_floor(at_least),
        )
        return document, None
    from steerguard.hub import revoke as hub

    if new_registry and not (artifacts or keys):
        raise ArtifactReferenceError(
            "A registry on the Hub is not begun by renewing it.",
            where="--renew --new-registry",
            expected="one of them",
            next_step="Publish the first artifact with --new-registry.",
        )
    others, _ = trusted_keys(access, registry)
    client, pulled, organisation = access.client(), access.pulled(), organisation_of(registry)
    index_keys = (signer.public, *others)
    if artifacts or keys:
        state = hub.revoke(
            client,
            organisation,
            artifacts=artifacts,
            keys=keys,
            signer=signer,
            index_keys=index_keys,
            pulled=pulled,
            valid_for=valid_for,
            new_registry=new_registry,
            at_least=floor_of(at_least),
        )
    else:
        state = hub.renew(
            client,
            organisation,
            signer=signer,
            index_keys=index_keys,
            pulled=pulled,
            valid_for=valid_for,
            at_least=floor_of(at_least),
        )
    assert state.revocations is not None
    return state.revocations, state.index


def _list_floor(text: str | None) -> int | None:
    """Return the sequence that `--at-least` states for the list of a folder, which has no signed index."""
    if text is None:
        return None
    if not re.fullmatch("[1-9][0-9]{0,15}", text):
        raise ArtifactReferenceError(
            "The known sequence cannot be read.",
            where="--at-least",
            expected="LIST: one whole number from 1, for a folder",
            found=text[:100],
        )
    return int(text)


def _by_digest(digest: str, reason: str, action: str, note: str, since: str) -> RevokedArtifact:
    # Unchecked here: the whole list is parsed again before it is signed.
    return RevokedArtifact.model_construct(
        digest=digest,
        reason=cast("Reason", reason),
        action=cast("RevocationAction", action),
        note=note,
        since=since,
    )


def _by_name(text: str, reason: str, action: str, note: str, since: str) -> RevokedArtifact:
    reference = parse_reference(text)
    if reference.backend != "default":
        raise ArtifactReferenceError(
            "A list revokes artifacts by name, without the registry.",
            where="--artifact",
            expected="FAMILY[/VARIANT][@RANGE]",
            found=text[:200],
        )
    return RevokedArtifact.model_construct(
        family=reference.family,
        variant=reference.variant,
        range=None if reference.range == "*" else reference.range,
        reason=cast("Reason", reason),
        action=cast("RevocationAction", action),
        note=note,
        since=since,
    )


def _one_of(text: str, choices: tuple[str, ...], option: str) -> str:
    if text not in choices:
        raise ArtifactReferenceError(
            f"There is no such value of {option}.", where=option, expected=", ".join(choices), found=text[:100]
        )
    return text
