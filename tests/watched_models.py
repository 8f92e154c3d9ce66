"""Tiny models under a guard that watches revocations, with lists that tests make and exchange."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.guarded_models import TEMPLATE, guarded, memory_log, tokenizer
from tests.revocations import Clock, Shelf, listed, revokes, watch_over

from steerguard.decision import Decision
from steerguard.registry.index import IndexEntry
from steerguard.revocation import Revocations
from steerguard.testing import MemorySink
from steerguard.trust.findings import WatchedArtifact


@dataclass(kw_only=True)
class Watched:
    """A wrapped model, the lists of its registry, and what its log says."""

    model: Any
    shelf: Shelf
    clock: Clock
    sink: MemorySink

    @property
    def watch(self):
        return self.model.guard.revocations.watch

    def revoke(self, family: str = "harmful-intent", *, sequence: int = 2, **named: Any) -> None:
        """Publish a list that revokes a family, and read it now."""
        self.publish(listed(revokes(family=family, **named), sequence=sequence))

    def publish(self, document) -> None:
        self.shelf.put(document)
        self.watch.refresh()

    def records(self, *kinds: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.sink.content.splitlines()]
        return [record for record in found if not kinds or record["type"] in kinds]


@contextmanager
def watched(model, document, *, clock=None, known=True, sink=None, **named):
    """The model under a guard whose watch knows a first list that revokes nothing."""
    shelf, sink, clock = Shelf(*([listed()] if known else [])), sink or MemorySink(), clock or Clock()
    log = memory_log(sink)
    with guarded(model, document, audit=log, **named) as wrapped:
        guard = wrapped.guard
        artifacts = tuple(
            WatchedArtifact(
                entry=IndexEntry(family=pin.family, variant=pin.variant, version=pin.version, digest=pin.digest)
            )
            for pin in guard.plan.artifacts
        )
        _watch(guard, Revocations(watch_over(shelf, now=clock, registries=("hf://acme",))), artifacts)
        yield Watched(model=wrapped, shelf=shelf, clock=clock, sink=sink)
    for used in {log, guard.audit}:
        used.close()


def _watch(guard, revocations, artifacts):
    """Do what `wrap(trust=...)` does, with lists from memory."""
    object.__setattr__(guard.engine, "artifacts", artifacts)
    guard.revocations = revocations


def texts(tokens, width):
    """The answers as text."""
    return tokenizer().batch_decode(tokens[:, width:], skip_special_tokens=True)


def refused(decision: Decision) -> bool:
    """Whether a row was refused because something was revoked."""
    return (decision.intended, decision.applied, decision.cause) == ("refuse", "refuse", "revoked")


def assert_refused(reports, tokens, width):
    """Every row was refused for that, nothing was read or changed, and the template stands in its place."""
    assert reports
    assert all(refused(report) for report in reports)
    assert all(not report.readings and not report.rules and not report.doses for report in reports)
    assert set(texts(tokens, width)) == {TEMPLATE}


class Keeper:
    """A streamer that keeps what it gets, and None for the end."""

    def __init__(self):
        self.values = []

    def put(self, value):
        self.values.append(value.clone())

    def end(self):
        self.values.append(None)
