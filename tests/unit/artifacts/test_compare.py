"""What changed between two versions, in plain words."""

from __future__ import annotations

import torch
from tests.artifact_samples import (
    FINGERPRINT,
    VECTORS,
    digest_of,
    sample_calibration,
    sample_fields,
    sample_tensors,
)

from steerguard.artifacts.calibration import calibration_from_scores
from steerguard.artifacts.codec import encode_artifact
from steerguard.artifacts.compare import compared, diff, differences
from steerguard.artifacts.release import release_path, release_statement
from steerguard.artifacts.verify import verify_artifact
from steerguard.signing import dsse
from steerguard.signing.keys import SigningKey
from steerguard.signing.statement import STATEMENT


def files_of(tensors=None, *, benchmarks=None, calibration=None, card="# Tiny\n", **changes):
    return encode_artifact(
        sample_fields(**changes),
        tensors or sample_tensors(),
        card=card,
        calibration=calibration or sample_calibration(),
        benchmarks=benchmarks or {},
    )


def lines(a, b):
    return diff(*(compared(files, digest_of(files), where=name) for name, files in (("a", a), ("b", b))))


def about(a, b, subject):
    sides = [compared(files, digest_of(files), where=name) for name, files in (("a", a), ("b", b))]
    return [difference.text for difference in differences(*sides) if difference.about.startswith(subject)]


def test_the_same_artifact_twice_has_no_differences():
    assert lines(files_of(), files_of()) == ("The artifacts are the same: their manifests have the same digest.",)


def test_one_turned_block_is_named_with_cosine_and_norms():
    tensors = sample_tensors()
    theta = tensors[VECTORS]["theta"]
    theta[2] = torch.tensor([3.0, 4.0, 0, 0, 0, 0, 0, 0])
    turned = sample_tensors()
    turned[VECTORS]["theta"] = theta.clone()
    turned[VECTORS]["theta"][2] = torch.tensor([0.0, 0.0, 0, 0, 0, 0, 0, 2.0])
    found = about(files_of(tensors), files_of(turned), VECTORS)
    assert found == [
        "block 2: cosine 0.000000, norm 5 → 2.",
        "the other 5 of 6 rows are the same.",
    ]


def test_a_scaled_vector_keeps_its_cosine():
    scaled = sample_tensors()
    scaled[VECTORS]["theta"] = scaled[VECTORS]["theta"] * 2
    found = about(files_of(), files_of(scaled), VECTORS)
    assert len(found) == 6
    norms = sample_tensors()[VECTORS]["theta"].double().norm(dim=1)
    for block, text in enumerate(found):
        norm = float(norms[block])
        assert text == f"block {block}: cosine 1.000000, norm {norm:.4g} → {2 * norm:.4g}."


def test_a_vector_that_becomes_zero_has_no_cosine():
    zeroed = sample_tensors()
    zeroed[VECTORS]["theta"][5] = 0
    assert "no cosine with a zero vector" in about(files_of(), files_of(zeroed), VECTORS)[0]


def test_huge_vectors_do_not_overflow():
    one, other = sample_tensors(), sample_tensors()
    one[VECTORS]["theta"][0] = torch.finfo(torch.float32).max
    other[VECTORS]["theta"][0] = -torch.finfo(torch.float32).max
    assert "cosine -1.000000" in about(files_of(one), files_of(other), VECTORS)[0]


def test_tensors_that_come_go_or_change_form_are_named():
    changed = sample_tensors()
    changed[VECTORS] = {"theta": changed[VECTORS]["theta"].half(), "extra": torch.ones(3)}
    found = about(files_of(), files_of(changed), VECTORS)
    assert "form: float32 [6, 8] → float16 [6, 8]." in found
    assert "tensor added, float32 [3]." in found
    assert "tensor removed, float32 [6]." in found


def test_a_bias_per_block_is_shown_as_numbers():
    changed = sample_tensors()
    changed[VECTORS]["gate_bias"][1] = 0.5
    before = float(sample_tensors()[VECTORS]["gate_bias"][1])
    assert about(files_of(), files_of(changed), f"{VECTORS}: gate_bias")[0] == f"block 1: {before:.6g} → 0.5."


def test_a_tensor_of_another_kind_is_compared_as_a_whole():
    changed = sample_tensors()
    changed[FINGERPRINT]["directions"] = -changed[FINGERPRINT]["directions"]
    (text,) = about(files_of(), files_of(changed), FINGERPRINT)
    assert text.startswith("cosine -1.000000, norm 3.464 → 3.464")


def probe(bias, weight=1.0):
    fields = sample_fields(
        family="harmful-intent",
        type="probe",
        method="linear_probe",
        requires={"sdk": ">=0.1", "features": ["probe.linear", "hook.resid_post"]},
        params={"blocks": [3, 4], "read": "generation_prompt_end", "reduce": "mean"},
    )
    tensors = {
        "weights/probe.safetensors": {"weight": torch.full((2, 8), weight), "bias": torch.tensor([0.0, bias])},
        FINGERPRINT: sample_tensors()[FINGERPRINT],
    }
    return encode_artifact(fields, tensors, card="# Probe\n", calibration=sample_calibration())


def test_parts_of_a_probe_are_named_by_block_and_reading():
    found = about(probe(1.0), probe(2.0, weight=-1.0), "weights/probe.safetensors")
    assert "part 1 (block 4, end): 1 → 2." in found
    assert "part 0 (block 3, end): cosine -1.000000, norm 2.828 → 2.828." in found


