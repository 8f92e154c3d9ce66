"""`steerguard registry publish`: an artifact folder into a local registry or onto the Hub."""

from __future__ import annotations

import json
import re
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
from steerguard.errors import ArtifactReferenceError
from steerguard.registry.folder import read_folder
from steerguard.registry.local import open_registry
from steerguard.registry.names import is_hub, organisation_of

if TYPE_CHECKING:
    from datetime import datetime

    from steerguard.hub.footing import Floor
    from steerguard.signing.keys import PublicKey

ValidDays = Annotated[
    int, typer.Option("--valid-days", min=1, max=3650, help="Days after which the signed lists expire.")
]

NewRegistryOption = Annotated[
    bool, typer.Option("--new-registry", help="Begin the signed lists of a registry that has none; refused otherwise.")
]
AtLeastOption = Annotated[
    str | None,
    typer.Option(
        "--at-least",
        metavar="[INDEX,]LIST",
        help="The newest sequences of index and list that you know of; needed where the store has not seen them.",
    ),
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
    new_registry: NewRegistryOption = False,
    at_least: AtLeastOption = None,
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
                path,
                registry,
                access,
                key=key,
                repo=repo,
                private=private,
                dry_run=dry_run,
                valid_days=valid_days,
                new_registry=new_registry,
                at_least=floor_of(at_least),
            )
        else:
            if new_registry or at_least is not None:
                raise ArtifactReferenceError(
                    "A folder of artifacts has no signed index.",
                    where="--new-registry, --at-least",
                    expected="neither, when publishing into a folder",
                    next_step="Leave them out; the list of revocations is begun with `registry revoke --new-registry`.",
                )
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
    new_registry: bool,
    at_least: Floor | None,
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
            new_registry=new_registry,
            at_least=at_least,
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
        new_registry=new_registry,
        at_least=at_least,
    )
    index, revocations = published.state.index, published.state.revocations
    return {
        "reference": published.entry.reference,
        "digest": published.entry.digest,
        "repo": published.entry.repo,
        "commit": published.entry.commit,
        "tag": published.tag,
        "index": None if index is None else index.sequence,
        "list": None if revocations is None else revocations.sequence,
        "published": True,
    }


def floor_of(text: str | None) -> Floor | None:
    """Return the sequences that `--at-least` states.

    Raises:
        ArtifactReferenceError: they are not two whole numbers of at least 1.
    """
    from steerguard.hub.footing import Floor

    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(re.fullmatch("[1-9][0-9]{0,15}", part) for part in parts):
        raise ArtifactReferenceError(
            "The known sequences cannot be read.",
            where="--at-least",
            expected="INDEX,LIST: two whole numbers from 1, such as 12,3",
            found=text[:100],
        )
    return Floor(index=int(parts[0]), revocations=int(parts[1]))


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
