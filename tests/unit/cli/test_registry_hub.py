"""`steerguard registry` on a loopback Hub, with the real client: publish, show, search, verify, pull, revoke."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from tests.artifact_samples import sample_files, write_folder
from tests.loopback_hubs import REGULAR_UPLOAD, client_online
from tests.publishable_artifacts import REPO, publishable_files
from tests.registry_commands import key_file, run, tree, trust_file

from steerguard.testing import LoopbackHub

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)

REGISTRY = "hf://acme"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "store"))
    disable_progress_bars()
    with LoopbackHub() as hub, client_online(hub, tmp_path / "home"):
        yield hub
    enable_progress_bars()


@pytest.fixture
def command(hub):
    """Run a command on the hub, as its writer."""
    return lambda *arguments: run(*arguments, "--endpoint", hub.endpoint, HF_TOKEN=hub.token)


@pytest.fixture
def acme(tmp_path):
    return key_file(tmp_path, "acme")


@pytest.fixture
def trust(tmp_path, acme):
    return trust_file(tmp_path, acme[1], REGISTRY, f"file://{tmp_path}/*")


@pytest.fixture
def folder(tmp_path, acme):
    folder = write_folder(tmp_path / "artifact", publishable_files())
    assert run("sign", folder, "--key", acme[0], "--publisher", "acme").exit_code == 0
    return folder


@pytest.fixture
def published(command, folder, acme):
    result = command("publish", folder, "--registry", REGISTRY, "--key", acme[0], "--new-registry", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_publish_names_commit_and_tag(hub, published):
    assert published["repo"] == REPO
    assert published["tag"] == "v1.0.0"
    assert published["index"] == 1
    assert len(published["commit"]) == 40
    tags = HfApi(endpoint=hub.endpoint, token=hub.token).list_repo_refs(REPO).tags
    assert [(tag.name, tag.target_commit) for tag in tags] == [("v1.0.0", published["commit"])]


def test_a_dry_run_says_what_would_change_and_writes_nothing(hub, command, folder, acme):
    result = command(
        "publish", folder, "--registry", REGISTRY, "--key", acme[0], "--new-registry", "--dry-run", "--json"
    )
    assert result.exit_code == 0
    plan = json.loads(result.stdout)
    assert plan["published"] is False
    assert plan["exists"] is False
    assert "manifest.json" in plan["added"]
    assert list(HfApi(endpoint=hub.endpoint, token=hub.token).list_models(author="acme")) == []


def test_publishing_without_a_release_signature_is_refused(tmp_path, command, acme):
    folder = write_folder(tmp_path / "unsigned", publishable_files())
    result = command("publish", folder, "--registry", REGISTRY, "--key", acme[0], "--new-registry")
    assert result.exit_code == 1
    assert "PublishRefusedError" in result.stderr
    assert "registry sign" in result.stderr


def test_publishing_without_side_effects_is_refused(hub, tmp_path, command, acme):
    folder = write_folder(tmp_path / "unmeasured", sample_files())
    run("sign", folder, "--key", acme[0], "--publisher", "acme")
    result = command("publish", folder, "--registry", REGISTRY, "--key", acme[0], "--new-registry")
    assert result.exit_code == 1
    assert "over_refusal" in result.stderr
    assert not [one for one in hub.requests if str(one).startswith("POST") and "commit" in str(one)]


def test_a_private_repository_is_private(hub, command, folder, acme):
    command("publish", folder, "--registry", REGISTRY, "--key", acme[0], "--new-registry", "--private")
    assert HfApi(endpoint=hub.endpoint, token=hub.token).repo_info(REPO).private


def test_search_reads_the_index_alone(hub, command, published, trust):
    before = len(hub.requests)
    result = command("search", "tiny", "--registry", REGISTRY, "--trust", trust, "--json")
    assert result.exit_code == 0
    (row,) = json.loads(result.stdout)
    assert row["reference"] == "inferaligner/tiny@1.0.0"
    assert row["commit"] == published["commit"]
    assert not [one for one in hub.requests[before:] if REPO in str(one)]


def test_show_says_signers_revocation_and_tag(command, published, trust, acme):
    result = command("show", "inferaligner", "--registry", REGISTRY, "--trust", trust, "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    said = found["standing"]
    assert said["trusted"].startswith(f"yes: signed by {acme[1].public.id} for publisher acme; no vetting counts")
    assert said["revoked"].startswith("no, by list 1")
    assert said["tag"] == f"v1.0.0 stands at the indexed commit {published['commit']}"
    assert said["repository"] == f"{REPO} at {published['commit']}"


def test_show_accepts_a_reference_that_names_the_registry(command, published, trust):
    result = command("show", "hf://acme/inferaligner@^1", "--trust", trust)
    assert result.exit_code == 0
    assert "stands at the indexed commit" in result.stdout


def move_tag(hub, change):
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    commit = api.upload_file(path_or_fileobj=change[1], path_in_repo=change[0], repo_id=REPO).oid
    api.delete_tag(REPO, tag="v1.0.0")
    api.create_tag(REPO, tag="v1.0.0", revision=commit)
    return commit


def test_show_says_that_a_tag_was_moved_to_another_artifact(hub, command, published, trust):
    commit = move_tag(hub, ("manifest.json", b"{}"))
    result = command("show", "inferaligner", "--registry", REGISTRY, "--trust", trust, "--json")
    tag = json.loads(result.stdout)[0]["standing"]["tag"]
    assert tag == f"MOVED: v1.0.0 stands at {commit}, which is another artifact; the index pins {published['commit']}"


def test_show_tells_more_attestations_from_another_artifact(hub, command, published, trust):
    move_tag(hub, ("attestations/note.json", b"{}"))
    result = command("show", "inferaligner", "--registry", REGISTRY, "--trust", trust, "--json")
    assert "the same artifact" in json.loads(result.stdout)[0]["standing"]["tag"]


def test_show_says_that_a_tag_is_gone(hub, command, published, trust):
    HfApi(endpoint=hub.endpoint, token=hub.token).delete_tag(REPO, tag="v1.0.0")
    result = command("show", "inferaligner", "--registry", REGISTRY, "--trust", trust)
    assert "does not exist" in result.stdout


def test_verify_downloads_and_judges(command, published, trust, acme):
    result = command("verify", REGISTRY, "--trust", trust)
    assert result.exit_code == 0, result.output
    assert f"ok       inferaligner/tiny@1.0.0 {published['digest']}" in result.stdout
    assert f"signed by {acme[1].public.id}" in result.stdout
    assert f"1 of 1 artifacts verified in {REGISTRY}." in result.stdout


def test_pull_to_a_local_registry_is_the_way_without_a_network(tmp_path, command, published, folder, trust):
    result = command("pull", "hf://acme/inferaligner", "--trust", trust, "--to", tmp_path / "air")
    assert result.exit_code == 0, result.output
    assert tree(tmp_path / "air" / "inferaligner" / "tiny" / "1.0.0") == tree(folder)
    assert run("verify", tmp_path / "air").exit_code == 0


def test_what_nobody_trusted_signed_is_not_pulled(tmp_path, command, published, acme):
    _, stranger = key_file(tmp_path, "stranger")
    text = trust_file(tmp_path, acme[1], REGISTRY).read_text()
    publisher, rest = text.split("vetters:")
    (tmp_path / "trust.yaml").write_text(
        publisher.replace(acme[1].public.text, stranger.public.text) + "vetters:" + rest
    )
    result = command("pull", "hf://acme/inferaligner", "--trust", tmp_path / "trust.yaml", "--to", tmp_path / "air")
    assert result.exit_code == 1
    assert "SignatureError" in result.stderr
    assert not list((tmp_path / "store").glob("artifacts/*"))


def test_revoking_stops_pull_and_verify(command, published, trust, acme):
    arguments = ("--digest", published["digest"], "--reason", "unsafe", "--note", "found a bypass")
    result = command("revoke", "--registry", REGISTRY, *arguments, "--key", acme[0], "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["sequence"] == 2
    for refused in (("pull", "hf://acme/inferaligner"), ("verify", REGISTRY)):
        answer = command(*refused, "--trust", trust)
        assert answer.exit_code == 1
        assert "RevokedError" in answer.output
    assert "found a bypass" in command("show", "hf://acme/inferaligner", "--trust", trust).stdout


def test_renewing_signs_both_lists_again(command, published, acme):
    result = command("revoke", "--registry", REGISTRY, "--renew", "--key", acme[0], "--valid-days", "90", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["sequence"] == 2
    assert found["artifacts"] == []


def test_a_registry_is_begun_only_where_that_is_said(hub, command, folder, acme, published):
    base = ("publish", folder, "--key", acme[0])
    result = command(*base, "--registry", "hf://newcomer")
    assert result.exit_code == 1
    assert "ArtifactNotFoundError" in result.stderr
    assert "--new-registry" in result.stderr
    result = command("revoke", "--registry", REGISTRY, "--artifact", "x", "--new-registry", "--key", acme[0])
    assert result.exit_code == 1
    assert "PublishConflictError" in result.stderr
    result = command("revoke", "--registry", REGISTRY, "--renew", "--new-registry", "--key", acme[0])
    assert "not begun by renewing" in result.stderr


def test_a_store_without_memory_needs_the_known_sequences(tmp_path, command, published, acme, monkeypatch):
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "fresh"))
    renew = ("revoke", "--registry", REGISTRY, "--renew", "--key", acme[0])
    result = command(*renew)
    assert result.exit_code == 1
    assert "RollbackError" in result.stderr
    assert "--at-least" in result.stderr
    assert "index 1, issued" in result.stderr
    for wrong in ("1", "0,1", "1,1,1", "x,1"):
        assert "cannot be read" in command(*renew, "--at-least", wrong).stderr
    assert "older state" in command(*renew, "--at-least", "1,2").stderr
    result = command(*renew, "--at-least", f"{published['index']},{published['list']}")
    assert result.exit_code == 0, result.output
    assert "list 2 of hf://acme" in result.stdout
    assert "index 2 of hf://acme" in result.stdout
    assert command(*renew).exit_code == 0


def test_an_index_by_a_stranger_is_refused(tmp_path, command, published):
    _, stranger = key_file(tmp_path, "stranger")
    trust = trust_file(tmp_path, stranger, REGISTRY)
    result = command("list", "--registry", REGISTRY, "--trust", trust)
    assert result.exit_code == 1
    assert "SignatureError" in result.stderr


def test_a_wrong_token_is_said_without_showing_it(hub, folder, acme):
    result = run(
        "publish",
        folder,
        "--registry",
        REGISTRY,
        "--key",
        acme[0],
        "--endpoint",
        hub.endpoint,
        HF_TOKEN="hf_" + "x" * 34,
    )
    assert result.exit_code == 1
    assert "RegistryAccessError" in result.stderr
    assert "xxxx" not in result.output


def test_an_absent_organisation_is_said(command, tmp_path, acme):
    result = command("list", "--registry", "hf://nobody", "--trust", trust_file(tmp_path, acme[1], "hf://nobody"))
    assert result.exit_code == 1
    assert "ArtifactNotFoundError" in result.stderr


def test_diff_reads_references_on_the_hub(tmp_path, command, published, trust, acme):
    newer = write_folder(tmp_path / "newer", publishable_files(version="1.1.0"))
    run("sign", newer, "--key", acme[0], "--publisher", "acme")
    assert command("publish", newer, "--registry", REGISTRY, "--key", acme[0]).exit_code == 0
    result = command("diff", "hf://acme/inferaligner@1.0.0", "hf://acme/inferaligner@1.1.0", "--trust", trust)
    assert result.exit_code == 0, result.output
    assert "artifact: version: 1.0.0 → 1.1.0." in result.stdout