def test_thresholds_are_compared_at_the_usual_rates():
    scores = [float(value) for value in range(99)]
    a = calibration_from_scores(scores, score="margin", source="test")
    b = calibration_from_scores([value + 1 for value in scores], score="margin", source="test")
    found = about(files_of(calibration=a), files_of(calibration=b), "calibration")
    assert found == [
        "threshold at fpr 0.01: 98 → 99.",
        "threshold at fpr 0.02: 97 → 98.",
        "threshold at fpr 0.05: 94 → 95.",
        "threshold at fpr 0.1: 89 → 90.",
    ]


def test_a_rate_that_too_few_scores_bound_says_so():
    few = calibration_from_scores([1.0] * 10, score="mean margin", source="test")
    found = about(files_of(), files_of(calibration=few), "calibration")
    assert "benign scores: 19 → 10." in found
    assert any(text.startswith("threshold at fpr 0.05: 2.25 → none (10 benign scores bound") for text in found)


def figure(name, value, low=None, high=None, **more):
    interval = {} if low is None else {"wilson_low": low, "wilson_high": high}
    return {"id": name, "title": name, "value": value, "n": 100, "set": "own", **interval, **more}


def test_benchmarks_say_change_and_whether_intervals_overlap():
    a = {"build": [figure("near", "0.50", "0.40", "0.60"), figure("far", "0.10", "0.05", "0.15"), figure("gone", "1")]}
    b = {"build": [figure("near", "0.55", "0.45", "0.65"), figure("far", "0.30", "0.20", "0.40"), figure("come", "2")]}
    found = about(files_of(benchmarks=a), files_of(benchmarks=b), "benchmarks")
    assert found == [
        "build.come added: 2 (n 100, own).",
        "build.far: 0.10 [0.05, 0.15] → 0.30 [0.20, 0.40] (+0.20); the intervals do not overlap.",
        "build.gone removed; it was 1 (n 100, own).",
        "build.near: 0.50 [0.40, 0.60] → 0.55 [0.45, 0.65] (+0.05); the intervals overlap.",
    ]


def test_side_effects_have_intervals_of_their_own_name():
    a = {"side_effects": {"figures": [{**figure("coherence", "1.1"), "low": "1.0", "high": "1.2"}]}}
    b = {"side_effects": {"figures": [{**figure("coherence", "1.5"), "low": "1.4", "high": "1.6"}]}}
    (text,) = about(files_of(benchmarks=a), files_of(benchmarks=b), "benchmarks")
    assert text == ("side_effects.coherence: 1.1 [1.0, 1.2] → 1.5 [1.4, 1.6] (+0.4); the intervals do not overlap.")


def test_a_figure_on_another_sample_is_said_to_be():
    a, b = {"build": [figure("one", "1")]}, {"build": [figure("one", "1", weights="bfloat16")]}
    assert about(files_of(benchmarks=a), files_of(benchmarks=b), "benchmarks") == [
        "build.one was measured otherwise: n 100, own → n 100, own, bfloat16."
    ]


def test_figures_that_share_an_id_are_kept_apart():
    a = {"build": [figure("one", "1"), figure("one", "2")]}
    b = {"build": [figure("one", "1"), figure("one", "3")]}
    assert about(files_of(benchmarks=a), files_of(benchmarks=b), "benchmarks") == [
        "build.one (2): 2 → 3 (+1); no interval on both sides."
    ]


def test_fields_of_the_manifest_are_compared():
    base = sample_fields()["base"] | {"repo": "example/other"}
    b = files_of(
        version="1.1.0",
        license="mit",
        base=base,
        params={"blocks": [3], "strength": "0.5", "extra": 1},
        requires={"sdk": ">=0.1", "features": ["schedule.constant", "hook.resid_post", "gate.linear"]},
        parent={"version": "1.0.0", "digest": "sha256:" + "0" * 64, "changed": "calibration"},
        note="new",
    )
    found = lines(files_of(), b)
    for expected in (
        "artifact: version: 1.0.0 → 1.1.0.",
        "artifact: license: apache-2.0 → mit.",
        "artifact: inferaligner/tiny@1.1.0 was derived from version 1.0.0: changed calibration.",
        "artifact: other field note added: new.",
        "base model: repo: example/tiny → example/other.",
        "requires: feature added: gate.linear.",
        "requires: feature removed: operator.add.",
        "params: blocks: [3, 4] → [3].",
        "params: setting extra added: 1.",
        "params: setting positions removed; it was all.",
    ):
        assert expected in found


def test_files_are_named_with_their_sizes():
    a, b = files_of(card="# One\n"), files_of(card="# Two lines\n\nmore\n")
    assert about(a, b, "files") == [f"README.md changed: {len(a['README.md'])} → {len(b['README.md'])} bytes."]


def test_signers_are_those_that_releases_name():
    files, key = files_of(), SigningKey.generate()
    manifest = verify_artifact(files, digest_of(files)).manifest
    statement = release_statement(manifest, digest_of(files), "acme", "2026-11-22T00:00:00Z")
    signed = files | {release_path(key.public.id): dsse.sign(statement, STATEMENT, [key])}
    assert about(files, signed, "signers") == [f"release signature said to be by added: {key.public.id}."]
    assert about(signed, files, "signers") == [f"release signature said to be by removed: {key.public.id}."]
