"""`steerguard registry` on this machine: search, sign, publish, verify under trust, revoke, pull, diff."""

from __future__ import annotations

import json

import pytest
from tests.artifact_samples import digest_of, sample_files, write_folder
from tests.publishable_artifacts import publishable_files
from tests.registry_commands import key_file, run, tree, trust_file
from tests.signed_artifacts import put_list, revocations

from steerguard.artifacts.release import release_path
from steerguard.registry.folder import read_folder
from steerguard.registry.local import create_registry
from steerguard.registry.revocations import REVOCATIONS, verified_revocations
from steerguard.signing.dsse import parse_envelope, signers_of
from steerguard.signing.keys import SigningKey


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "store"))


@pytest.fixture
def acme(tmp_path):
    return key_file(tmp_path, "acme")


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "artifact", publishable_files())


@pytest.fixture
def registry(tmp_path):
    registry = create_registry(tmp_path / "registry")
    for version in ("1.0.0", "1.1.0"):
        registry.add(write_folder(tmp_path / version, sample_files(version=version)))
    return registry


def signed(registry, key):
    for version in ("1.0.0", "1.1.0"):
        target = registry.root / "inferaligner" / "tiny" / version
        assert run("sign", target, "--key", key, "--publisher", "acme").exit_code == 0
    return registry


def test_search_finds_words_of_name_type_and_base_model(registry):
    found = json.loads(run("search", "INFER", "steering", "--registry", registry.root, "--json").stdout)
    assert [row["reference"] for row in found] == ["inferaligner/tiny@1.0.0", "inferaligner/tiny@1.1.0"]
    assert found[0]["base_model"] == "example/tiny"
    assert found[0]["weights"] == ["float32"]


@pytest.mark.parametrize("arguments", [["probe"], ["--type", "probe"], ["--base-model", "other"]])
def test_a_search_without_a_find_fails(registry, arguments):
    result = run("search", *arguments, "--registry", registry.root)
    assert result.exit_code == 1
    assert "matches" in result.output


def test_search_narrows_by_type_and_base_model(registry):
    arguments = ("--type", "steering_vectors", "--base-model", "TINY", "--registry", registry.root)
    assert run("search", *arguments).exit_code == 0


def test_list_as_json_names_every_digest(registry):
    rows = json.loads(run("list", "--registry", registry.root, "--json").stdout)
    assert [row["digest"] for row in rows] == [entry.digest for entry in registry.entries()]


def test_a_registry_may_be_named_by_its_url(registry):
    assert "1.1.0" in run("list", "--registry", registry.name).output


def test_sign_adds_a_release_that_verifies(folder, acme):
    file, key = acme
    result = run("sign", folder, "--key", file, "--publisher", "acme", "--json")
    assert result.exit_code == 0
    path = release_path(key.public.id)
    assert json.loads(result.stdout)["file"] == str(folder / path)
    envelope = parse_envelope((folder / path).read_bytes(), where=path)
    assert signers_of(envelope, [key.public]) == (key.public,)
    assert sorted(tree(folder.parent)) == sorted(
        [*(f"artifact/{name}" for name in (*publishable_files(), path)), "acme.pem"]
    )


def test_signing_twice_changes_nothing(folder, acme):
    run("sign", folder, "--key", acme[0], "--publisher", "acme")
    before = tree(folder)
    assert run("sign", folder, "--key", acme[0], "--publisher", "acme").exit_code == 0
    assert tree(folder) == before


def test_another_publisher_name_is_signed_anew(folder, acme):
    run("sign", folder, "--key", acme[0], "--publisher", "acme")
    before = tree(folder)
    run("sign", folder, "--key", acme[0], "--publisher", "other")
    assert tree(folder) != before


def test_the_key_may_come_from_the_environment(folder, acme):
    result = run("sign", folder, "--publisher", "acme", STEERGUARD_SIGNING_KEY=acme[0].read_text())
    assert result.exit_code == 0
    assert acme[1].public.id in result.stdout


def test_signing_needs_a_key_and_a_publisher(folder, acme):
    assert "SigningKeyError" in run("sign", folder, "--publisher", "acme").stderr
    assert "publisher" in run("sign", folder, "--key", acme[0]).stderr
    assert "attestations" not in str(sorted(tree(folder)))


def test_a_damaged_artifact_is_not_signed(folder, acme):
    (folder / "README.md").write_text("other")
    result = run("sign", folder, "--key", acme[0], "--publisher", "acme")
    assert result.exit_code == 1
    assert "ArtifactIntegrityError" in result.stderr


