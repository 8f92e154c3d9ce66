from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from steerguard.methods.inferaligner import InferAlignerSpec
from steerguard.policy.document import Metadata, Policy
from steerguard.policy.load import load_policy, parse_policy
from steerguard.policy.numbers import decimal_text

FULL = Path(__file__).parents[2] / "documents" / "full.yaml"
SEARCHES = FULL.with_name("searches.yaml")
TODAY = date(2026, 11, 22)


def minimal(**changes: Any) -> dict[str, Any]:
    document = {
        "apiVersion": "steerguard/v1alpha1",
        "kind": "GuidancePolicy",
        "metadata": {"name": "minimal", "version": "0.1.0"},
    }
    return document | changes


def policy_of(document: dict[str, Any]) -> Policy:
    return parse_policy(json.dumps(document), file="policy.json", today=TODAY)


def test_defaults_are_fail_closed() -> None:
    policy = policy_of(minimal())
    assert policy.mode == "enforce"
    assert policy.default.action == "allow"
    assert policy.unrecognised_prompt == "refuse"
    assert {policy.failure.detector, policy.failure.guidance, policy.failure.audit} == {"refuse"}
    assert policy.streaming.strategy == "buffer"
    assert policy.budget.on_exceeded == "refuse"
    assert policy.audit.content == "hmac"


def test_default_written_out_and_left_out_have_one_digest() -> None:
    assert policy_of(minimal()).digest == policy_of(minimal(mode="enforce", budget={"max_candidates": 16})).digest


def test_integer_and_float_spelling_have_one_digest() -> None:
    texts = [
        FULL.read_text(encoding="utf-8").replace("coefficient: 1.5", f"coefficient: {text}")
        for text in ("2", "2.0", "2e0")
    ]
    assert len({parse_policy(text, file="x.yaml", today=TODAY).digest for text in texts}) == 1


def test_digest_is_stable_across_processes() -> None:
    program = f"from steerguard.policy.load import load_policy; print(load_policy({str(FULL)!r}).digest)"
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    assert other.stdout.strip() == load_policy(FULL).digest


def test_digest_of_a_pinned_document_never_changes() -> None:
    assert load_policy(FULL).digest == "sha256:c81b3c2d28ae0034e20db252db199184fc28c8db5d620566edaa7ccfe1bcff93"


