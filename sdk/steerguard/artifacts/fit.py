"""Whether an artifact was made for this model, judged from facts alone; the fingerprint then judges the weights."""

from __future__ import annotations

from steerguard.artifacts.manifest import ArtifactManifest, FingerprintEntry
from steerguard.errors import IncompatibleModelError
from steerguard.models.facts import ModelFacts


def misfits(manifest: ArtifactManifest, facts: ModelFacts) -> tuple[tuple[str, object, object], ...]:
    """Return every field in which artifact and model differ, as (name, expected by the artifact, found in the model).

    The decoder is compared, not the whole class: a multimodal model built on the same decoder fits.
    The number of embedding rows is not: padding the embedding leaves the residual stream as it is.
    """
    base = manifest.base
    pairs: tuple[tuple[str, object, object], ...] = (
        ("decoder", base.decoder, facts.decoder),
        ("num_blocks", base.num_blocks, facts.num_blocks),
        ("hidden_size", base.hidden_size, facts.hidden_size),
        ("tokenizer_sha256", base.tokenizer_sha256, facts.tokenizer_sha256),
        ("chat_template_sha256", base.chat_template_sha256, facts.chat_template_sha256),
    )
    return tuple(pair for pair in pairs if pair[1] != pair[2])


def check_fit(manifest: ArtifactManifest, facts: ModelFacts) -> None:
    """Refuse an artifact that was made for another model.

    Raises:
        IncompatibleModelError: names each field that differs, with what the artifact expects and the model has.
    """
    different = misfits(manifest, facts)
    if not different:
        return
    no_tokenizer = facts.tokenizer_sha256 is None and all(name.endswith("sha256") for name, _, _ in different)
    raise IncompatibleModelError(
        f"Artifact {manifest.reference} was made for another model than {facts.name or facts.architecture}.",
        where=", ".join(name for name, _, _ in different),
        expected=", ".join(f"{name} {expected}" for name, expected, _ in different),
        found=", ".join(f"{name} {found}" for name, _, found in different),
        next_step="Pass tokenizer=." if no_tokenizer else f"Build a variant of {manifest.family} for this model.",
    )


def fingerprint_entry(manifest: ArtifactManifest, facts: ModelFacts) -> FingerprintEntry:
    """Return the fingerprint that was recorded on weights of this model's floating point type.

    Raises:
        IncompatibleModelError: the artifact was not checked on that type.
    """
    for entry in manifest.fingerprints:
        if entry.weights == facts.dtype:
            return entry
    recorded = ", ".join(entry.weights for entry in manifest.fingerprints)
    raise IncompatibleModelError(
        f"Artifact {manifest.reference} has no fingerprint for {facts.dtype} weights.",
        where="fingerprints",
        expected=recorded,
        found=facts.dtype,
        next_step=f"Load the model as one of: {recorded}; or build a variant for {facts.dtype}.",
    )
