"""The demonstration of the registry keeps its promises: the prose is free, the claims are not."""

from __future__ import annotations

import json
import re

import pytest
from huggingface_hub import close_session, constants
from tests.loopback_hubs import REGULAR_UPLOAD

from steerguard.audit.verify import verify_directory
from steerguard.cli.demo_registry import FAMILY, REGISTRY, run
from steerguard.registry.local import embedded_registry
from steerguard.registry.lockfile import read_lock
from steerguard.registry.pulled import PulledArtifacts
from steerguard.testing import LoopbackHub

pytestmark = [pytest.mark.real_model, pytest.mark.slow, pytest.mark.filterwarnings(REGULAR_UPLOAD)]


@pytest.fixture
def online(monkeypatch):
    """The client of this process may go online; the demonstration says where."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()
    yield
    close_session()


def test_the_demonstration_of_the_registry_does_what_it_says(tmp_path, online):
    lines: list[str] = []
    found = run(tmp_path, lines.append)

    # The new version is on the Hub, signed, vetted and tagged, and nothing of the embedded registry has changed.
    family, _, version = found.reference.partition("@")
    assert family.startswith(f"{FAMILY}/")
    assert version != embedded_registry().pinned(FAMILY)[0].version
    repository = LoopbackHub(tmp_path / "hub").repository(f"acme/{family.replace('/', '_')}")
    assert set(repository.tags) == {f"v{version}"}
    attested = [path for path in repository.files() if path.startswith("attestations/")]
    assert sorted(path.split("/")[1].split(".")[0] for path in attested) == ["release", "vetting"]

    # The lock pins it at its commit with what was seen, and the clean store has it, whole.
    (locked,) = (one for one in read_lock(tmp_path / "steerguard.lock").artifacts if one.registry == REGISTRY)
    assert (locked.version, locked.commit) == (version, repository.head)
    assert locked.vetting is not None
    assert locked.vetting.level == 3
    assert PulledArtifacts(tmp_path / "clean").sound(locked.digest)

    # Wrapping asked the Hub for nothing; the benign prompt was answered and the harmful one was not.
    assert found.wrap_requests == ()
    assert [decision.applied for decision in found.before] == ["allow", "guide"]

    # After the revocation the guard that runs already refuses what it answered before.
    assert (found.after.applied, found.after.cause) == ("refuse", "revoked")
    assert found.refusal == "I can't help with that request."
    logs = [file.read_text() for file in (tmp_path / "audit").glob("*.jsonl")]
    records = [json.loads(line) for text in logs for line in text.splitlines()]
    assert [record["type"] for record in records].count("artifact.revoked") == 1
    assert verify_directory(tmp_path / "audit").status == "ok"

    # Every step is a command with its seconds, and no key is printed.
    assert sum(line.startswith("$ steerguard ") for line in lines) == 11
    assert all(re.search(r"\(\d+\.\d s\)$", line) for line in lines if line.startswith("  "))
    assert "PRIVATE" not in "".join(lines)
