from __future__ import annotations

import pytest
import torch
from tests.artifact_samples import (
    FINGERPRINT,
    FINGERPRINT_BLOCKS,
    digest_of,
    resealed,
    sample_files,
    sample_tensors,
)

from steerguard.artifacts.fingerprint import PROMPTS, Fingerprint, check_fingerprint, distance, recorded_fingerprint
from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import ArtifactFormatError, IncompatibleModelError


def recorded() -> Fingerprint:
    files = sample_files()
    artifact = verify_artifact(files, digest_of(files))
    return recorded_fingerprint(artifact, artifact.manifest.fingerprints[0])


def moved(cosine: float) -> Fingerprint:
    """The recorded fingerprint with one direction turned away to the given cosine."""
    directions = recorded().directions.double().clone()
    unit = directions[1, 2]
    other = torch.zeros_like(unit)
    other[0] = 1.0
    other = torch.nn.functional.normalize(other - (other @ unit) * unit, dim=0)
    directions[1, 2] = cosine * unit + (1 - cosine**2) ** 0.5 * other
    return Fingerprint(blocks=FINGERPRINT_BLOCKS, directions=directions)


def test_a_fingerprint_has_no_distance_to_itself():
    assert distance(recorded(), recorded()) == 0.0


def test_length_does_not_matter():
    longer = Fingerprint(blocks=FINGERPRINT_BLOCKS, directions=recorded().directions * 17.0)
    assert distance(recorded(), longer) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("gap", [1e-6, 5e-4, 0.3, 1.7])
def test_the_distance_is_the_largest_gap(gap):
    assert distance(recorded(), moved(1 - gap)) == pytest.approx(gap, rel=1e-4)


def test_the_limit_itself_is_accepted_and_more_is_refused():
    assert check_fingerprint(recorded(), moved(1 - 9e-4), "0.001") == pytest.approx(9e-4, rel=1e-3)
    with pytest.raises(IncompatibleModelError, match=r"1 - cos at most 0\.001"):
        check_fingerprint(recorded(), moved(1 - 1.1e-3), "0.001")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_yields_no_numbers_is_refused(value):
    broken = recorded().directions.clone()
    broken[0, 0, 0] = value
    with pytest.raises(IncompatibleModelError):
        check_fingerprint(recorded(), Fingerprint(blocks=FINGERPRINT_BLOCKS, directions=broken), "0.001")


def test_zero_directions_are_no_match():
    zeros = torch.zeros_like(recorded().directions)
    with pytest.raises(IncompatibleModelError):
        check_fingerprint(recorded(), Fingerprint(blocks=FINGERPRINT_BLOCKS, directions=zeros), "0.001")


def test_other_blocks_or_shapes_cannot_be_compared():
    with pytest.raises(IncompatibleModelError, match="other places"):
        distance(recorded(), Fingerprint(blocks=(1, 3, 5), directions=recorded().directions))
    with pytest.raises(IncompatibleModelError, match="other places"):
        distance(recorded(), Fingerprint(blocks=FINGERPRINT_BLOCKS, directions=recorded().directions[:3]))


def test_recorded_directions_must_be_of_unit_length():
    from safetensors.torch import save

    longer = {name: tensor * 2 for name, tensor in sample_tensors()[FINGERPRINT].items()}
    files = resealed(sample_files() | {FINGERPRINT: save(longer)})
    artifact = verify_artifact(files, digest_of(files))
    with pytest.raises(ArtifactFormatError, match="unit length"):
        recorded_fingerprint(artifact, artifact.manifest.fingerprints[0])


def test_the_prompts_are_at_least_four_distinct_chats_that_end_with_the_user():
    assert len(PROMPTS) >= 4
    assert len({str(chat) for chat in PROMPTS}) == len(PROMPTS)
    assert all(chat[-1]["role"] == "user" for chat in PROMPTS)
