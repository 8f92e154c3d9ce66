"""Who vouches for an artifact, and who does not: every way to be refused has its own error."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.signed_artifacts import (
    ACME,
    ACME_NEXT,
    HUB,
    LAB,
    NOW,
    REGISTRY,
    STRANGER,
    lab,
    release,
    revocations,
    revoked,
    revoked_key,
    sample_entry,
    trust,
    vetting,
)

from steerguard.canonical import sha256_hex
from steerguard.errors import RevokedError, SignatureError, TrustPolicyError, VettingError
from steerguard.registry.store import Allowance, Evidence
from steerguard.signing.dsse import sign
from steerguard.trust.judge import TrustedJudge

ENTRY, MANIFEST = sample_entry()
OTHER, OTHER_MANIFEST = sample_entry(version="2.0.0")
SIGNED = release(MANIFEST, ENTRY.digest, ACME)
VETTED = {**SIGNED, **vetting(MANIFEST, ENTRY.digest, LAB)}
LEVEL_2 = "{vetting_level: 2}"


def admitted(policy, attestations, *, entry=ENTRY, registry=REGISTRY, lists=None, now=NOW):
    judge = TrustedJudge(policy, lists or {}, now=lambda: now)
    return judge.admit(entry, registry=registry, attestations=attestations)


def test_where_somebody_vouches_no_allowance_is_used():
    policy = trust(extra=UNSIGNED)
    assert admitted(policy, SIGNED).allowance is None
    assert admitted(policy, {}, registry="embedded").allowance is None


def test_a_signature_of_the_publisher_is_enough_where_no_more_is_asked_for():
    assert admitted(trust(), SIGNED) == Evidence(signed_by=(ACME.public.id,), publisher="acme")


def test_a_vetting_record_is_reported_and_named_by_digest():
    ((path, content),) = vetting(MANIFEST, ENTRY.digest, LAB).items()
    evidence = admitted(trust(require=LEVEL_2), {**SIGNED, path: content})
    assert evidence.vetting_level == 2
    assert evidence.vetting_digest == f"sha256:{sha256_hex(content)}"
    assert admitted(trust(), {**SIGNED, path: content}).vetting_level == 2


def refused(kind, policy, attestations, **options):
    with pytest.raises(kind) as caught:
        admitted(policy, attestations, **options)
    return str(caught.value)


def test_without_any_attestation_it_is_refused():
    assert "no attestation at all" in refused(SignatureError, trust(), {})


def test_a_signature_by_a_key_that_is_not_the_publisher_s_is_refused_and_both_are_named():
    message = refused(SignatureError, trust(), release(MANIFEST, ENTRY.digest, STRANGER))
    assert STRANGER.public.id in message
    assert ACME.public.id in message


def test_a_key_id_is_only_a_hint():
    ((path, _),) = release(MANIFEST, ENTRY.digest, STRANGER).items()
    forged = {path: release(MANIFEST, ENTRY.digest, ACME)[f"attestations/release.{ACME.public.id}.json"]}
    assert admitted(trust(), forged).signed_by == (ACME.public.id,)
    lied = {
        f"attestations/release.{ACME.public.id}.json": release(MANIFEST, ENTRY.digest, STRANGER)[path].replace(
            STRANGER.public.id.encode(), ACME.public.id.encode()
        )
    }
    assert "not signed as" in refused(SignatureError, trust(), lied)


def test_a_signature_of_another_artifact_does_not_count():
    message = refused(SignatureError, trust(), release(OTHER_MANIFEST, OTHER.digest, ACME))
    assert "other bytes" in message


def test_a_signature_over_another_kind_of_document_does_not_count():
    ((path, _),) = SIGNED.items()
    message = refused(SignatureError, trust(), {path: sign(b"{}", "application/other", [ACME])})
    assert "application/other" in message


def test_a_vetting_statement_is_no_release():
    ((_, content),) = vetting(MANIFEST, ENTRY.digest, ACME).items()
    refused(SignatureError, trust(), {f"attestations/release.{ACME.public.id}.json": content})


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b"[" * 10_000, b'{"payload":"","payloadType":"","signatures":[]}']
)
def test_junk_among_the_attestations_counts_for_nothing_and_is_named(content):
    junk = {"attestations/release.junk.json": content, "attestations/vetting.junk.json": content}
    assert "release.junk.json" in refused(SignatureError, trust(), junk)
    evidence = admitted(trust(), {**SIGNED, **junk})
    assert evidence.signed_by == (ACME.public.id,)
    assert any("release.junk.json" in warning for warning in evidence.warnings)
    assert any("vetting.junk.json" in warning for warning in evidence.warnings)


def test_files_of_other_names_are_not_asked():
    ((_, content),) = SIGNED.items()
    refused(SignatureError, trust(), {"attestations/note.json": content})


@pytest.mark.parametrize(
    "registry", ["file:///srv/other", HUB, "hf://acme2", "embedded2", "file:///srv/registry/inner"]
)
def test_a_publisher_counts_only_in_its_registries(registry):
    assert "names no publisher" in refused(SignatureError, trust(), SIGNED, registry=registry)


def test_a_pattern_of_folders_covers_what_lies_below():
    policy = trust(registries=["file:///srv/*"])
    assert admitted(policy, SIGNED, registry="file:///srv/a/b").publisher == "acme"
    refused(SignatureError, policy, SIGNED, registry="file:///other/a")


@pytest.mark.parametrize(
    ("patterns", "covered"),
    [
        ('["*"]', True), ('["inferaligner"]', True), ('["infer*"]', True), ('["inferaligner/tiny"]', True),
        ('["*/tiny"]', True), ('["other", "inferaligner/t???"]', True), ('["tiny"]', False), ('["inferaligner/small"]', False),
        ('["infer"]', False), ('["*/small"]', False), ('["inferaligner/t"]', False),
    ],
)  # fmt: skip
def test_a_publisher_counts_only_for_its_artifacts(patterns, covered):
    policy = trust(require="{signatures: 1}\n    artifacts: " + patterns)
    if covered:
        assert admitted(policy, SIGNED).publisher == "acme"
    else:
        assert "names no publisher" in refused(SignatureError, policy, SIGNED)


def test_two_signatures_are_two_keys():
    policy = trust(keys=[ACME, ACME_NEXT], require="{signatures: 2}")
    both = release(MANIFEST, ENTRY.digest, ACME, ACME_NEXT)
    assert admitted(policy, both).signed_by == tuple(sorted([ACME.public.id, ACME_NEXT.public.id]))
    ((_, content),) = SIGNED.items()
    refused(SignatureError, policy, {**SIGNED, "attestations/release.again.json": content})
    assert ACME.public.id in refused(SignatureError, policy, SIGNED)


def test_a_key_counts_up_to_its_last_day():
    dated = trust().model_dump(mode="json", by_alias=True)
    dated["publishers"][0]["keys"][0]["until"] = "2026-11-22"
    import json

    policy = type(trust()).model_validate_json(json.dumps(dated))
    assert admitted(policy, SIGNED).publisher == "acme"
    assert "past their last day" in refused(SignatureError, policy, SIGNED, now=NOW + timedelta(days=1))


def test_the_next_key_takes_over():
    policy = trust(keys=[ACME, ACME_NEXT], extra=f'revoked_keys: ["{ACME.public.id}"]')
    assert ACME.public.id in refused(RevokedError, policy, SIGNED)
    both = release(MANIFEST, ENTRY.digest, ACME, ACME_NEXT)
    assert admitted(policy, both).signed_by == (ACME_NEXT.public.id,)


def test_a_key_that_a_list_revokes_counts_for_nothing():
    lists = {REGISTRY: revocations(REGISTRY, keys=[revoked_key(ACME)])}
    assert "revoked: " + ACME.public.id in refused(RevokedError, trust(), SIGNED, lists=lists)


def test_a_revoked_key_of_nobody_here_says_nothing():
    lists = {REGISTRY: revocations(REGISTRY, keys=[revoked_key(STRANGER)])}
    assert admitted(trust(), SIGNED, lists=lists).publisher == "acme"
    stranger = release(MANIFEST, ENTRY.digest, STRANGER)
    refused(SignatureError, trust(), stranger, lists=lists)


@pytest.mark.parametrize(
    "named",
    [
        {"digest": ENTRY.digest},
        {"family": "inferaligner"},
        {"family": "inferaligner", "variant": "tiny"},
        {"family": "inferaligner", "range": "^1"},
    ],
)
def test_a_revoked_artifact_is_refused_whoever_signed_it(named):
    lists = {REGISTRY: revocations(REGISTRY, revoked(**named), sequence=7)}
    message = refused(RevokedError, trust(), SIGNED, lists=lists)
    assert "measured again" in message
    assert "list 7" in message
    assert "unsafe" in refused(RevokedError, trust(), {}, lists=lists)


@pytest.mark.parametrize(
    "named",
    [{"digest": OTHER.digest}, {"family": "other"}, {"family": "inferaligner", "range": "^2"}, {"family": "inferaligner", "variant": "small"}],
)  # fmt: skip
def test_what_the_list_does_not_cover_is_admitted(named):
    lists = {REGISTRY: revocations(REGISTRY, revoked(**named))}
    assert admitted(trust(), SIGNED, lists=lists).warnings == ()


def test_a_revocation_that_warns_is_told_and_does_not_refuse():
    lists = {REGISTRY: revocations(REGISTRY, revoked("warn", "superseded", digest=ENTRY.digest))}
    (warning,) = admitted(trust(), SIGNED, lists=lists).warnings
    assert "superseded" in warning
    assert "measured again" in warning


def test_the_same_bytes_are_revoked_in_every_registry():
    lists = {HUB: revocations(HUB, revoked(digest=ENTRY.digest))}
    assert HUB in refused(RevokedError, trust(), SIGNED, lists=lists)


def test_the_embedded_registry_is_trusted_as_the_package_is_but_can_be_revoked():
    assert admitted(trust(), {}, registry="embedded") == Evidence()
    lists = {HUB: revocations(HUB, revoked(digest=ENTRY.digest))}
    refused(RevokedError, trust(), {}, registry="embedded", lists=lists)


def test_the_embedded_registry_is_judged_on_request():
    judged = trust(registries=["embedded"], extra="embedded: judge")
    refused(SignatureError, judged, {}, registry="embedded")
    assert admitted(judged, SIGNED, registry="embedded").publisher == "acme"


UNSIGNED = "unsigned_local: {action: allow, reason: built here for tests, expires: 2026-11-30}"


def test_unsigned_local_artifacts_pass_only_where_that_is_said_and_with_a_warning():
    policy = trust(extra=UNSIGNED)
    evidence = admitted(policy, {})
    assert evidence.signed_by == ()
    assert evidence.publisher is None
    assert evidence.allowance == Allowance(reason="built here for tests", expires="2026-11-30")
    assert "built here for tests" in evidence.warnings[0]
    refused(SignatureError, policy, {}, now=NOW + timedelta(days=30))
    refused(SignatureError, policy, {}, registry=HUB)


def test_a_wrong_signature_is_not_taken_for_none():
    policy = trust(extra=UNSIGNED)
    refused(SignatureError, policy, release(MANIFEST, ENTRY.digest, STRANGER))
    refused(SignatureError, policy, release(OTHER_MANIFEST, OTHER.digest, ACME))
    refused(SignatureError, policy, {"attestations/release.junk.json": b"{}"})


def test_a_revoked_artifact_is_refused_though_unsigned_ones_are_allowed():
    lists = {REGISTRY: revocations(REGISTRY, revoked(digest=ENTRY.digest))}
    refused(RevokedError, trust(extra=UNSIGNED), {}, lists=lists)


def vetted(**parts):
    signer = parts.pop("signer", LAB)
    return {**SIGNED, **vetting(MANIFEST, ENTRY.digest, signer, **parts)}


@pytest.mark.parametrize(
    ("attestations", "said"),
    [
        (SIGNED, "no vetting record"),
        (vetted(level=1), "level 1 by `lab`"),
        (vetted(verdict="fail"), "verdict is fail"),
        (vetted(valid_for=timedelta(hours=1)), "expired"),
        (vetted(vetted=NOW + timedelta(days=1)), "future"),
        (vetted(signer=STRANGER), "no vetter that counts"),
        (vetted(signer=ACME), "no vetter that counts"),
        ({**SIGNED, **vetting(OTHER_MANIFEST, OTHER.digest, LAB)}, "other bytes"),
    ],
)
def test_a_record_that_does_not_count_is_refused_with_the_reason(attestations, said):
    assert said in refused(VettingError, trust(require=LEVEL_2), attestations)


def test_a_record_that_does_not_count_does_not_hide_one_that_does():
    attestations = {
        **vetted(),
        **vetting(MANIFEST, ENTRY.digest, STRANGER),
        **vetting(MANIFEST, ENTRY.digest, ACME, level=3),
    }
    assert admitted(trust(require=LEVEL_2), attestations).vetting_level == 2


def test_a_vetter_vouches_up_to_its_highest_level():
    assert admitted(trust(require=LEVEL_2), vetted(level=3)).vetting_level == 3
    assert admitted(trust(require=LEVEL_2, vetter=lab(max_level=2)), vetted(level=3)).vetting_level == 2
    with pytest.raises(TrustPolicyError):
        trust(require=LEVEL_2, vetter=lab(max_level=1))


def test_a_publisher_vetting_itself_does_not_count_where_another_is_asked_for():
    both = f'{lab()}\n  - {{id: self, keys: [{{key: "{ACME.public.text}"}}]}}'
    message = refused(VettingError, trust(require=LEVEL_2, vetter=both), vetted(signer=ACME))
    assert "vetted itself" in message


def test_a_publisher_vetting_itself_never_reaches_level_3():
    policy = trust(require="{vetting_level: 2, other_vetter: false}", vetter=lab(ACME))
    assert admitted(policy, vetted(signer=ACME, level=3)).vetting_level == 2
    both = f'{lab()}\n  - {{id: self, keys: [{{key: "{ACME.public.text}"}}]}}'
    strict = trust(require="{vetting_level: 3, other_vetter: false}", vetter=both)
    refused(VettingError, strict, vetted(signer=ACME, level=3))
    assert admitted(strict, vetted(level=3)).vetting_level == 3


def test_a_vetter_s_revoked_key_counts_for_nothing():
    lists = {REGISTRY: revocations(REGISTRY, keys=[revoked_key(LAB)])}
    refused(VettingError, trust(require=LEVEL_2), VETTED, lists=lists)
    assert admitted(trust(), VETTED, lists=lists).vetting_level is None


def test_signatures_are_asked_before_vetting():
    refused(SignatureError, trust(require=LEVEL_2), vetting(MANIFEST, ENTRY.digest, LAB))


def test_one_of_several_publishers_is_enough():
    second = f"""
  - id: other
    registries: ["{REGISTRY}"]
    keys: [{{key: "{STRANGER.public.text}"}}]"""
    policy = trust(require="{vetting_level: 3}" + second)
    assert admitted(policy, release(MANIFEST, ENTRY.digest, STRANGER)).publisher == "other"
    refused(VettingError, policy, SIGNED)


@pytest.mark.parametrize(
    "name", ["release.ed25519-ffffffffffffffff.json", "vetting.ed25519-ffffffffffffffff.20261122T000000Z.json"]
)
def test_a_file_larger_than_any_statement_is_not_parsed_and_counts_for_nothing(monkeypatch, name):
    parsed = []
    monkeypatch.setattr("steerguard.signing.dsse.canonical_bytes", lambda data: parsed.append(data) or b"")
    with pytest.raises(SignatureError, match=name.split(".")[0]):
        admitted(trust(), {f"attestations/{name}": b'{"a":"' + b"x" * 1_000_000 + b'"}'})
    assert parsed == []
    monkeypatch.undo()
    found = admitted(trust(), {**SIGNED, f"attestations/{name}": b"x" * 1_000_000})
    assert found.signed_by == (ACME.public.id,)
    assert name in found.warnings[0]
