"""What is recorded where a policy or an artifact is not used: names that are known, digests, classes; never a message."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from tests.guarded_models import memory_log, policy, registry_for, shared_model

from steerguard.errors import (
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    AuditSinkError,
    IncompatibleModelError,
    LockMismatchError,
    PolicyNotFoundError,
    SignatureError,
    VettingError,
)
from steerguard.load_records import (
    Attempt,
    KnownArtifacts,
    code_of,
    is_not_verified,
    known_artifacts,
    not_verified,
    noted,
)
from steerguard.testing import MemorySink

DIGEST, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64
KNOWN = KnownArtifacts(families=frozenset({"probes", "vectors"}), digests={"probes/tiny@1.2.3": DIGEST})


@pytest.mark.parametrize(
    ("where", "summary", "found"),
    [
        ("probes/tiny@1.2.3", "x", "probes/tiny@1.2.3"),
        ("probes/tiny@1.2.3/weights.safetensors: header", "x", "probes/tiny@1.2.3"),
        ("/home/somebody/registry/vectors/big.model-2/10.0.1/manifest.json", "x", "vectors/big.model-2@10.0.1"),
        (None, "Artifact vectors/tiny@1.0.0 is revoked.", "vectors/tiny@1.0.0"),
        ("hf://acme", "Artifact others/tiny@1.0.0 is revoked.", None),
        ("/home/secret@1.0.0/x", "The secret/name@1.0.0 is wrong.", None),
        ("probes/" + "x" * 200 + "@1.0.0", "x", None),
        ("probes/tiny@1.2.3.4", "x", None),
    ],
)
def test_only_known_artifacts_are_named(where, summary, found):
    assert KNOWN.reference_in(SignatureError(summary, where=where)) == found


def test_the_pinned_digest_names_an_artifact_too_and_counts_where_nothing_else_pins_it():
    assert not_verified(ArtifactIntegrityError("x", where="manifest.json", expected=DIGEST), KNOWN).ref == (
        "probes/tiny@1.2.3"
    )
    unknown = not_verified(ArtifactIntegrityError("x", where="manifest.json", expected=OTHER), KNOWN)
    assert (unknown.ref, unknown.digest) == (None, OTHER)
    pinned = not_verified(ArtifactIntegrityError("x", where="probes/tiny@1.2.3/a", expected="f" * 64), KNOWN)
    assert (pinned.ref, pinned.digest) == ("probes/tiny@1.2.3", DIGEST)
    loose = not_verified(ArtifactFormatError("x", where="vectors/tiny@1.0.0", expected="a list"), KNOWN)
    assert (loose.ref, loose.digest, loose.code) == ("vectors/tiny@1.0.0", None, "ArtifactFormatError")


def test_which_errors_say_that_something_was_not_verified():
    for kind in (ArtifactIntegrityError, ArtifactFormatError, SignatureError, VettingError, LockMismatchError):
        assert is_not_verified(kind("x"), KNOWN)
    for kind in (ArtifactNotFoundError, PolicyNotFoundError):
        assert not is_not_verified(kind("x"), KNOWN)
    assert is_not_verified(IncompatibleModelError("x", where="probes/tiny@1.2.3/fingerprint"), KNOWN)
    assert not is_not_verified(IncompatibleModelError("The model was cast."), KNOWN)


def test_the_artifacts_of_a_policy_are_known_by_family_before_anything_pins_them():
    document = policy()
    assert known_artifacts(document).families == {"harmful-intent", "inferaligner"}
    broken = document.detectors[0].model_copy(update={"artifact": "///no reference"})
    assert known_artifacts(document.model_copy(update={"detectors": (broken,)})).families == {"inferaligner"}
    assert known_artifacts() == KnownArtifacts()


def test_foreign_names_are_not_recorded():
    assert code_of(type("Ünfug", (Exception,), {})()) == "Exception"
    assert code_of(type("madeFromAText", (Exception,), {})()) == "Exception"
    assert code_of(type("madeFromAText", (SignatureError,), {})("x")) == "Exception"
    assert code_of(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert code_of(struct.error()) == "error"
    assert code_of(torch.OutOfMemoryError()) == "OutOfMemoryError"
    assert code_of(json.JSONDecodeError("x", "y", 0)) == "JSONDecodeError"

    class _StatedError(Exception):
        pass

    assert code_of(_StatedError()) == "_StatedError"
    assert code_of(SignatureError("x")) == "SignatureError"


def test_a_record_that_fails_leaves_a_note_and_nothing_else():
    error = LookupError("the first")

    def fail():
        raise AuditSinkError("The disk is full: secret.")

    noted(error, fail)
    assert error.__notes__ == ["The audit log could not record this failure: AuditSinkError."]


def test_a_broken_sink_and_foreign_errors_are_no_refusal_of_a_policy():
    sink = MemorySink()
    log = memory_log(sink)
    for error in (AuditSinkError("x"), LookupError("x")):
        with pytest.raises(type(error)), Attempt().recorded_in(log):
            raise error
    assert len(sink.lines) == 1
    log.close()


def test_a_refusal_is_recorded_with_what_is_known_by_then():
    sink, attempt = MemorySink(), Attempt()
    log = memory_log(sink)
    attempt.document, attempt.known = policy(), KNOWN
    with pytest.raises(SignatureError), attempt.recorded_in(log):
        raise SignatureError("Artifact probes/tiny@1.2.3 is not signed, says a secret.", where="hf://acme")
    failed, rejected = [json.loads(line) for line in sink.lines[1:]]
    assert (failed["ref"], failed["digest"], failed["code"]) == ("probes/tiny@1.2.3", DIGEST, "SignatureError")
    assert (rejected["rejected"]["digest"], rejected["scope"]) == (policy().digest, "guard")
    assert b"secret" not in sink.content
    log.close()


def test_the_folder_of_a_local_artifact_names_it():
    store = registry_for(shared_model())
    entry = store.entries()[0]
    folder = store.root / entry.family / entry.variant / entry.version / "manifest.json"
    known = KnownArtifacts(families=frozenset({entry.family}), digests={entry.reference: entry.digest})
    found = not_verified(ArtifactIntegrityError("x", where=folder), known)
    assert (found.ref, found.digest) == (entry.reference, entry.digest)
