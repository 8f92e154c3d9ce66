"""`steerguard registry sign`: a release signature for an artifact, or an envelope beside any JSON document."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from steerguard.artifacts.integrity import check_integrity
from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.paths import ATTESTATIONS, MANIFEST, MAX_FILE_BYTES
from steerguard.artifacts.release import parse_release, release_path, release_statement
from steerguard.artifacts.strict_json import parse_canonical
from steerguard.artifacts.times import time_text
from steerguard.cli.registry_source import JsonOption, KeyOption, signing_key
from steerguard.cli.reporting import reported
from steerguard.errors import ArtifactError, ArtifactFormatError, SignatureError, SteerguardError
from steerguard.registry.folder import read_file, read_folder
from steerguard.registry.staging import write_durably
from steerguard.signing.dsse import add_signature, parse_envelope
from steerguard.signing.dsse import sign as signed_envelope
from steerguard.signing.keys import Signer
from steerguard.signing.statement import STATEMENT, STATEMENT_TYPE

ENVELOPE_ENDING = ".dsse.json"


def sign(
    path: Annotated[Path, typer.Argument(help="Folder of an artifact, or a JSON document such as an attestation.")],
    *,
    key: KeyOption = None,
    publisher: Annotated[
        str | None, typer.Option("--publisher", metavar="NAME", help="Id of the publisher in trust policies.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign an artifact (attestations/release.<key id>.json) or a document (FILE.dsse.json beside it).

    A document that is an envelope already, or has one beside it, gets one more signature.
    """
    with reported():
        signer = signing_key(key)
        done = _sign_artifact(path, signer, publisher) if path.is_dir() else _sign_document(path, signer)
        if as_json:
            typer.echo(json.dumps(done, indent=2, sort_keys=True))
        else:
            typer.echo(f"signed   {done['subject']} by {done['key_id']}\nwritten  {done['file']}")


def _sign_artifact(folder: Path, signer: Signer, publisher: str | None) -> dict[str, Any]:
    if publisher is None:
        raise SignatureError(
            "A release names its publisher.", expected="--publisher NAME, as trust policies know it", found="none"
        )
    files = read_folder(folder)
    digest = manifest_digest(files.get(MANIFEST, b""))
    manifest, _ = check_integrity(files, digest, where=str(folder))
    path = release_path(signer.public.id)
    if not _is_released(files, path, digest, publisher, signer):
        statement = release_statement(manifest, digest, publisher, time_text(datetime.now(UTC)))
        _write(folder / path, signed_envelope(statement, STATEMENT, [signer]))
    return {
        "subject": f"{manifest.reference} {digest}",
        "digest": digest,
        "key_id": signer.public.id,
        "file": str(folder / path),
    }


def _is_released(files: Mapping[str, bytes], path: str, digest: str, publisher: str, signer: Signer) -> bool:
    """Return whether this key says the same already, so that signing twice changes nothing."""
    if path not in files:
        return False
    try:
        envelope = parse_envelope(files[path], where=path)
        statement = parse_release(envelope.payload, where=path)
    except SteerguardError:
        # A release that cannot be read is replaced by one that can.
        return False
    return (
        envelope.payload_type == STATEMENT
        and statement.digest == digest
        and statement.predicate.publisher == publisher
        and any(signer.public.verifies(envelope.message, one.sig) for one in envelope.signatures)
    )


def _sign_document(file: Path, signer: Signer) -> dict[str, Any]:
    target = file if file.name.endswith(ENVELOPE_ENDING) else file.with_name(f"{file.name}{ENVELOPE_ENDING}")
    content = _read(file)
    if target == file:
        envelope = add_signature(content, signer, where=str(file))
    else:
        document = parse_canonical(content, where=str(file), max_bytes=MAX_FILE_BYTES)
        payload_type = _payload_type(document, file)
        if target.exists():
            present = _read(target)
            if parse_envelope(present, where=str(target)).payload != content:
                raise SignatureError(
                    "The envelope beside the document holds another document.",
                    where=target,
                    expected=f"the bytes of {file.name}",
                    next_step="Remove the envelope if the document was changed on purpose.",
                )
            envelope = add_signature(present, signer, where=str(target))
        else:
            envelope = signed_envelope(content, payload_type, [signer])
    _write(target, envelope)
    return {"subject": file.name, "key_id": signer.public.id, "file": str(target)}


def _payload_type(document: Mapping[str, Any], file: Path) -> str:
    """Return the type of payload: in-toto for statements, else by the document's own kind."""
    if document.get("_type") == STATEMENT_TYPE:
        return STATEMENT
    kind = document.get("kind")
    if isinstance(kind, str) and kind.isascii() and kind.isalpha() and len(kind) <= 64:
        return f"application/vnd.steerguard.{kind.lower()}+json"
    raise ArtifactFormatError(
        "The document does not say what it is.",
        where=file,
        expected="an in-toto statement, or a document with a kind",
        found=repr(kind)[:80],
    )


def _read(file: Path) -> bytes:
    try:
        return read_file(file, max_bytes=MAX_FILE_BYTES)
    except OSError as error:
        raise ArtifactError("The document cannot be read.", where=file, found=error.strerror) from error


def _write(file: Path, content: bytes) -> None:
    """Put a file in its place, flushed to the device: a reader or a crash sees the old one or the new one."""
    # Not inside the artifact, which may not hold a file of another name for even a moment.
    beside = file.parent.parent.parent if file.parent.name == ATTESTATIONS else file.parent
    staged = beside / f".steerguard-{secrets.token_hex(8)}"
    try:
        file.parent.mkdir(exist_ok=True)
        try:
            write_durably(staged, content)
            staged.replace(file)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(
            "The signature could not be written.", where=file, found=error.strerror or type(error).__name__
        ) from error
