"""Trust policies as text: what is read, and what is refused with its place."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from tests.signed_artifacts import ACME, HUB, LAB, NOW, OWNER, lab, trust_text

from steerguard.errors import TrustPolicyError
from steerguard.policy.failure import Loosening
from steerguard.trust.load import load_trust, parse_trust

FULL = f"""
apiVersion: steerguard/v1alpha1
kind: TrustPolicy
embedded: judge
unsigned_local: {{action: allow, reason: built here for tests, expires: 2026-12-31}}
publishers:
  - id: acme
    registries: ["hf://acme", "file:///srv/*"]
    artifacts: ["inferaligner", "harmful-*/tiny"]
    keys: [{{key: "{ACME.public.text}", until: 2027-06-30}}]
    require: {{signatures: 1, vetting_level: 2, other_vetter: true}}
vetters:
  - {{id: lab, keys: [{{key: "{LAB.public.text}"}}], max_level: 3}}
registries:
  - {{registry: "hf://acme", keys: [{{key: "{OWNER.public.text}"}}]}}
revocation: {{max_age: 12h, on_stale: refuse, check_every: 30s}}
revoked_keys: ["ed25519-0123456789abcdef"]
"""


def parsed(text):
    return parse_trust(text, file="trust.yaml", today=NOW.date())


def refused(text):
    with pytest.raises(TrustPolicyError) as caught:
        parsed(text)
    return str(caught.value)


def test_every_field_is_read():
    policy = parsed(FULL)
    assert policy.embedded == "judge"
    assert isinstance(policy.unsigned_local, Loosening)
    assert policy.publishers[0].keys[0].until == date(2027, 6, 30)
    assert policy.publishers[0].require.vetting_level == 2
    assert policy.revocation.max_age_span == timedelta(hours=12)
    assert policy.revocation.check_every_span == timedelta(seconds=30)
    assert policy.keys_of_registry(HUB, NOW) == (OWNER.public,)
    assert policy.keys_of_registry("hf://other", NOW) == ()
    assert policy.revoked_keys == ("ed25519-0123456789abcdef",)


def test_what_is_left_out_is_strict():
    policy = parsed("apiVersion: steerguard/v1alpha1\nkind: TrustPolicy\n")
    assert policy.embedded == "accept"
    assert policy.unsigned_local == "refuse"
    assert policy.publishers == ()
    assert policy.revocation.on_stale == "refuse"
    assert policy.revocation.max_age_span == timedelta(days=7)
    assert policy.revocation.check_every_span == timedelta(minutes=10)


def test_a_publisher_needs_another_vetter_unless_it_says_otherwise():
    assert parsed(trust_text(require="{vetting_level: 1}")).publishers[0].require.other_vetter


def test_a_revoked_key_does_not_sign_for_a_registry():
    text = trust_text(signed=[HUB], extra=f'revoked_keys: ["{OWNER.public.id}"]')
    assert parsed(text).keys_of_registry(HUB, NOW) == ()


@pytest.mark.parametrize(
    ("old", "new", "place", "said"),
    [
        ("embedded: judge", "embedded: always", "trust.yaml:4:1, field embedded", "accept"),
        ("embedded: judge", "embeded: judge", "trust.yaml:4:1, field embeded", "no field"),
        ("embedded: judge", "embedded:", "trust.yaml:4:1, field embedded", "no value"),
        (", until: 2027-06-30", ", until: ", "field publishers.0.keys.0.until", "no value"),
        ("until: 2027-06-30", "until: tomorrow", "field publishers.0.keys.0.until", "date"),
        ("signatures: 1,", "signatures: 0,", "field publishers.0.require.signatures", "greater than or equal to 1"),
        ("signatures: 1,", "signatures: 2,", "field publishers.0.require.signatures", "there are keys for 1"),
        ("signatures: 1,", "signatures: yes,", "field publishers.0.require.signatures", "integer"),
        ("vetting_level: 2", "vetting_level: 4", "field publishers.0.require.vetting_level", "less than or equal to 3"),
        ("max_level: 3", "max_level: 1", "field publishers.0.require.vetting_level", "No vetter can vouch"),
        ("max_age: 12h", "max_age: 12", "field revocation.max_age", "whole number with its unit"),
        ("max_age: 12h", "max_age: 0h", "field revocation.max_age", "whole number with its unit"),
        ("max_age: 12h", 'max_age: "12"', "field revocation.max_age", "whole number with its unit"),
        ("check_every: 30s", "check_every: 30 seconds", "field revocation.check_every", "whole number with its unit"),
        ("expires: 2026-12-31", "expires: 2026-11-21", "field unsigned_local.expires", "expired"),
        ("reason: built here for tests, ", "", "field unsigned_local.reason", "missing"),
        ("reason: built here for tests", "reason: no", "field unsigned_local.reason", "10 characters"),
        ('{registry: "hf://acme"', '{registry: "hf://*"', "field registries.0.registry", "not of the right form"),
        ('{registry: "hf://acme"', '{registry: "file:///srv/*"', "field registries.0.registry", "exact name"),
        ('{registry: "hf://acme"', '{registry: "hf://other"', "field publishers.0.registries.0", "cannot be verified"),
        ("ed25519-0123456789abcdef", "ed25519-0123", "field revoked_keys.0", "not of the right form"),
        ("id: acme", "id: ../x", "field publishers.0.id", "not of the right form"),
        ('"inferaligner",', '"a/b/c",', "field publishers.0.artifacts.0", "not of the right form"),
        ("kind: TrustPolicy", "kind: Policy", "field kind", "TrustPolicy"),
        ("apiVersion: steerguard/v1alpha1", "apiVersion: steerguard/v9", "field apiVersion", "v1alpha1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(old, new, place, said):
    assert FULL.count(old) == 1
    message = refused(FULL.replace(old, new))
    assert place in message
    assert said in message


@pytest.mark.parametrize(
    "raw", [b"\0" * 32, b"\1" + b"\0" * 31, b"\xff" * 32], ids=["zero", "order one", "not canonical"]
)
def test_a_key_that_anybody_could_sign_for_is_refused(raw):
    import base64

    text = FULL.replace(ACME.public.text, f"ed25519:{base64.b64encode(raw).decode()}")
    assert "field publishers.0.keys.0.key" in refused(text)


def test_a_key_of_another_kind_is_refused():
    assert "field publishers.0.keys.0.key" in refused(FULL.replace(ACME.public.text, "ssh-ed25519 AAAA"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FULL + "embedded: accept\n", "stands twice"),
        (FULL + "vetters: &anchor []\n", "anchor"),
        ("a: [", "trust.yaml:1"),
        ("[]", "mapping of fields"),
        ("", "empty"),
    ],
)
def test_text_that_is_not_the_strict_subset_is_refused(text, said):
    assert said in refused(text)


def test_a_party_named_twice_is_refused():
    assert "`lab` stands twice" in refused(trust_text(vetter=f"{lab()}\n  - {lab(ACME)}"))


def test_several_problems_are_told_at_once():
    message = refused(FULL.replace("embedded: judge", "embedded: x").replace("30s", "30"))
    assert "2 problems" in message
    assert "field embedded" in message
    assert "field revocation.check_every" in message


def test_a_vetter_with_a_publisher_s_key_cannot_satisfy_other_vetter():
    message = refused(trust_text(require="{vetting_level: 1}", vetter=lab(ACME)))
    assert "No vetter can vouch" in message
    parsed(trust_text(require="{vetting_level: 1, other_vetter: false}", vetter=lab(ACME)))
    assert "No vetter can vouch" in refused(
        trust_text(require="{vetting_level: 3, other_vetter: false}", vetter=lab(ACME))
    )


def test_a_file_is_read(tmp_path):
    (tmp_path / "trust.yaml").write_text(FULL)
    policy = load_trust(tmp_path / "trust.yaml", today=NOW.date())
    assert policy == parsed(FULL) == load_trust(str(tmp_path / "trust.yaml"), today=NOW.date())
    assert load_trust(policy, today=NOW.date()) is policy
    with pytest.raises(TrustPolicyError, match="expired"):
        load_trust(policy, today=date(2027, 1, 1))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(TrustPolicyError, match="cannot be read"):
        load_trust(tmp_path / "absent.yaml")
    with pytest.raises(TrustPolicyError, match="cannot be read"):
        load_trust(tmp_path)
    (tmp_path / "trust.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(TrustPolicyError, match="UTF-8"):
        load_trust(tmp_path / "trust.yaml")
