"""Attacks on signatures: stripped, by the wrong key, moved from somewhere else, too old, and publishers vetting themselves.

Releases and vetting records lie outside the digest, so an attacker may add, change and remove them at will.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.attacked_artifacts import (
    NEW,
    OLD,
    ORGANISATION,
    present,
    trusts,
    vouched,
    write,
)
from tests.attacked_registry import lock_of
from tests.loopback_hubs import REGULAR_UPLOAD
from tests.signed_artifacts import (
    ACME,
    ACME_NEXT,
    HUB,
    LAB,
    OWNER,
    STRANGER,
    lab,
    release,
    revoked_key,
    signed_list,
    trust_text,
    vetting,
)

from steerguard.artifacts.manifest import manifest_digest, parse_manifest
from steerguard.artifacts.paths import MANIFEST
from steerguard.artifacts.release import release_path, release_statement
from steerguard.artifacts.times import time_text
from steerguard.errors import (
    PublishRefusedError,
    RevokedError,
    SignatureError,
    StaleError,
    TrustPolicyError,
    VettingError,
)
from steerguard.hub.revoke import revoke
from steerguard.registry.revocations import REVOCATIONS, REVOCATIONS_TYPE
from steerguard.registry.signed_index import SIGNED_INDEX, SIGNED_INDEX_TYPE
from steerguard.signing.dsse import Envelope, Signature, envelope_bytes, parse_envelope, sign
from steerguard.signing.statement import STATEMENT
from steerguard.trust.load import parse_trust

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)

BOTH = f'{{id: acme-lab, keys: [{{key: "{ACME.public.text}"}}], max_level: 3}}'
"""The publisher, listed as a vetter."""


def subject(scene, version=NEW):
    """Manifest and digest of a published version."""
    content = scene.published[version][MANIFEST]
    return parse_manifest(content), manifest_digest(content)


def attested(scene, files):
    """Put these attestations, and no others, beside the artifact in the reader's store."""
    folder = scene.placed / "attestations"
    for file in folder.iterdir():
        file.unlink()
    write(scene.placed, files)


def releases(scene, *signers):
    return release(*subject(scene), *(signers or (ACME,)))


def records(scene, signer=LAB, **named):
    named = {"vetted": present() - timedelta(days=1), **named}
    return vetting(*subject(scene), signer, **named)


def test_stripped_signature(scene):
    attested(scene, records(scene))
    scene.refuses(SignatureError, scene.load, ACME.public.id, wrap=True)
    attested(scene, {})
    scene.refuses(SignatureError, scene.load, "no attestation at all", wrap=True)
    scene.works()


@pytest.mark.parametrize("kind", ["release", "vetting"])
def test_stripped_signature_on_the_hub(scene, kind):
    """While the artifact is pulled; when the hub is honest again one sync is enough."""
    path = next(path for path in scene.published[NEW] if f"{kind}." in path)
    scene.forget_artifact()
    scene.serve({}, delete=[path])
    scene.sync()
    scene.refuses(SignatureError if kind == "release" else VettingError, scene.load, wrap=True)
    scene.serve({path: scene.published[NEW][path]})
    scene.works()


@pytest.mark.parametrize("kind", ["release", "vetting"])
def test_spoiled_signature_on_the_hub(scene, kind):
    """The hub shows an envelope that nobody signed, and a tree that goes with it."""
    path = next(path for path in scene.published[NEW] if f"{kind}." in path)
    honest = scene.published[NEW][path]
    parsed = parse_envelope(honest, where=path)
    forged = Envelope(parsed.payload, parsed.payload_type, (Signature(parsed.signatures[0].keyid, bytes(64)),))
    scene.forget_artifact()
    scene.serve({path: envelope_bytes(forged)})
    scene.sync()
    scene.refuses(SignatureError if kind == "release" else VettingError, scene.load, wrap=True)
    scene.serve({path: honest})
    scene.works()


def test_wrong_key(scene):
    """A stranger's signature, under the stranger's name and under the publisher's."""
    attested(scene, {**releases(scene, STRANGER), **records(scene)})
    scene.refuses(SignatureError, scene.load, STRANGER.public.id, wrap=True)
    content = next(iter(releases(scene, STRANGER).values())).replace(
        STRANGER.public.id.encode(), ACME.public.id.encode()
    )
    attested(scene, {release_path(ACME.public.id): content, **records(scene)})
    scene.refuses(SignatureError, scene.load, ACME.public.id, wrap=True)
    scene.works()


def test_wrong_key_of_the_same_trust_policy(scene):
    """The registry's key and the vetter's are trusted, but not to publish."""
    attested(scene, {**releases(scene, OWNER), **releases(scene, LAB), **records(scene)})
    scene.refuses(SignatureError, scene.load, ACME.public.id, wrap=True)
    scene.works()