def _variants(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield copies of the document, each with one field changed to another legal value."""
    changes: list[tuple[tuple[str | int, ...], Any]] = [
        (("metadata", "name"), "other"),
        (("metadata", "version"), "2.3.5"),
        (("metadata", "description"), "x"),
        (("metadata", "owner"), "x"),
        (("mode",), "enforce"),
        (("target", "modalities"), ["text"]),
        (("detectors", 0, "artifact"), "harmful-intent@^2"),
        (("detectors", 0, "calibration", "file"), "other.json"),
        (("detectors", 0, "calibration", "sha256"), "1" * 64),
        (("guidance", 0, "artifact"), "inferaligner@^2"),
        (("guidance", 0, "coefficient"), 1.25),
        (("guidance", 0, "positions"), "decode"),
        (("guidance", 0, "positions", "first_steps"), 9),
        (("guidance", 0, "modality_tokens"), "include"),
        (("guidance", 0, "gate"), "verdict"),
        (("guidance", 0, "blocks"), [10, 11]),
        (("guidance", 1, "critic"), "harm-cost@^2"),
        (("guidance", 1, "candidates"), 17),
        (("guidance", 1, "block_tokens"), 31),
        (("guidance", 1, "keep"), 5),
        (("guidance", 1, "retries"), 1),
        (("guidance", 1, "cost_budget"), {"value": 0.05}),
        (("guidance", 1, "discount"), 0.98),
        (("guidance", 1, "value"), "cost"),
        (("guidance", 1, "weight"), 2.25),
        (("guidance", 1, "temperature"), 0.8),
        (("guidance", 1, "avoid_penalty"), 3.5),
        (("guidance", 3, "threshold"), {"value": 0.01}),
        (("guidance", 3, "every"), 5),
        (("guidance", 3, "first"), 3),
        (("guidance", 3, "opens"), ["steer"]),
        (("guidance", 3, "in_a_row"), 3),
        (("rules", 0, "id"), "other"),
        (("rules", 0, "when", "score", "at_least"), {"fpr": 0.002}),
        (("rules", 0, "when", "score", "at_least"), {"value": 0.001}),
        (("rules", 0, "when", "detector"), "second_opinion"),
        (("rules", 0, "when"), {"always": True}),
        (("rules", 0, "then", "action"), "annotate"),
        (("rules", 1, "then", "use"), ["search", "steer", "watch"]),
        (("rules", 2, "when", "score", "below", "value"), 0.8),
        (("default", "action"), "allow"),
        (("budget", "max_extra_forward_tokens"), 1),
        (("budget", "max_candidates"), 1),
        (("budget", "max_added_latency_ms"), 1),
        (("budget", "max_extra_memory_mib"), 1),
        (("budget", "fallback"), ["steer_gently", "steer"]),
        (("streaming", "strategy"), "buffer"),
        (("refusal", "template"), "Never."),
        (("unrecognised_prompt",), "refuse"),
        (("unrecognised_prompt",), "gate_every_turn"),
        (("unrecognised_prompt", "reason"), "another long reason"),
        (("failure", "detector"), {"action": "allow", "reason": "long enough", "expires": "2099-01-01"}),
        (("failure", "guidance"), "refuse"),
        (("failure", "audit", "expires"), "2099-03-01"),
        (("disclosure",), "none"),
        (("audit", "content"), "none"),
    ]
    yield from _changed(document, changes)


def _search_variants(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield copies of the document of searches, as `_variants` does."""
    yield from _changed(
        document,
        [
            (("guidance", 0, "cost_budget", "value"), 1.25),
            (("guidance", 0, "start"), "always"),
            (("guidance", 0, "final_check"), "none"),
            (("guidance", 1, "critic"), "harm-cost@^2"),
            (("guidance", 1, "candidates"), 5),
            (("guidance", 1, "rule"), "plain"),
            (("guidance", 1, "weight"), 1.5),
            (("guidance", 1, "start"), "always"),
            (("guidance", 1, "final_check"), "none"),
            (("guidance", 1, "temperature"), 1.0),
            (("guidance", 2, "critic"), "harm-cost@^1"),
            (("guidance", 2, "candidates"), 7),
            (("guidance", 2, "block_tokens"), 15),
            (("guidance", 2, "start"), "lazy"),
            (("guidance", 2, "final_check"), "cost_model"),
            (("guidance", 2, "temperature"), 1.0),
            (("guidance", 3, "threshold"), {"fpr": 0.5}),
            (("guidance", 3, "candidates"), 6),
            (("guidance", 3, "start"), "lazy"),
            (("guidance", 3, "final_check"), "cost_model"),
            (("guidance", 4, "check"), ["input", "output"]),
            (("guidance", 4, "cost_budget"), {"fpr": 0.5}),
            (("budget", "fallback"), ["guardian", "filter", "blockwise"]),
        ],
    )


def _changed(
    document: dict[str, Any], changes: list[tuple[tuple[str | int, ...], Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, value in changes:
        variant = copy.deepcopy(document)
        target: Any = variant
        for part in path[:-1]:
            target = target[part]
        assert target[path[-1]] != value
        target[path[-1]] = value
        yield ".".join(map(str, path)), variant


@pytest.mark.parametrize(("path", "variants"), [(FULL, _variants), (SEARCHES, _search_variants)])
def test_digest_changes_with_each_field(path: Path, variants: Any) -> None:
    policy = load_policy(path)
    digests = {"unchanged": policy.digest}
    for name, variant in variants(policy.document()):
        digests[f"{name}={len(digests)}"] = policy_of(variant).digest
    assert len(set(digests.values())) == len(digests)


def test_full_documents_use_every_field() -> None:
    document = json.dumps([load_policy(path).document() for path in (FULL, SEARCHES)])
    fields = {info.alias or name for model in _models(Policy) for name, info in model.model_fields.items()}
    assert {field for field in fields if f'"{field}"' not in document} == set()


def _models(model: Any) -> set[Any]:
    from steerguard.methods.section import Section
    from steerguard.methods.spec import GuidanceSpec

    def below(parent: Any) -> set[Any]:
        return {parent}.union(*(below(child) for child in parent.__subclasses__()))

    # Trust policies and suites are built of sections too.
    own = ("steerguard.policy.", "steerguard.methods.")
    return {found for found in below(Section) if found.__module__.startswith(own)} - {
        Section,
        GuidanceSpec,
    } | {model}


def test_a_policy_can_be_built_in_python() -> None:
    policy = Policy(
        apiVersion="steerguard/v1alpha1",
        kind="GuidancePolicy",
        metadata=Metadata(name="built", version="1.0.0"),
        guidance=(InferAlignerSpec(id="steer", method="inferaligner", artifact="inferaligner@^1"),),
        default={"action": "guide", "use": ("steer",)},
    )
    assert policy_of(policy.document()) == policy


def test_a_policy_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_policy(FULL).mode = "enforce"  # type: ignore[misc]


def test_contradictions_are_refused_in_python_too() -> None:
    with pytest.raises(ValidationError, match="There is no guidance entry `absent`"):
        Policy.model_validate_json(json.dumps(minimal(default={"action": "guide", "use": ["absent"]})))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.02, "0.02"),
        (1e-05, "0.00001"),
        (2.0, "2.0"),
        (-0.0, "0.0"),
        (1e22, "10000000000000000000000.0"),
        (-1.5, "-1.5"),
    ],
)
def test_decimal_text_has_no_exponent(number: float, text: str) -> None:
    assert decimal_text(number) == text
    assert float(text) == number
