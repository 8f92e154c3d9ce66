from __future__ import annotations

import functools
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.artifact_samples import digest_of, edited_manifest, sample_files

from steerguard.artifacts.calibration import calibration_from_scores, next_float32
from steerguard.artifacts.manifest import manifest_bytes, parse_manifest
from steerguard.artifacts.reference import ArtifactReference, parse_reference
from steerguard.artifacts.verify import verify_artifact
from steerguard.artifacts.versions import parse_range
from steerguard.errors import ArtifactError

SAMPLE = sample_files()
PIN = digest_of(SAMPLE)
NAMES = st.from_regex(r"[a-z0-9]+([.-][a-z0-9]+){0,3}", fullmatch=True).filter(lambda name: len(name) <= 64)
NUMBERS = st.integers(0, 30)
VERSIONS = st.tuples(NUMBERS, NUMBERS, NUMBERS)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SCORES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60)


@settings(max_examples=400, deadline=None)
@given(path=st.sampled_from(sorted(SAMPLE)), position=st.integers(0, 2**31), bit=st.integers(0, 7))
def test_a_single_flipped_bit_is_always_refused(path, position, bit):
    content = bytearray(SAMPLE[path])
    content[position % len(content)] ^= 1 << bit
    with pytest.raises(ArtifactError):
        verify_artifact(SAMPLE | {path: bytes(content)}, PIN)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200) | JSON.map(repr).map(str.encode), path=st.sampled_from(sorted(SAMPLE)))
def test_any_other_bytes_give_an_error_of_this_package(content, path):
    tampered = SAMPLE | {path: content}
    with pytest.raises(ArtifactError):
        verify_artifact(tampered, digest_of(tampered) if path == "manifest.json" else PIN)


@settings(max_examples=100, deadline=None)
@given(
    extra=st.dictionaries(TEXT.map("x_{}".format), JSON, max_size=3),
    nested=st.dictionaries(TEXT.map("y_{}".format), JSON, max_size=3),
)
def test_unknown_keys_survive_a_round_trip(extra, nested):
    def add(data):
        data.update(extra)
        data["base"].update(nested)
        data["files"][0].update(nested)
        data["fingerprints"][0].update(extra)
        data["requires"].update(nested)

    content = edited_manifest(SAMPLE, add)["manifest.json"]
    assert manifest_bytes(parse_manifest(content)) == content


@given(family=NAMES, variant=st.none() | NAMES, location=st.none() | TEXT.map("/srv/{}".format))
def test_a_formatted_reference_parses_to_itself(family, variant, location):
    if location is not None and ("\0" in location or "/../" in f"{location}/"):
        return
    backend = "default" if location is None else "file"
    normal = None if location is None else parse_reference(f"file://{_quoted(location)}#a").location
    reference = ArtifactReference(backend=backend, family=family, variant=variant, range="^1", location=normal)
    assert parse_reference(str(reference)) == reference


def _quoted(location):
    from urllib.parse import quote

    return quote(location)


@given(bound=VERSIONS, version=VERSIONS)
def test_ranges_nest(bound, version):
    text = ".".join(map(str, bound))
    exact, tilde, caret = (parse_range(f"{mark}{text}").admits(version) for mark in ("", "~", "^"))
    assert not exact or (tilde and caret)
    assert not caret or parse_range(f">={text}").admits(version)
    assert not tilde or parse_range(f">={text}").admits(version)


@given(scores=SCORES, rates=st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)))
def test_a_higher_rate_never_raises_the_threshold(scores, rates):
    calibration = calibration_from_scores(scores, score="s", source="test")
    low, high = sorted(rates)
    if low < calibration.smallest_fpr:
        low = float(calibration.smallest_fpr)
    if high >= low and high < 1:
        assert calibration.threshold(high) <= calibration.threshold(low)


@given(scores=SCORES, rate=st.floats(0.001, 0.999))
def test_the_share_of_calibration_scores_that_fire_keeps_the_conformal_bound(scores, rate):
    calibration = calibration_from_scores(scores, score="s", source="test")
    if rate < calibration.smallest_fpr:
        return
    threshold = calibration.threshold(rate)
    fired = sum(float(text) >= threshold for text in calibration.benign_scores)
    assert fired <= rate * (len(scores) + 1) + 1e-9


@given(order=st.randoms(use_true_random=False), scores=SCORES)
def test_the_order_of_scores_does_not_matter(order, scores):
    shuffled = list(scores)
    order.shuffle(shuffled)
    first, second = (calibration_from_scores(one, score="s", source="t") for one in (scores, shuffled))
    assert first == second


@pytest.mark.parametrize(("n", "fpr"), [(19, 0.05), (99, 0.1), (50, 0.2)])
def test_exchangeable_scores_fire_at_most_at_the_asked_rate(n, fpr):
    generator = random.Random(n)
    draws = 4000
    fired = 0
    for _ in range(draws):
        scores = [generator.gauss(0, 1) for _ in range(n + 1)]
        calibration = calibration_from_scores(scores[:n], score="s", source="test")
        fired += torch.tensor(scores[n]).item() >= calibration.threshold(fpr)
    # The exact rate is (n + 1 - k) / (n + 1); four standard errors of the estimate are allowed on either side.
    k = math.ceil(round((n + 1) * (1 - fpr), 9))
    exact = (n + 1 - k) / (n + 1)
    assert exact <= fpr + 1e-12
    assert abs(fired / draws - exact) < 4 * math.sqrt(exact * (1 - exact) / draws)


@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_nothing_lies_between_a_float32_and_the_next(value):
    following = next_float32(value)
    assert following == torch.nextafter(torch.tensor(value), torch.tensor(math.inf)).item()
    assert following > value


@functools.cache
def _loaded():
    return verify_artifact(SAMPLE, PIN)


def test_a_verified_artifact_cannot_be_changed():
    with pytest.raises(TypeError):
        _loaded().tensors["weights/vectors.safetensors"] = {}
    with pytest.raises(AttributeError):
        _loaded().digest = "sha256:" + "0" * 64