def test_wrong_key_of_the_registry(scene):
    """The publisher's key may sign releases, and neither index nor revocations."""
    index = scene.registry().state().index
    honest = {name: scene.index_file(name) for name in (SIGNED_INDEX, REVOCATIONS)}
    scene.sign_index(index.artifacts, index.sequence + 1, signer=ACME)
    scene.refuses(SignatureError, scene.sync, OWNER.public.id)
    scene.plant_index(SIGNED_INDEX, honest[SIGNED_INDEX])
    listed = scene.registry().state().revocations.model_copy(update={"sequence": 9})
    scene.plant_index(REVOCATIONS, signed_list(listed, ACME))
    scene.refuses(SignatureError, scene.sync, OWNER.public.id)
    scene.plant_index(REVOCATIONS, honest[REVOCATIONS])
    scene.works()


def test_signature_of_another_artifact_transplanted(scene):
    """The publisher did sign it: for the old version."""
    other = {path: content for path, content in scene.published[OLD].items() if path.startswith("attestations/")}
    attested(scene, other)
    scene.refuses(SignatureError, scene.load, "other bytes", wrap=True)
    mixed = {path: content for path, content in other.items() if "vetting." in path}
    attested(scene, {**releases(scene), **mixed})
    scene.refuses(VettingError, scene.load, "other bytes", wrap=True)
    scene.works()


def test_signature_of_another_envelope_transplanted(scene):
    """The signature bytes of one statement on the payload of another."""
    path, content = next(iter(releases(scene).items()))
    mine = parse_envelope(content, where=path)
    theirs = parse_envelope(next(iter(release(*subject(scene, OLD), ACME).values())), where=path)
    grafted = envelope_bytes(Envelope(mine.payload, mine.payload_type, theirs.signatures))
    attested(scene, {path: grafted, **records(scene)})
    scene.refuses(SignatureError, scene.load, ACME.public.id, wrap=True)
    scene.works()


@pytest.mark.parametrize("payload_type", [REVOCATIONS_TYPE, SIGNED_INDEX_TYPE, "application/json", STATEMENT + " "])
def test_payload_type_confusion(scene, payload_type):
    """The publisher's key signed these very bytes, as another kind of document."""
    manifest, digest = subject(scene)
    statement = release_statement(manifest, digest, "acme", time_text(present()))
    path = release_path(ACME.public.id)
    confused = sign(statement, payload_type, [ACME])
    attested(scene, {path: confused, **records(scene)})
    scene.refuses(SignatureError, scene.load, "payload", wrap=True)
    # The envelope says a statement, and the signature is still over the other kind.
    parsed = parse_envelope(confused, where=path)
    renamed = envelope_bytes(Envelope(parsed.payload, STATEMENT, parsed.signatures))
    attested(scene, {path: renamed, **records(scene)})
    scene.refuses(SignatureError, scene.load, ACME.public.id, wrap=True)
    scene.works()


def test_payload_type_confusion_of_statements(scene):
    """A vetting record in the place of a release, and a release in the place of a vetting record."""
    (released_at, released), (vetted_at, vetted) = (
        next(iter(releases(scene, ACME).items())),
        next(iter(records(scene, ACME).items())),
    )
    attested(scene, {released_at: vetted, **records(scene)})
    scene.refuses(SignatureError, scene.load, ACME.public.id, wrap=True)
    attested(scene, {**releases(scene), vetted_at: released})
    scene.refuses(VettingError, scene.load, wrap=True)
    scene.works()


def test_payload_type_confusion_in_the_registry(scene):
    """The list of revocations in the place of the index, and the other way round: both are signed by the owner."""
    index, listed = scene.index_file(SIGNED_INDEX), scene.index_file(REVOCATIONS)
    with scene.index_hidden_behind({SIGNED_INDEX: listed}):
        scene.refuses(SignatureError, scene.sync, "another kind of document")
        scene.wrap()
    with scene.index_hidden_behind({REVOCATIONS: index}):
        scene.refuses(SignatureError, scene.sync, "another kind of document")
        scene.wrap()
    scene.works()


def test_document_of_another_registry_transplanted(scene):
    """The same owner signs for two registries; each list is for its own."""
    listed = scene.registry().state().revocations.model_copy(update={"registry": "hf://other", "sequence": 9})
    with scene.index_hidden_behind({REVOCATIONS: signed_list(listed, OWNER)}):
        scene.refuses(SignatureError, scene.sync, "hf://other", HUB)
    scene.works()


def test_key_past_its_last_day(scene):
    text = trust_text(registries=[HUB], signed=[HUB])
    key = f'{{key: "{ACME.public.text}"}}'
    late = parse_trust(text.replace(key, key[:-1] + ", until: 2026-01-01}"), file="trust.yaml", today=present().date())
    scene.refuses(SignatureError, lambda: scene.load(trust=late), "past their last day", ACME.public.id)
    scene.wrap_refuses(SignatureError, ACME.public.id, trust=late)
    scene.works()


def test_registry_key_past_its_last_day(scene):
    text = trust_text(registries=[HUB], signed=[HUB])
    key = f'{{key: "{OWNER.public.text}"}}'
    late = parse_trust(text.replace(key, key[:-1] + ", until: 2026-01-01}"), file="trust.yaml", today=present().date())
    scene.wrap_refuses((SignatureError, StaleError), HUB, trust=late)
    scene.works()


