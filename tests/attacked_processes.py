"""One step of a registry's user in a process of its own: without privileges, or on a disk that takes small files only.

    python -m tests.attacked_processes STEP FOLDER ENDPOINT POWERLESS LIMIT...

prints one JSON line per limit: the name of the error that the step raised, or null. A limit is the largest size of a
file in bytes that the system lets this process write, as on a full disk; 0 is none.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

TOKEN = "hf_owner"


def command(scene: Any, step: str, *more: object, limits: Sequence[int] = (0,), powerless: bool = False) -> list[str]:
    """The command line of a step."""
    _hand_over(scene)
    told = [step, scene.folder, scene.hub.endpoint, int(powerless), ",".join(map(str, limits)), *more]
    return [sys.executable, "-m", "tests.attacked_processes", *map(str, told)]


def _hand_over(scene: Any) -> None:
    """Write what a step needs to know: the owner's key, the trust policy and who may have signed releases."""
    from tests.signed_artifacts import ACME, ACME_NEXT, HUB, OWNER, trust_text

    (scene.folder / "trust.yaml").write_text(trust_text(registries=[HUB], signed=[HUB]))
    (scene.folder / "keys.json").write_text(json.dumps({"release": [ACME.public.text, ACME_NEXT.public.text]}))
    key = Ed25519PrivateKey.from_private_bytes(bytes([4]) * 32)
    assert key.public_key().public_bytes_raw() == OWNER.public.raw
    file = scene.folder / "owner.pem"
    file.touch(0o600)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(key.private_bytes(*form))


def environment(scene: Any) -> dict[str, str]:
    """The surroundings of a step: its own home, online, and nothing of the user's."""
    return {
        **os.environ,
        "HF_HOME": str(scene.folder / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "STEERGUARD_STORE": str(scene.folder / "store"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


def run_alone(scene: Any, step: str, *more: object, limits: Sequence[int] = (0,), powerless: bool = False) -> list[Any]:
    """Run steps, such as `check+sync`, once per limit each, and return the name of each error, or None."""
    line = command(scene, step, *more, limits=limits, powerless=powerless)
    done = subprocess.run(line, env=environment(scene), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def run_together(scene: Any, *steps: Sequence[object]) -> list[list[Any]]:
    """Run steps at the same time, each in its own process."""
    running = [
        subprocess.Popen(
            command(scene, *step), env=environment(scene), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for step in steps
    ]
    results = [process.communicate(timeout=120) for process in running]
    for process, (_, complaints) in zip(running, results, strict=True):
        assert process.returncode == 0, complaints[-2000:]
    return [json.loads(said.splitlines()[-1]) for said, _ in results]


def _steps(folder: Path, endpoint: str, more: Sequence[str]) -> dict[str, Callable[[], object]]:
    from steerguard.artifacts.integrity import check_integrity
    from steerguard.artifacts.reference import parse_reference
    from steerguard.hub.client import HubClient
    from steerguard.hub.footing import Floor
    from steerguard.hub.publish import publish
    from steerguard.hub.revoke import revoke
    from steerguard.hub.sync import sync
    from steerguard.registry.local import LocalDirectory
    from steerguard.registry.lockfile import read_lock, write_lock
    from steerguard.registry.pulled import PulledArtifacts
    from steerguard.registry.revoke_locally import revoke_locally
    from steerguard.signing.keys import PublicKey, SigningKey
    from steerguard.sourcing import open_sources

    store = PulledArtifacts(folder / "store")
    lock = read_lock(folder / "steerguard.lock")
    told = json.loads((folder / "keys.json").read_text())
    signer, keys = SigningKey.from_file(folder / "owner.pem"), [PublicKey.parse(text) for text in told["release"]]
    owner, begun = HubClient(endpoint, TOKEN, progress=False), Floor(index=1, revocations=1)

    def check() -> None:
        sources = open_sources(None, trust=folder / "trust.yaml", lock=lock, pulled=store).sources
        found = next(sources.candidates(parse_reference(lock.artifacts[0].reference)))
        check_integrity(found.store.read(found.pin), found.pin.digest)

    def desk() -> PulledArtifacts:
        return PulledArtifacts(Path(more[1]))

    def local() -> LocalDirectory:
        return LocalDirectory(Path(more[0]))

    return {
        "check": check,
        "sync": lambda: sync(
            lock, store, HubClient(endpoint, progress=False), index_keys={"hf://acme": [signer.public]}
        ),
        "publish": lambda: publish(
            owner,
            Path(more[0]),
            organisation="acme",
            pulled=desk(),
            signer=signer,
            release_keys=keys,
            at_least=begun,
        ),
        "revoke": lambda: revoke(
            owner, "acme", artifacts=[_revoked(more[0])], signer=signer, pulled=desk(), at_least=begun
        ),
        "add": lambda: LocalDirectory(Path(more[1])).add(Path(more[0])),
        "revoke locally": lambda: revoke_locally(
            local(),
            artifacts=[_revoked(more[1])],
            signer=signer,
            pulled=store,
            valid_for=timedelta(days=30),
            at_least=1,
        ),
        "write lock": lambda: write_lock(folder / "steerguard.lock", lock),
    }


def _revoked(family: str) -> Any:
    from steerguard.registry.revocations import RevokedArtifact

    return RevokedArtifact(
        family=family, reason="unsafe", action="refuse", note="for tests", since="2026-11-22T00:00:00Z"
    )


def _drop_privileges() -> None:
    """Give up what lets a superuser ignore the modes of files; nothing changes for anybody else."""
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def main() -> None:
    """Run one step once per limit."""
    wanted, folder, endpoint, powerless, limits, *more = sys.argv[1:]
    steps = _steps(Path(folder), endpoint, more)
    from steerguard.errors import SteerguardError

    if int(powerless):
        _drop_privileges()
    found: list[str | None] = []
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    for step, limit in product(wanted.split("+"), map(int, limits.split(","))):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit or hard, hard))
        try:
            steps[step]()
        except SteerguardError as error:
            found.append(type(error).__name__)
        else:
            found.append(None)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