def test_a_document_gets_an_envelope_beside_it_and_more_signatures(tmp_path, acme):
    other, other_key = key_file(tmp_path, "other")
    document = tmp_path / "certificate.json"
    document.write_bytes(b'{"apiVersion":"steerguard/v1alpha1","kind":"Attestation"}')
    assert run("sign", document, "--key", acme[0]).exit_code == 0
    assert run("sign", document, "--key", other).exit_code == 0
    envelope = parse_envelope((tmp_path / "certificate.json.dsse.json").read_bytes(), where="envelope")
    assert envelope.payload == document.read_bytes()
    assert envelope.payload_type == "application/vnd.steerguard.attestation+json"
    assert signers_of(envelope, [acme[1].public, other_key.public]) == (acme[1].public, other_key.public)


def test_an_envelope_itself_gets_one_more_signature(tmp_path, acme):
    other, other_key = key_file(tmp_path, "other")
    document = tmp_path / "a.json"
    document.write_bytes(b'{"_type":"https://in-toto.io/Statement/v1"}')
    run("sign", document, "--key", acme[0])
    assert run("sign", tmp_path / "a.json.dsse.json", "--key", other).exit_code == 0
    envelope = parse_envelope((tmp_path / "a.json.dsse.json").read_bytes(), where="envelope")
    assert envelope.payload_type == "application/vnd.in-toto+json"
    assert len(signers_of(envelope, [acme[1].public, other_key.public])) == 2


@pytest.mark.parametrize(
    ("content", "said"), [(b'{"a": 1}', "canonical"), (b'{"a":1}', "what it is"), (b"[]", "not a JSON object")]
)
def test_what_does_not_say_what_it_is_is_not_signed(tmp_path, acme, content, said):
    (tmp_path / "a.json").write_bytes(content)
    result = run("sign", tmp_path / "a.json", "--key", acme[0])
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / "a.json.dsse.json").exists()


def test_a_changed_document_is_not_signed_under_its_old_envelope(tmp_path, acme):
    document = tmp_path / "a.json"
    document.write_bytes(b'{"kind":"Attestation"}')
    run("sign", document, "--key", acme[0])
    before = tree(tmp_path)
    document.write_bytes(b'{"kind":"Attestation","n":1}')
    assert "another document" in run("sign", document, "--key", acme[0]).stderr
    assert tree(tmp_path) == before | {"a.json": document.read_bytes()}


def test_publish_adds_to_a_local_registry(tmp_path, folder):
    result = run("publish", folder, "--registry", tmp_path / "new")
    assert result.exit_code == 0
    assert "inferaligner/tiny@1.0.0" in run("list", "--registry", tmp_path / "new").output


