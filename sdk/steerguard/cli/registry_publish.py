"""`steerguard registry publish`: an artifact folder into a local registry or onto the Hub."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerguard.artifacts.integrity import check_integrity
from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.paths import MANIFEST
from steerguard.artifacts.publishable import require_publishable
from steerguard.cli.registry_source import (
    EndpointOption,
    JsonOption,
    KeyOption,
    RegistryAccess,
    TrustOption,
    signing_key,
    writable_folder,
)
from steerguard.cli.reporting import reported
from steerguard.registry.folder import read_folder
from steerguard.registry.local import open_registry
from steerguard.registry.names import is_hub, organisation_of

if TYPE_CHECKING:
    from datetime import datetime

    from steerguard.signing.keys import PublicKey

ValidDays = Annotated[
    int, typer.Option("--valid-days", min=1, max=3650, help="Days after which the signed lists expire.")
]


def publish(
    path: Annotated[Path, typer.Argument(help="Folder of the artifact, signed with `registry sign`.")],
    registry: Annotated[str, typer.Option("--registry", metavar="FOLDER|hf://ORG", help="Where to publish.")],
    *,
    key: KeyOption = None,
    trust: TrustOption = None,
    endpoint: EndpointOption = None,
    repo: Annotated[
        str | None, typer.Option("--repo", metavar="ORG/NAME", help="Model repository; family_variant by default.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make new repositories private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would change, write nothing.")
    ] = False,
    valid_days: ValidDays = 30,
    as_json: JsonOption = False,
) -> None:
    """Publish an artifact: refused without measured side effects; on the Hub also without a release signature.

    On the Hub the key signs the registry's index. Other keys that may have signed the index or the release come from the
    trust policy.
    """
    with reported():
        if is_hub(registry):
            access = RegistryAccess.of(trust, endpoint)
            done = _to_hub(
                path, registry, access, key=key, repo=repo, private=private, dry_run=dry_run, valid_days=valid_days
            )
        else:
            done = _to_folder(path, writable_folder(registry), dry_run=dry_run)
        if as_json:
            typer.echo(json.dumps(done, indent=2, sort_keys=True))
        else:
            for name, value in done.items():
                typer.echo(f"{name:<10} {', '.join(value) if isinstance(value, list | tuple) else value}")


def _to_folder(path: Path, root: Path, *, dry_run: bool) -> dict[str, Any]:
    files = read_folder(path)
    digest = manifest_digest(files.get(MANIFEST, b""))
    manifest, _ = check_integrity(files, digest, where=str(path))
    require_publishable(files)
    done = {"reference": manifest.reference, "digest": digest, "registry": str(root), "published": not dry_run}
    if not dry_run:
        open_registry(root).add(path, digest=digest)
    return done


def _to_hub(
    path: Path,
    registry: str,
    access: RegistryAccess,
    *,
    key: Path | None,
    repo: str | None,
    private: bool,
    dry_run: bool,
    valid_days: int,
) -> dict[str, Any]:
    from steerguard.hub.publish import plan_publication
    from steerguard.hub.publish import publish as publish_to_hub

    signer = signing_key(key)
    organisation, client, pulled = organisation_of(registry), access.client(), access.pulled()
    index_keys, release_keys = trusted_keys(access, registry)
    index_keys, release_keys = (signer.public, *index_keys), (signer.public, *release_keys)
    if dry_run:
        plan = plan_publication(
            client,
            path,
            organisation=organisation,
            pulled=pulled,
            index_keys=index_keys,
            release_keys=release_keys,
            repo=repo,
        )
        return {**asdict(plan), "published": False}
    published = publish_to_hub(
        client,
        path,
        organisation=organisation,
        pulled=pulled,
        signer=signer,
        index_keys=index_keys,
        release_keys=release_keys,
        repo=repo,
        private=private or None,
        valid_for=timedelta(days=valid_days),
    )
    index = published.state.index
    return {
        "reference": published.entry.reference,
        "digest": published.entry.digest,
        "repo": published.entry.repo,
        "commit": published.entry.commit,
        "tag": published.tag,
        "index": None if index is None else index.sequence,
        "published": True,
    }


def trusted_keys(
    access: RegistryAccess, registry: str, now: datetime | None = None
) -> tuple[tuple[PublicKey, ...], tuple[PublicKey, ...]]:
    """Return who else may have signed the index, and who may have signed a release, by the trust policy; none without one."""
    from datetime import UTC, datetime

    policy, moment = access.trust, now or datetime.now(UTC)
    if policy is None:
        return (), ()
    releases = tuple(
        one.public
        for publisher in policy.publishers
        for one in publisher.keys
        if one.counts(moment) and one.public.id not in policy.revoked_keys
    )
    return policy.keys_of_registry(registry, moment), releases
