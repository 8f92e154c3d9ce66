"""The optional `calibration` of a detector: strict, pinned by digest, and without effect on documents that lack it."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerguard.errors import PolicyValidationError
from steerguard.policy.describe import describe
from steerguard.policy.load import load_policy, parse_policy

SHA = "ab" * 32
TEXT = """\
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {{name: x, version: "1.0.0"}}
detectors:
  - {{id: d, type: linear_probe, artifact: harmful-intent@^1{calibration}}}
rules:
  - {{id: r, when: {{detector: d, score: {{at_least: {bound}}}}}, then: {{action: refuse}}}}
"""


def parsed(calibration, bound="{fpr: 0.05}", **named):
    return parse_policy(TEXT.format(calibration=calibration, bound=bound), file="x.yaml", **named)


def written(file="own.json", sha256=f'"{SHA}"'):
    return f", calibration: {{file: {file}, sha256: {sha256}}}"


def test_it_is_part_of_document_digest_and_description():
    with_it, without = parsed(written()), parsed("")
    assert with_it.document()["detectors"][0]["calibration"] == {"file": "own.json", "sha256": SHA}
    assert "calibration" not in without.document()["detectors"][0]
    assert with_it.digest != without.digest
    assert any("own.json" in sentence and SHA in sentence for sentence in describe(with_it))


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (", calibration: {file: own.json}", "`sha256` is missing"),
        (f', calibration: {{sha256: "{SHA}"}}', "`file` is missing"),
        (written(sha256=f'"sha256:{SHA}"'), "right form"),
        (written(sha256=f'"{SHA.upper()}"'), "right form"),
        (written(sha256="1" * 64), "wrong type"),
        (written(file='""'), "wrong length"),
        (f', calibration: {{file: own.json, sha256: "{SHA}", sha: x}}', "no field `sha`"),
        (", calibration: own.json", "wrong type"),
        (", calibration: ", "no value"),
    ],
)
def test_a_wrong_one_is_refused_with_its_line(calibration, words):
    with pytest.raises(PolicyValidationError, match=words) as raised:
        parsed(calibration)
    assert "x.yaml:5" in str(raised.value)


def test_one_that_no_rule_uses_is_refused():
    with pytest.raises(PolicyValidationError, match="has no effect"):
        parsed(written(), bound="{value: 1.0}")


def test_the_folder_is_no_part_of_the_document(tmp_path):
    here, there = (parsed(written(), folder=folder) for folder in (tmp_path, Path("/elsewhere")))
    assert here == there == parsed(written())
    assert here.digest == there.digest
    assert here.path_of("own.json") == tmp_path / "own.json"
    assert here.path_of("/absolute.json") == Path("/absolute.json")
    assert parsed(written()).path_of("own.json") == Path("own.json")


def test_a_policy_that_was_read_from_a_file_remembers_its_folder(tmp_path):
    (tmp_path / "x.yaml").write_text(TEXT.format(calibration=written(), bound="{fpr: 0.05}"), encoding="utf-8")
    loaded = load_policy(tmp_path / "x.yaml")
    assert loaded.path_of("own.json") == tmp_path / "own.json"
    assert load_policy(loaded).path_of("own.json") == tmp_path / "own.json"
    assert loaded.model_copy().path_of("own.json") == tmp_path / "own.json"
