"""`steerguard registry verify`: every byte and tensor, and with a trust policy everybody who vouches for them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.paths import ATTESTATIONS, MANIFEST
from steerguard.cli.registry_source import EndpointOption, JsonOption, RegistryAccess, TrustOption, admitted
from steerguard.cli.reporting import reported
from steerguard.errors import ArtifactError, SigningKeyError, SteerguardError
from steerguard.registry.folder import read_file, read_folder
from steerguard.registry.index import INDEX, IndexEntry

if TYPE_CHECKING:
    from steerguard.registry.store import ArtifactStore, Evidence, Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was found about one artifact."""

    reference: str
    digest: str
    sound: bool
    """Whether it may be used."""
    code: str | None = None
    """Code of the error that refuses it."""
    message: str | None = None
    signed_by: tuple[str, ...] | None = None
    """Ids of the keys that count; None without a trust policy."""
    vetting_level: int | None = None
    warnings: tuple[str, ...] = ()


def verify(
    path: Annotated[
        str,
        typer.Argument(
            help="Folder of a registry or of one artifact, hf://ORGANISATION, or a signed document (FILE.dsse.json); "
            "`all` is the embedded registry."
        ),
    ] = "all",
    *,
    trust: TrustOption = None,
    public: Annotated[
        list[str] | None,
        typer.Option("--public", metavar="ed25519:…", help="Who may have signed the document; repeatable."),
    ] = None,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify every byte and tensor of a registry's artifacts; exit code 1 when any is refused.

    With --trust signatures, vetting and revocation are judged too. A signed document needs --public.
    """
    with reported():
        if Path(path).is_file():
            _document(Path(path), public or [], as_json=as_json)
            return
        access = RegistryAccess.of(trust, endpoint)
        if path != "all" and not (Path(path) / INDEX).is_file() and (Path(path) / MANIFEST).is_file():
            outcome = _folder(Path(path), access.judge())
            _print(outcome, as_json=as_json, more=" (no index pins this digest)")
            outcomes, where = [outcome], path
        else:
            store = access.store(None if path == "all" else path)
            outcomes, where = [], store.name
            entries = store.entries()
            for outcome in _registry(store, entries, access.judge()):
                _print(outcome, as_json=as_json)
                outcomes.append(outcome)
    sound = sum(outcome.sound for outcome in outcomes)
    if as_json:
        typer.echo(json.dumps([asdict(outcome) for outcome in outcomes], indent=2, sort_keys=True))
    else:
        typer.echo(f"{sound} of {len(outcomes)} artifacts verified in {where}.")
    if sound < len(outcomes):
        raise typer.Exit(1)


def _document(file: Path, public: list[str], *, as_json: bool) -> None:
    """Verify a document in an envelope, and print who of the given keys signed it.

    Raises:
        SignatureError: it is no envelope, or none of the keys signed it.
        SigningKeyError: a key is malformed, or none is given.
        ArtifactError: the file cannot be read.
    """
    from steerguard.canonical import sha256_hex
    from steerguard.signing.dsse import MAX_ENVELOPE_BYTES, parse_envelope, verified_payload
    from steerguard.signing.keys import PublicKey

    if not public:
        raise SigningKeyError(
            "A signature proves nothing without a key that is known by another way.",
            where="--public",
            expected="ed25519:<base64>",
            found="no key",
            next_step="Ask the signer for the public key: `steerguard keys show` prints it.",
        )
    try:
        content = read_file(file, max_bytes=MAX_ENVELOPE_BYTES)
    except OSError as error:
        raise ArtifactError("The document cannot be read.", where=file, found=error.strerror) from error
    kind = parse_envelope(content, where=str(file)).payload_type
    payload, signers = verified_payload(content, kind, [PublicKey.parse(one) for one in public], where=str(file))
    found = {"payload_type": kind, "sha256": sha256_hex(payload), "signed_by": [signer.id for signer in signers]}
    if as_json:
        typer.echo(json.dumps(found, indent=2, sort_keys=True))
    else:
        typer.echo(f"ok       {kind} sha256:{found['sha256']}\n         signed by {', '.join(found['signed_by'])}")


def _registry(store: ArtifactStore, entries: tuple[IndexEntry, ...], judge: Judge | None) -> Iterator[Outcome]:
    from steerguard.artifacts.verify import verify_artifact

    for entry in entries:
        try:
            evidence = admitted(judge, store, entry)
            verify_artifact(store.read(store.pin(entry)), entry.digest, where=entry.reference)
        except SteerguardError as error:
            yield _refused(entry.reference, entry.digest, error)
        else:
            yield _accepted(entry.reference, entry.digest, evidence)


def _folder(folder: Path, judge: Judge | None) -> Outcome:
    """Return what was found about one artifact's folder, judged as if its parent were a registry.

    Raises:
        ArtifactError: the folder cannot be read, or its bytes are not an artifact.
    """
    from steerguard.artifacts.verify import verify_artifact

    files = read_folder(folder)
    digest = manifest_digest(files[MANIFEST])
    manifest = verify_artifact(files, digest, where=str(folder)).manifest
    entry = IndexEntry(family=manifest.family, variant=manifest.variant, version=manifest.version, digest=digest)
    if judge is None:
        return _accepted(entry.reference, digest, None)
    attestations: Mapping[str, bytes] = {name: files[name] for name in files if name.startswith(f"{ATTESTATIONS}/")}
    try:
        evidence = judge.admit(entry, registry=folder.absolute().as_uri(), attestations=attestations)
    except SteerguardError as error:
        return _refused(entry.reference, digest, error)
    return _accepted(entry.reference, digest, evidence)


def _accepted(reference: str, digest: str, evidence: Evidence | None) -> Outcome:
    if evidence is None:
        return Outcome(reference=reference, digest=digest, sound=True)
    return Outcome(
        reference=reference,
        digest=digest,
        sound=True,
        signed_by=evidence.signed_by,
        vetting_level=evidence.vetting_level,
        warnings=evidence.warnings,
    )


def _refused(reference: str, digest: str, error: SteerguardError) -> Outcome:
    return Outcome(reference=reference, digest=digest, sound=False, code=error.code, message=str(error))


def _print(outcome: Outcome, *, as_json: bool, more: str = "") -> None:
    if as_json:
        return
    if not outcome.sound:
        typer.echo(f"refused  {outcome.reference} {outcome.digest}\n{outcome.code}: {outcome.message}")
        return
    typer.echo(f"ok       {outcome.reference} {outcome.digest}{more}")
    if outcome.signed_by is not None:
        level = "none" if outcome.vetting_level is None else str(outcome.vetting_level)
        typer.echo(f"         signed by {', '.join(outcome.signed_by) or 'nobody'}; vetting level {level}")
    for warning in outcome.warnings:
        typer.echo(f"         warning: {warning}")
