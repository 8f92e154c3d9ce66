"""How fast artifacts are verified, beside plain sha256, and how fast a locked one resolves without a network.

    python benchmarks/registry_speed.py --out benchmarks/results/registry_speed.json

Verification is timed from opening the folder to the verified artifact with its finite tensors; plain sha256 is
`hashlib.file_digest` of the weights file. Both are measured in turns, and the ratio is the median of the pairs' ratios.
Resolving is timed from the paths of lock file and trust policy to the judged artifact: both files are read, the list of
revocations is verified, and so are release and vetting of the artifact. Connections are counted by the interpreter.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from tests.artifact_samples import digest_of, sample_fields, sample_tensors, write_folder
from tests.signed_artifacts import (
    ACME,
    HUB,
    LAB,
    OWNER,
    entry_of,
    release,
    revocations,
    signed_list,
    trust_text,
    vetting,
)

from steerguard.artifacts.codec import encode_artifact
from steerguard.artifacts.integrity import pinned_manifest
from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.reference import parse_reference
from steerguard.artifacts.verify import verify_artifact
from steerguard.registry.folder import read_folder
from steerguard.registry.local import embedded_registry
from steerguard.registry.lockfile import LockedArtifact, LockedFile, LockedRegistry, lockfile_of, write_lock
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.revocations import REVOCATIONS
from steerguard.sourcing import open_sources

ROUNDS = 15
MEBIBYTES = 320
RATIO_BAR, RESOLVE_BAR_MS = 0.8, 20.0
BIG = "weights/big.safetensors"
FAMILY = "harmful-intent"


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--memory", nargs=2, metavar=("FOLDER", "DIGEST"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(peak_growth(Path(options.memory[0]), options.memory[1]))
        return
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "command": "make benchmark-registry-speed",
        "rounds": options.rounds,
        "threads": 1,
        "processors": os.cpu_count(),
        "verification": [],
        "bars": {"ratio": RATIO_BAR, "resolve_ms": RESOLVE_BAR_MS},
    }
    with tempfile.TemporaryDirectory() as folder:
        for dtype in (torch.float32, torch.bfloat16):
            report["verification"].append(verification(Path(folder) / "artifact", dtype, options.rounds))
        report["resolve"] = resolving(Path(folder), options.rounds)
    for row in report["verification"]:
        ok = "ok" if row["ratio"] >= RATIO_BAR else "under the bar"
        print(
            f"{row['weights']:9} {row['mebibytes']} MiB  sha256 {row['plain_mib_per_second']} MiB/s, "
            f"verified {row['verified_mib_per_second']} MiB/s, ratio {row['ratio']} {ok}; "
            f"peak memory {row['peak_copies']} copies"
        )
    found = report["resolve"]
    ok = "ok" if found["ms"] <= RESOLVE_BAR_MS and not found["connections"] else "over the bar"
    print(f"resolve {found['ms']} ms ({found['candidates_ms']} ms opened), {found['connections']} connections  {ok}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


def verification(folder: Path, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """Measure one weights file: plain sha256 and the whole verification, in turns."""
    rows = MEBIBYTES * 2**20 // dtype.itemsize // 4096
    big = {"weight": torch.randn(rows, 4096, generator=torch.Generator().manual_seed(0)).to(dtype)}
    files = encode_artifact(sample_fields(), sample_tensors() | {BIG: big}, card="# Large\n")
    digest, size = digest_of(files), len(files[BIG])
    write_folder(folder, files)
    del files, big
    once(folder, digest)
    pairs = [once(folder, digest) for _ in range(rounds)]
    plain, verified = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    command = [sys.executable, __file__, "--memory", str(folder), digest]
    growth = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    shutil.rmtree(folder)
    return {
        "weights": str(dtype).removeprefix("torch."),
        "mebibytes": round(size / 2**20),
        "plain_mib_per_second": round(size / 2**20 / plain),
        "verified_mib_per_second": round(size / 2**20 / verified),
        "ratio": round(statistics.median(one / other for one, other in pairs), 3),
        "lowest_ratio": round(min(one / other for one, other in pairs), 3),
        "peak_copies": round(growth / size, 2),
    }


def once(folder: Path, digest: str) -> tuple[float, float]:
    """Return the seconds of plain sha256 and of the verification."""
    start = time.perf_counter()
    with (folder / BIG).open("rb") as stream:
        hashlib.file_digest(stream, "sha256").hexdigest()
    middle = time.perf_counter()
    artifact = verify_artifact(read_folder(folder), digest, where="benchmark")
    end = time.perf_counter()
    assert BIG in artifact.tensors
    return middle - start, end - middle


def peak_growth(folder: Path, digest: str) -> int:
    """Return by how many bytes the peak of this process's memory grows while it verifies."""
    verify_artifact(*_small(), where="warm up")
    before = _peak()
    verify_artifact(read_folder(folder), digest, where="benchmark")
    return _peak() - before