def test_a_dry_run_writes_nothing(tmp_path, folder):
    result = run("publish", folder, "--registry", tmp_path / "new", "--dry-run", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["published"] is False
    assert not (tmp_path / "new").exists()


def test_publish_refuses_an_artifact_without_side_effects(tmp_path):
    folder = write_folder(tmp_path / "artifact", sample_files())
    result = run("publish", folder, "--registry", tmp_path / "new")
    assert result.exit_code == 1
    assert "PublishRefusedError" in result.stderr
    assert not (tmp_path / "new").exists()


def trusting(tmp_path, registry, key, **more):
    """A trust policy for a registry that has a fresh, signed list of revocations."""
    if not (registry.root / REVOCATIONS).exists():
        begin = ("--renew", "--new-registry", "--key", tmp_path / "acme.pem")
        assert run("revoke", "--registry", registry.root, *begin).exit_code == 0
    return trust_file(tmp_path, key, registry.name, **more)


def test_verify_under_trust_accepts_what_the_publisher_signed(tmp_path, registry, acme):
    trust = trusting(tmp_path, signed(registry, acme[0]), acme[1])
    result = run("verify", registry.root, "--trust", trust)
    assert result.exit_code == 0
    assert f"signed by {acme[1].public.id}; vetting level none" in result.stdout


def test_verify_under_trust_refuses_what_nobody_signed(tmp_path, registry, acme):
    trust = trusting(tmp_path, registry, acme[1])
    assert run("verify", registry.root).exit_code == 0
    result = run("verify", registry.root, "--trust", trust, "--json")
    assert result.exit_code == 1
    assert {one["code"] for one in json.loads(result.stdout)} == {"SignatureError"}


def test_verify_under_trust_refuses_what_is_not_vetted(tmp_path, registry, acme):
    trust = trusting(tmp_path, signed(registry, acme[0]), acme[1], require="{signatures: 1, vetting_level: 2}")
    result = run("verify", registry.root, "--trust", trust)
    assert result.exit_code == 1
    assert "VettingError" in result.output


def test_verify_under_trust_refuses_what_is_revoked(tmp_path, registry, acme):
    trust = trusting(tmp_path, signed(registry, acme[0]), acme[1])
    arguments = ("--registry", registry.root, "--artifact", "inferaligner/tiny@<1.1.0", "--key", acme[0])
    assert run("revoke", *arguments, "--note", "measured again").exit_code == 0
    result = run("verify", registry.root, "--trust", trust)
    assert result.exit_code == 1
    assert "refused  inferaligner/tiny@1.0.0" in result.output
    assert "ok       inferaligner/tiny@1.1.0" in result.output
    assert "measured again" in result.output


def test_verify_of_one_folder_judges_it_as_part_of_its_place(tmp_path, folder, acme):
    run("sign", folder, "--key", acme[0], "--publisher", "acme")
    trust = trust_file(tmp_path, acme[1], f"file://{tmp_path}/*")
    assert run("verify", folder, "--trust", trust).exit_code == 0
    assert run("verify", folder, "--trust", trust_file(tmp_path, acme[1], "file:///elsewhere/*")).exit_code == 1


def test_a_missing_list_of_revocations_is_stale(tmp_path, registry, acme):
    trust = trust_file(tmp_path, acme[1], registry.name)
    result = run("verify", registry.root, "--trust", trust)
    assert result.exit_code == 1
    assert "StaleError" in result.stderr


def test_show_under_trust_says_who_vouches(tmp_path, registry, acme):
    trust = trusting(tmp_path, signed(registry, acme[0]), acme[1])
    run("revoke", "--registry", registry.root, "--digest", registry.entries()[0].digest, "--key", acme[0])
    result = run("show", "inferaligner", "--registry", registry.root, "--trust", trust, "--json")
    newer, older = json.loads(result.stdout)
    assert newer["standing"]["trusted"].startswith(f"yes: signed by {acme[1].public.id} for publisher acme")
    assert newer["standing"]["revoked"].startswith("no, by list 2")
    assert older["standing"]["trusted"].startswith("refused: RevokedError")
    assert older["standing"]["revoked"].startswith("YES, refuse: unsafe")
    text = run("show", "inferaligner", "--registry", registry.root, "--trust", trust).output
    assert "signed, as said" in text


def test_every_revocation_makes_a_list_with_a_higher_number(registry, acme):
    base = ("revoke", "--registry", registry.root, "--key", acme[0])
    digest = registry.entries()[0].digest
    run(*base, "--digest", digest, "--reason", "wrong_base", "--action", "warn", "--new-registry")
    run(*base, "--key-id", "ed25519-0123456789abcdef", "--reason", "leaked_key")
    result = run(*base, "--digest", digest, "--reason", "wrong_base", "--action", "warn", "--json")
    found = json.loads(result.stdout)
    assert found["sequence"] == 3
    assert [one["digest"] for one in found["artifacts"]] == [digest]
    assert [one["key_id"] for one in found["keys"]] == ["ed25519-0123456789abcdef"]
    content = (registry.root / REVOCATIONS).read_bytes()
    document, _ = verified_revocations(content, [acme[1].public], registry=registry.name, where="list")
    assert document.sequence == 3


def test_a_list_is_begun_only_where_that_is_said(registry, acme):
    """A list that somebody removed would be begun again without its revocations."""
    base = ("revoke", "--registry", registry.root, "--key", acme[0])
    for words in (("--renew",), ("--artifact", "inferaligner")):
        result = run(*base, *words)
        assert result.exit_code == 1
        assert "ArtifactNotFoundError" in result.stderr
        assert "--new-registry" in result.stderr
        assert not (registry.root / REVOCATIONS).exists()
    assert run(*base, "--renew", "--new-registry").exit_code == 0
    before = tree(registry.root)
    result = run(*base, "--artifact", "inferaligner", "--new-registry")
    assert result.exit_code == 1
    assert "PublishConflictError" in result.stderr
    assert tree(registry.root) == before
    assert run(*base, "--artifact", "inferaligner").exit_code == 0


def test_a_store_without_memory_needs_the_known_sequence(tmp_path, registry, acme, monkeypatch):
    renew = ("revoke", "--registry", registry.root, "--renew", "--key", acme[0])
    assert run(*renew, "--new-registry").exit_code == 0
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "fresh"))
    assert "--at-least LIST" in run(*renew).stderr
    assert "cannot be read" in run(*renew, "--at-least", "1,1").stderr
    assert "older list" in run(*renew, "--at-least", "2").stderr
    assert "list 2 of" in run(*renew, "--at-least", "1").stdout
    assert "list 3 of" in run(*renew).stdout


