"""Vetting on SmolLM2 and the embedded artifacts, and cards before the Hub's own check."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load, save
from tests.loopback_hubs import REGULAR_UPLOAD, client_online
from tests.repinned import repinned
from tests.unit.artifacts.test_card_metadata import manifests
from tests.unit.artifacts.test_publishable import side_effects

from steerguard.artifacts.card_metadata import card_metadata, with_front_matter
from steerguard.registry.local import embedded_registry
from steerguard.signing.keys import SigningKey
from steerguard.testing import LoopbackHub
from steerguard.vetting.find_artifact import find_artifact
from steerguard.vetting.load_suite import load_suite
from steerguard.vetting.record import VettingTerms, record_of
from steerguard.vetting.run import VettingJob, vet

VECTORS = "weights/vectors.safetensors"


@pytest.mark.filterwarnings(REGULAR_UPLOAD)
def test_the_hub_accepts_every_card(tmp_path):
    with LoopbackHub() as hub, client_online(hub, tmp_path / "home"):
        for manifest in manifests():
            for effects in (None, side_effects(manifest)):
                ModelCard(with_front_matter("# A card\n", card_metadata(manifest, effects))).validate()
        with pytest.raises(ValueError, match="license"):
            ModelCard(with_front_matter("# A card\n", {"tags": [], "license": 7})).validate()


@pytest.fixture(scope="module")
def steps():
    return find_artifact("inferaligner-steps@^2", None).artifact


def verdict(artifact, smollm2):
    """Vet with the quick suite; return the record."""
    job = VettingJob(
        artifact=artifact, suite=load_suite("quick"), base=embedded_registry(), model_name="packaged:smollm2", level=2
    )
    terms = VettingTerms(
        vetted_by=SigningKey.generate().public.text,
        conditions=(),
        now=datetime(2026, 11, 22, tzinfo=UTC),
        valid_for=timedelta(days=1),
    )
    return record_of(vet(job, *smollm2), job.suite, terms)


def missed(record):
    # Seconds of a shared machine are no matter of right and wrong here.
    return {result.id for result in record.results if result.passed is False} - {"overhead.benign"}


def test_embedded_vectors_reach_the_bars_of_the_quick_suite(smollm2, steps):
    record = verdict(steps, smollm2)
    assert all(check.passed for check in record.static_checks)
    assert missed(record) == set()
    assert record.level == 2


def test_vectors_of_the_same_length_in_a_random_direction_do_not(smollm2, steps):
    tensors = load(steps.files[VECTORS])
    steered = [name for name in tensors if name.startswith("theta")]
    order = torch.randperm(tensors[steered[0]].shape[-1], generator=torch.Generator().manual_seed(0))
    shuffled = save(tensors | {name: tensors[name][..., order].contiguous() for name in steered})
    artifact = repinned(steps, {VECTORS: shuffled})
    record = verdict(artifact, smollm2)
    # Nothing is wrong with the file, and everything with what it does.
    assert all(check.passed for check in record.static_checks)
    assert record.verdict == "fail"
    assert "harmful_refused.harmful" in missed(record)