def test_key_revoked_by_the_reader(scene):
    wary = trusts(extra=f"revoked_keys: [{ACME.public.id}]")
    scene.refuses(RevokedError, lambda: scene.load(trust=wary), ACME.public.id)
    scene.wrap_refuses(RevokedError, ACME.public.id, trust=wary)
    scene.works()


def test_key_revoked_by_the_registry(scene):
    """What the stolen key signed is refused; the publisher signs the same version with the next key, and it loads."""
    revoke(scene.owner, ORGANISATION, keys=[revoked_key(ACME)], signer=OWNER, pulled=scene.desk)
    scene.sync()
    scene.refuses(RevokedError, scene.load, ACME.public.id, wrap=True)
    folder = write(scene.folder / "again", {**scene.published[NEW], **releases(scene, ACME_NEXT)})
    scene.publish(folder)
    scene.trust = trusts(keys=[ACME, ACME_NEXT])
    scene.lock = lock_of(scene.policy, scene.registry(), scene.trust)
    assert scene.lock.artifacts[0].signed_by == (ACME_NEXT.public.id,)
    scene.works()


def test_one_key_counted_twice(scene):
    """Two signatures are needed, and one key gives two."""
    path, content = next(iter(releases(scene).items()))
    twice = parse_envelope(content, where=path)
    doubled = envelope_bytes(Envelope(twice.payload, twice.payload_type, twice.signatures * 2))
    strict = trusts(keys=[ACME, ACME_NEXT], require="{signatures: 2}")
    attested(scene, {path: doubled, release_path(ACME_NEXT.public.id): content, **records(scene)})
    scene.refuses(SignatureError, lambda: scene.load(trust=strict), "2 of the keys")
    scene.wrap_refuses(SignatureError, trust=strict)
    scene.works()


def test_publisher_vetting_itself(scene):
    """Under the vetter's entry that names the publisher's own key."""
    attested(scene, {**releases(scene), **records(scene, ACME)})
    trust = trusts(vetter=f"{lab()}\n  - {BOTH}")
    scene.refuses(VettingError, lambda: scene.load(trust=trust), "vetted itself")
    scene.wrap_refuses(VettingError, "vetted itself", trust=trust)
    with pytest.raises(TrustPolicyError):
        trusts(vetter=BOTH)
    scene.works()


def test_level_3_by_the_publishers_own_key(scene):
    """Where the reader lets publishers vet themselves, their own records still end at level 2."""
    attested(scene, {**releases(scene), **records(scene, ACME, level=3)})
    own = f"{lab()}\n  - {BOTH}"
    lax = trusts(vetter=own, require="{signatures: 1, vetting_level: 3, other_vetter: false}")
    scene.refuses(VettingError, lambda: scene.load(trust=lax), "level 2 by `acme-lab`")
    scene.wrap_refuses(VettingError, "level 3", trust=lax)
    two = trusts(vetter=own, require="{signatures: 1, vetting_level: 2, other_vetter: false}")
    scene.wrap(trust=two)
    scene.works()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"verdict": "fail"}, "verdict is fail"),
        ({"vetted": timedelta(days=-100)}, "expired"),
        ({"vetted": timedelta(days=2)}, "in the future"),
        ({"level": 1}, "level 1 by `lab`"),
        ({"signer": STRANGER}, STRANGER.public.id),
    ],
    ids=["failed", "expired", "from the future", "level too low", "by a stranger"],
)
def test_vetting_that_does_not_count(scene, changes, says):
    given = dict(changes)
    if "vetted" in given:
        given["vetted"] = present() + given["vetted"]
    attested(scene, {**releases(scene), **records(scene, **given)})
    scene.refuses(VettingError, scene.load, says, wrap=True)
    scene.works()


def test_vetting_level_capped_by_the_reader(scene):
    capped = trusts(vetter=f'{lab(max_level=1)}\n  - {{id: more, keys: [{{key: "{STRANGER.public.text}"}}]}}')
    scene.refuses(VettingError, lambda: scene.load(trust=capped), "level 1 by `lab`")
    scene.wrap_refuses(VettingError, trust=capped)
    scene.works()


def test_publisher_of_something_else(scene):
    """The key is trusted for another family."""
    text = trust_text(registries=[HUB], signed=[HUB]).replace("    keys: [", '    artifacts: ["other"]\n    keys: [', 1)
    other = parse_trust(text, file="trust.yaml", today=present().date())
    scene.refuses(SignatureError, lambda: scene.load(trust=other), "no publisher")
    scene.wrap_refuses(SignatureError, trust=other)
    scene.works()


def test_unsigned_artifact_published(scene):
    """Somebody with write access to the Hub, and without the publisher's key."""
    unsigned = {path: content for path, content in scene.published[NEW].items() if "release." not in path}
    folder = write(scene.folder / "unsigned", unsigned)
    scene.refuses(PublishRefusedError, lambda: scene.publish(folder), "no valid release signature")
    folder = write(scene.folder / "strange", vouched(unsigned, signers=(STRANGER,)))
    scene.refuses(PublishRefusedError, lambda: scene.publish(folder), STRANGER.public.id[:8])
    scene.works()