@pytest.mark.parametrize("option", [["--new-registry"], ["--at-least", "1,1"]])
def test_a_folder_has_no_index_to_begin_or_to_know(tmp_path, folder, option):
    result = run("publish", folder, "--registry", tmp_path / "new", *option)
    assert result.exit_code == 1
    assert "no signed index" in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_list_that_a_stranger_signed_is_not_continued(registry, acme):
    put_list(registry.root, revocations(registry.name, sequence=4), SigningKey.generate())
    before = tree(registry.root)
    result = run("revoke", "--registry", registry.root, "--renew", "--key", acme[0])
    assert result.exit_code == 1
    assert "SignatureError" in result.stderr
    assert tree(registry.root) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--renew", "--digest", "sha256:" + "0" * 64],
        ["--digest", "sha256:0"],
        ["--artifact", "hf://acme/inferaligner"],
        ["--artifact", "A B"],
        ["--key-id", "mine"],
        ["--digest", "sha256:" + "0" * 64, "--reason", "dislike"],
        ["--digest", "sha256:" + "0" * 64, "--action", "delete"],
    ],
)
def test_a_wrong_revocation_changes_nothing(registry, acme, arguments):
    before = tree(registry.root)
    result = run("revoke", "--registry", registry.root, "--key", acme[0], "--new-registry", *arguments)
    assert result.exit_code == 1
    assert "Error: " in result.stderr
    assert "Traceback" not in result.output
    assert tree(registry.root) == before


def test_pull_copies_the_highest_version_with_its_attestations(tmp_path, registry, acme):
    signed(registry, acme[0])
    result = run("pull", "inferaligner", "--registry", registry.root, "--to", tmp_path / "air")
    assert result.exit_code == 0
    copy = tmp_path / "air" / "inferaligner" / "tiny" / "1.1.0"
    assert tree(copy) == tree(registry.root / "inferaligner" / "tiny" / "1.1.0")
    assert "1.0.0" not in run("list", "--registry", tmp_path / "air").output


def test_pulling_again_brings_new_attestations(tmp_path, registry, acme):
    run("pull", "inferaligner", "--registry", registry.root, "--to", tmp_path / "air")
    signed(registry, acme[0])
    run("pull", "inferaligner", "--registry", registry.root, "--to", tmp_path / "air")
    assert release_path(acme[1].public.id) in read_folder(tmp_path / "air" / "inferaligner" / "tiny" / "1.1.0")


def test_a_damaged_artifact_is_not_pulled(tmp_path, registry):
    (registry.root / "inferaligner" / "tiny" / "1.1.0" / "README.md").write_text("other")
    result = run("pull", "inferaligner", "--registry", registry.root, "--to", tmp_path / "air")
    assert result.exit_code == 1
    assert "ArtifactIntegrityError" in result.stderr
    assert "inferaligner" not in run("list", "--registry", tmp_path / "air").output


def test_what_the_trust_policy_refuses_is_not_pulled(tmp_path, registry, acme):
    trust = trusting(tmp_path, registry, acme[1])
    result = run("pull", "inferaligner", "--registry", registry.root, "--to", tmp_path / "air", "--trust", trust)
    assert result.exit_code == 1
    assert "SignatureError" in result.stderr
    assert "inferaligner" not in run("list", "--registry", tmp_path / "air").output


def test_diff_of_references_and_folders_says_the_same(registry):
    versions = [registry.root / "inferaligner" / "tiny" / version for version in ("1.0.0", "1.1.0")]
    by_reference = run("diff", "inferaligner@1.0.0", "inferaligner/tiny@1.1.0", "--registry", registry.root)
    assert by_reference.exit_code == 0
    assert by_reference.output == run("diff", *versions).output
    assert "artifact: version: 1.0.0 → 1.1.0." in by_reference.output


def test_diff_as_json_names_both_sides(registry):
    result = run("diff", "inferaligner@1.0.0", "inferaligner", "--registry", registry.root, "--json")
    found = json.loads(result.stdout)
    assert found["a"]["digest"] == digest_of(sample_files(version="1.0.0"))
    assert found["b"]["reference"] == "inferaligner/tiny@1.1.0"
    assert {"about": "artifact", "text": "version: 1.0.0 → 1.1.0."} in found["differences"]


def test_diff_of_an_ambiguous_reference_names_the_variants(tmp_path, registry):
    registry.add(write_folder(tmp_path / "other", sample_files(variant="other")))
    result = run("diff", "inferaligner", "inferaligner/tiny", "--registry", registry.root)
    assert result.exit_code == 1
    assert "inferaligner/other, inferaligner/tiny" in result.stderr


def test_a_hub_registry_needs_a_trust_policy():
    result = run("list", "--registry", "hf://acme")
    assert result.exit_code == 1
    assert "SignatureError" in result.stderr
    assert "--trust" in result.stderr
