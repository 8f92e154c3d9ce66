"""The signed statement of a vetter: independence, signature, file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from steerguard.artifacts.release import is_release
from steerguard.artifacts.vetting import VettingRecord, vetting_statement
from steerguard.errors import EvaluationError, VettingError
from steerguard.signing.dsse import parse_envelope, sign, signers_of
from steerguard.signing.keys import PublicKey, Signer
from steerguard.signing.statement import STATEMENT
from steerguard.vetting.overlay import VettedArtifact


def require_independent(files: Mapping[str, bytes], vetter: PublicKey, *, where: str) -> None:
    """Refuse level 3 to whoever released the artifact, and where nobody is known to have released it.

    Args:
        files: of the artifact, with its attestations.
        vetter: the key that is to sign the statement.
        where: the artifact's name, for messages.

    Raises:
        VettingError: there is no release signature, or one of them is by the vetter's own key.
        SignatureError: a release envelope is malformed.
    """
    releases = {path: files[path] for path in sorted(files) if is_release(path)}
    if not releases:
        raise VettingError(
            "Whether the vetter is independent cannot be told: nobody has signed a release of the artifact.",
            where=where,
            expected="attestations/release.<key id>.json",
            found="none",
            next_step="Have the publisher sign it first, or vet at level 2.",
        )
    for path, content in releases.items():
        envelope = parse_envelope(content, where=f"{where}/{path}")
        # The key id is only a hint, but somebody who claims to be the publisher is not independent either.
        if signers_of(envelope, (vetter,)) or vetter.id in {one.keyid for one in envelope.signatures}:
            raise VettingError(
                "The publisher of an artifact cannot vet it independently.",
                where=f"{where}/{path}",
                expected="a vetter's key that signed no release of it",
                found=vetter.id,
                next_step="Have somebody else vet it, or vet at level 2.",
            )


def signed_statement(vetted: VettedArtifact, record: VettingRecord, signer: Signer) -> bytes:
    """Return the envelope around the statement.

    Raises:
        ArtifactFormatError: the record contradicts itself.
        SigningKeyError: the key could not sign, or is not the one that the record names.
    """
    if record.vetted_by != signer.public.text:
        raise VettingError(
            "The record names another key than the one that signs it.",
            expected=signer.public.text,
            found=record.vetted_by,
        )
    return sign(vetting_statement(vetted.manifest, vetted.digest, record), STATEMENT, (signer,))


def write_statement(path: Path, content: bytes) -> None:
    """Write a new file: all of it or nothing, and never over another statement.

    Raises:
        EvaluationError: the file exists already, or cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # A link fails where the name is taken; a rename would replace what stands there.
        os.link(partial, path)
    except OSError as error:
        raise EvaluationError(
            "The vetting statement cannot be written.",
            where=path,
            expected="a new file in a folder that can be written",
            found=error.strerror or type(error).__name__,
            next_step="Choose another place with --out.",
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
