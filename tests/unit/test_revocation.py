"""What a guard does with what its watch finds: one look per call, one record per change."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace

import pytest
from tests.guarded_models import FailingSink, memory_log
from tests.revocations import KEY, NOW, Clock, Shelf, artifact, entry, listed, revokes, watch_over
from tests.signed_artifacts import ACME, trust

from steerguard.errors import AuditSinkError
from steerguard.registry.store import Evidence, PinnedManifest
from steerguard.revocation import Revocations, watched_artifacts
from steerguard.testing import MemorySink

BAD = artifact()
GOOD = artifact(family="good", digest=f"sha256:{'b' * 64}")


@dataclass(frozen=True)
class Engine:
    """The part of an engine that is asked and answered."""

    artifacts: tuple = (BAD, GOOD)
    revoked: bool = False


class Watching:
    """Revocations over a shelf, and the log that they write."""

    def __init__(self, *lists, sink=None):
        self.shelf, self.clock, self.sink = Shelf(*lists or [listed()]), Clock(), sink or MemorySink()
        self.log = memory_log(self.sink)
        self.revocations = Revocations(watch_over(self.shelf, now=self.clock))

    def applied(self, engine=None):
        return self.revocations.applied(engine or Engine(), self.log)

    def publish(self, document):
        self.shelf.put(document)
        self.revocations.watch.refresh()

    @property
    def told(self):
        records = [json.loads(line) for line in self.sink.lines]
        return [
            (record["artifact"]["ref"], record["state"], record["action"])
            for record in records
            if record["type"] == "artifact.revoked"
        ]


@pytest.fixture
def watching():
    made = []

    def make(*lists, **named):
        made.append(Watching(*lists, **named))
        return made[-1]

    yield make
    for one in made:
        one.revocations.close()
        one.log.close()


def test_the_engine_itself_is_returned_where_nothing_speaks_against_it(watching):
    one, engine = watching(), Engine()
    assert one.applied(engine) is engine
    assert one.told == []


def test_a_copy_that_refuses_is_returned_and_the_engine_stays_as_it_is(watching):
    one, engine = watching(listed(revokes())), Engine()
    found = one.applied(engine)
    assert (found.revoked, engine.revoked) == (True, False)
    assert one.applied(Engine(artifacts=(GOOD,))).revoked is False
    assert one.told == [("steer/tiny@1.2.0", "revoked", "refuse")]


def test_each_change_is_told_once(watching):
    one = watching()
    steps = [
        (listed(revokes(action="warn", reason="superseded"), sequence=2), [("steer/tiny@1.2.0", "revoked", "warn")]),
        (listed(revokes(action="warn", reason="superseded"), revokes(family="x"), sequence=3), []),
        (listed(revokes(), sequence=4), [("steer/tiny@1.2.0", "revoked", "refuse")]),
        (
            listed(revokes(), revokes(family="good"), sequence=5),
            [("good/tiny@1.2.0", "revoked", "refuse")],
        ),
        (
            listed(sequence=6),
            [("steer/tiny@1.2.0", "restored", "none"), ("good/tiny@1.2.0", "restored", "none")],
        ),
    ]
    for document, wanted in steps:
        one.publish(document)
        before = len(one.told)
        for _ in range(2):
            one.applied()
        assert one.told[before:] == wanted


def test_a_revoked_artifact_stays_revoked_in_the_log_while_its_list_is_stale(watching):
    one = watching(listed(revokes()))
    one.applied()
    one.clock.now = NOW + timedelta(days=8)
    one.applied()
    assert one.told == [("steer/tiny@1.2.0", "revoked", "refuse"), ("good/tiny@1.2.0", "stale", "refuse")]


def test_a_change_that_could_not_be_recorded_raises_and_is_told_by_the_next_call(watching):
    sink = FailingSink(AuditSinkError("The disk is full."))
    one = watching(listed(revokes()), sink=sink)
    sink.at = 0
    with pytest.raises(AuditSinkError):
        one.applied()
    assert one.told == []
    assert one.applied().revoked
    assert one.told == [("steer/tiny@1.2.0", "revoked", "refuse")]


def test_another_log_is_told_again(watching):
    one = watching(listed(revokes()))
    one.applied()
    one.revocations.forget()
    one.applied()
    assert one.told == [("steer/tiny@1.2.0", "revoked", "refuse")] * 2


def test_many_threads_tell_it_once(watching):
    one, barrier = watching(listed(revokes(), revokes(family="good"))), threading.Barrier(8)

    def ask():
        barrier.wait(10)
        one.applied()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.told) == [("good/tiny@1.2.0", "revoked", "refuse"), ("steer/tiny@1.2.0", "revoked", "refuse")]


def _resolved(evidence):
    given = entry()
    pin = PinnedManifest(
        family=given.family, variant=given.variant, version=given.version, digest=given.digest, manifest=None
    )
    return SimpleNamespace(pin=pin, evidence=evidence)


def test_what_a_policy_uses_is_watched_with_the_keys_that_its_publisher_needs():
    evidence = Evidence(signed_by=(KEY, ACME.public.id), publisher="acme")
    resolved = {"a": _resolved(evidence), "b": _resolved(evidence)}
    (found,) = watched_artifacts(resolved, trust(keys=[ACME], require="{signatures: 1}"))
    assert (found.entry, found.signed_by, found.signatures) == (entry(), evidence.signed_by, 1)
    assert watched_artifacts(resolved, None) == ()
    assert watched_artifacts({"a": _resolved(Evidence())}, trust())[0].signed_by == ()
