"""`steerguard sync` on a loopback Hub, with the real client, and on local registries."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from tests.artifact_samples import sample_files, write_folder
from tests.loopback_hubs import REGULAR_UPLOAD, client_online, footing
from tests.publishable_artifacts import OTHER, PUBLISHER, publishable_folder
from tests.registry_commands import trust_file
from typer.testing import CliRunner

from steerguard.cli.main import application
from steerguard.content import policies_directory
from steerguard.hub.client import HubClient
from steerguard.hub.publish import publish
from steerguard.hub.revoke import revoke
from steerguard.registry.local import create_registry
from steerguard.registry.lockfile import lockfile_of, read_lock, write_lock
from steerguard.registry.pulled import PulledArtifacts
from steerguard.testing import LoopbackHub

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)

APP = application(["lock", "sync", "plan"])
REFERENCE = "hf://acme/inferaligner@^1"
LOCK = Path("steerguard.lock")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(tmp_path):
    disable_progress_bars()
    with LoopbackHub() as hub, client_online(hub, tmp_path / "home"):
        yield hub
    enable_progress_bars()


@pytest.fixture
def command(hub):
    """Run a command on the hub, without a token."""

    def run_there(name, *arguments):
        endpoint = ["--endpoint", hub.endpoint] if name in {"lock", "sync"} else []
        return run(name, *arguments, *endpoint)

    return run_there


def run(*arguments):
    return CliRunner(env={"COLUMNS": "240"}).invoke(APP, [str(argument) for argument in arguments])


def add_to_hub(hub, tmp_path, version="1.0.0", *signers):
    folder = publishable_folder(tmp_path / f"artifact-{version}", *signers, version=version)
    desk = PulledArtifacts(tmp_path / "desk")
    return publish(
        HubClient(hub.endpoint, hub.token),
        folder,
        organisation="acme",
        pulled=desk,
        signer=PUBLISHER,
        **footing(hub),
    )


@pytest.fixture
def published(hub, tmp_path):
    return add_to_hub(hub, tmp_path)


@pytest.fixture
def trust(tmp_path):
    return trust_file(tmp_path, PUBLISHER, "hf://acme")


@pytest.fixture
def policy(tmp_path):
    text = (policies_directory() / "harmlessness.yaml").read_text()
    file = tmp_path / "policy.yaml"
    file.write_text(text.replace("inferaligner-steps@^2", REFERENCE))
    return file


@pytest.fixture
def locked(command, published, policy, trust):
    result = command("lock", policy, "--trust", trust)
    assert result.exit_code == 0, result.output
    return read_lock(LOCK)


def the_vectors(lock):
    (found,) = [one for one in lock.artifacts if one.family == "inferaligner"]
    return found


def test_lock_pins_commit_and_digest_of_the_hub(locked, published):
    found = the_vectors(locked)
    assert (found.repo, found.commit) == (published.entry.repo, published.entry.commit)
    assert found.digest == published.entry.digest
    assert found.signed_by == (PUBLISHER.public.id,)
    (hub,) = [one for one in locked.registries if one.registry == "hf://acme"]
    assert (hub.index_sequence, hub.revocations_sequence) == (1, 1)


def test_sync_pulls_what_is_locked_and_then_finds_it(command, locked, trust):
    before = LOCK.read_bytes()
    shutil.rmtree(os.environ["STEERGUARD_STORE"])
    first = command("sync", "--frozen", "--trust", trust)
    assert first.exit_code == 0, first.output
    assert "pulled    inferaligner/tiny@1.0.0" in first.stdout
    assert "2 locked artifacts are on this machine, admitted by the trust policy." in first.stdout
    assert PulledArtifacts().sound(the_vectors(locked).digest)
    second = command("sync", "--frozen", "--trust", trust)
    assert "present   inferaligner/tiny@1.0.0" in second.stdout
    assert LOCK.read_bytes() == before


def test_offline_asks_nobody(hub, command, locked, trust):
    missing = command("sync", "--offline", "--trust", trust)
    assert missing.exit_code == 1
    assert "RegistryUnavailableError" in missing.stderr
    assert "inferaligner/tiny@1.0.0" in missing.stderr
    assert command("sync", "--trust", trust).exit_code == 0
    before = len(hub.requests)
    result = command("sync", "--frozen", "--offline", "--trust", trust)
    assert result.exit_code == 0, result.output
    assert "warning: the index and the revocations of hf://acme were not read." in result.stderr
    assert len(hub.requests) == before


def test_a_poisoned_copy_is_replaced(command, locked, trust):
    command("sync", "--trust", trust)
    store = PulledArtifacts()
    card = store.folder(the_vectors(locked).digest) / "README.md"
    card.write_bytes(b"x" * card.stat().st_size)
    result = command("sync", "--frozen", "--trust", trust)
    assert result.exit_code == 0, result.output
    assert "repaired  inferaligner/tiny@1.0.0" in result.stdout
    assert store.sound(the_vectors(locked).digest)


def test_a_newer_version_on_the_hub_changes_nothing(hub, command, locked, trust, tmp_path):
    add_to_hub(hub, tmp_path, "1.1.0")
    result = command("sync", "--frozen", "--trust", trust)
    assert result.exit_code == 0, result.output
    assert "1.1.0" not in result.stdout
    assert read_lock(LOCK) == locked


def test_without_frozen_the_lock_file_learns_what_was_seen(hub, command, locked, trust, tmp_path):
    add_to_hub(hub, tmp_path, "1.1.0")
    result = command("sync", "--trust", trust)
    assert "now says what was seen" in result.stdout
    renewed = read_lock(LOCK)
    (seen,) = [one for one in renewed.registries if one.registry == "hf://acme"]
    assert seen.index_sequence == 2
    assert renewed.artifacts == locked.artifacts
    assert renewed.policies == locked.policies


def test_what_is_revoked_after_it_was_locked_is_refused(hub, command, locked, trust, tmp_path, policy):
    from tests.signed_artifacts import revoked

    command("sync", "--trust", trust)
    revoke(
        HubClient(hub.endpoint, hub.token),
        organisation="acme",
        pulled=PulledArtifacts(tmp_path / "desk"),
        signer=PUBLISHER,
        artifacts=[revoked(digest=the_vectors(locked).digest)],
    )
    result = command("sync", "--frozen", "--trust", trust)
    assert result.exit_code == 1
    assert "RevokedError" in result.stderr
    # The list stays known without a network, and holds back a lock as well.
    assert "RevokedError" in command("sync", "--frozen", "--offline", "--trust", trust).stderr
    assert "RevokedError" in command("lock", policy, "--check", "--trust", trust).stderr


def test_signatures_are_judged_at_sync(hub, command, published, policy, trust, locked, tmp_path):
    stranger = trust_file(tmp_path, PUBLISHER, "hf://acme")
    stranger.write_text(stranger.read_text().replace(PUBLISHER.public.text, OTHER.public.text, 1))
    result = command("sync", "--frozen", "--trust", stranger)
    assert result.exit_code == 1
    assert "SignatureError" in result.stderr
    assert OTHER.public.id in result.stderr


def test_without_a_trust_policy_nothing_is_judged_and_that_is_said(command, locked):
    result = command("sync", "--frozen")
    assert result.exit_code == 0, result.output
    assert "not judged, without --trust" in result.stdout
    assert "hf://acme were not read" in result.stderr


def test_an_older_index_than_the_locked_one_is_a_rollback(hub, command, locked, trust, tmp_path):
    registries = [
        one.model_copy(update={"index_sequence": 9}) if one.registry == "hf://acme" else one
        for one in locked.registries
    ]
    write_lock(LOCK, lockfile_of(locked.policies, registries, locked.artifacts))
    shutil.rmtree(os.environ["STEERGUARD_STORE"])
    result = command("sync", "--frozen", "--trust", trust)
    assert result.exit_code == 1
    assert "RollbackError" in result.stderr


def test_a_lock_that_contradicts_itself_is_refused(command, locked, trust):
    write_lock(LOCK, lockfile_of(locked.policies, locked.registries, [the_vectors(locked)]))
    missing = command("sync", "--frozen", "--trust", trust)
    assert missing.exit_code == 1
    assert "UnlockedArtifactError" in missing.stderr
    write_lock(LOCK, lockfile_of([], locked.registries, locked.artifacts))
    foreign = command("sync", "--frozen", "--trust", trust)
    assert foreign.exit_code == 1
    assert "LockMismatchError" in foreign.stderr


def test_a_locked_local_registry_is_hashed(tmp_path):
    registry = create_registry(tmp_path / "registry")
    registry.add(write_folder(tmp_path / "artifact", sample_files()))
    policy = tmp_path / "policy.yaml"
    text = (policies_directory() / "harmlessness.yaml").read_text()
    policy.write_text(text.replace("inferaligner-steps@^2", f"{registry.name}#inferaligner@^1"))
    assert run("lock", policy).exit_code == 0
    assert run("sync", "--frozen").exit_code == 0
    card = registry.root / "inferaligner" / "tiny" / "1.0.0" / "README.md"
    card.write_bytes(b"x" * card.stat().st_size)
    result = run("sync", "--frozen")
    assert result.exit_code == 1
    assert "ArtifactIntegrityError" in result.stderr
    shutil.rmtree(registry.root)
    assert "ArtifactNotFoundError" in run("sync").stderr


def test_an_absent_lock_file_is_named():
    result = run("sync")
    assert result.exit_code == 1
    assert "LockFormatError" in result.stderr
    assert json.dumps("steerguard.lock")[1:-1] in result.stderr