def _peak() -> int:
    """Return the peak of this process's resident memory in bytes, as Linux counts it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def _small() -> tuple[Any, str]:
    store = embedded_registry()
    (pin,) = store.pinned(FAMILY)[:1]
    return store.read(pin), pin.digest


def resolving(root: Path, rounds: int) -> dict[str, Any]:
    """Measure how a locked, pulled, signed and vetted artifact resolves under a trust policy."""
    pulled = PulledArtifacts(root / "store")
    files = dict(_small()[0])
    digest, now = manifest_digest(files["manifest.json"]), datetime.now(UTC)
    manifest = pinned_manifest(files["manifest.json"], digest)
    files |= release(manifest, digest, ACME) | vetting(manifest, digest, LAB, vetted=now - timedelta(hours=1))
    with pulled.one_at_a_time(digest):
        pulled.put(digest, write_folder(pulled.partial(digest) / "artifact", files))
    pulled.remember(HUB, REVOCATIONS, signed_list(revocations(HUB, issued=now), OWNER))
    trust = root / "trust.yaml"
    trust.write_text(trust_text(registries=[HUB], require="{signatures: 1, vetting_level: 2}", signed=[HUB]))
    reference = f"{HUB}/{FAMILY}@^{manifest.version}"
    entry = entry_of(manifest, digest)
    locked = LockedArtifact(
        reference=reference,
        registry=HUB,
        family=entry.family,
        variant=entry.variant,
        version=entry.version,
        digest=digest,
        repo=f"acme/{FAMILY}",
        commit="0" * 40,
        files=tuple(LockedFile(path=one.path, sha256=one.sha256, size=one.size) for one in manifest.files),
        signed_by=(ACME.public.id,),
        vetting=None,
    )
    seen = LockedRegistry(registry=HUB, index_sequence=1, index_sha256="4" * 64, revocations_sequence=1)
    write_lock(root / "steerguard.lock", lockfile_of((), (seen,), (locked,)))
    parsed, connections = parse_reference(reference), list[str]()
    sys.addaudithook(lambda event, _: connections.append(event) if event.startswith("socket.") else None)
    whole, opened = [], []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        sourcing = open_sources(
            None, trust=trust, lock=root / "steerguard.lock", references=(reference,), pulled=pulled
        )
        middle = time.perf_counter()
        (found,) = sourcing.sources.candidates(parsed)
        end = time.perf_counter()
        assert found.evidence.vetting_level == 2
        whole.append(end - start)
        opened.append(end - middle)
    return {
        "artifact": manifest.reference,
        "ms": round(1000 * statistics.median(whole[1:]), 2),
        "candidates_ms": round(1000 * statistics.median(opened[1:]), 2),
        "first_ms": round(1000 * whole[0], 2),
        "connections": len(connections),
    }


if __name__ == "__main__":
    main()
