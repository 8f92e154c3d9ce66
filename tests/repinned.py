"""An artifact with other bytes in it that its manifest pins anew: sound by every digest, whatever it holds."""

from __future__ import annotations

import json

from steerguard.artifacts.manifest import manifest_digest, parse_manifest
from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.vetting.overlay import VettedArtifact


def repinned(vetted, changed):
    """Return the artifact with these files exchanged; they must be listed already."""
    fields = json.loads(vetted.files["manifest.json"])
    for entry in fields["files"]:
        if entry["path"] in changed:
            entry.update(sha256=sha256_hex(changed[entry["path"]]), size=len(changed[entry["path"]]))
    manifest = canonical_bytes(fields)
    files = {**vetted.files, **changed, "manifest.json": manifest}
    return VettedArtifact(files=files, manifest=parse_manifest(manifest), digest=manifest_digest(manifest))
