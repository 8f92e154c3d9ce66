"""One table of documents that must be refused: error class, field and line of each."""

from __future__ import annotations

from datetime import date

import pytest

from steerguard.errors import (
    PolicyError,
    PolicySyntaxError,
    PolicyValidationError,
    UnknownMethodError,
    UnsupportedApiVersionError,
)
from steerguard.policy.load import parse_policy
from steerguard.policy.problems import Problems

TODAY = date(2026, 11, 22)

DOCUMENT = """\
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata:
  name: example
  version: "1.0.0"
mode: enforce
target:
  modalities: [text]
detectors:
  - id: intent
    type: linear_probe
    artifact: harmful-intent@^1
guidance:
  - id: steer
    method: inferaligner
    artifact: inferaligner@^1
    coefficient: 1.0
    blocks: [10, 11]
  - id: search
    method: inference_guard
    critic: harm-cost@^1
    candidates: 8
    keep: 2
rules:
  - id: likely
    when: {detector: intent, score: {at_least: {fpr: 0.02}}}
    then: {action: guide, use: [steer, search]}
  - id: window
    when:
      detector: intent
      score: {at_least: {value: 0.1}, below: {value: 0.5}}
    then: {action: annotate}
default: {action: allow}
budget:
  max_added_latency_ms: 4000
  on_exceeded: refuse
streaming: {strategy: buffer}
refusal: {template: "No."}
failure: {audit: refuse}
unrecognised_prompt: refuse
disclosure: code
"""

Invalid, Syntax = PolicyValidationError, PolicySyntaxError
LOOSE = "{action: allow, reason: shadow deployment, expires: 2026-11-21}"

LIKELY = "{detector: intent, score: {at_least: {fpr: 0.02}}}"

CASES = [
    # what is replaced, by what, error, field, line, part of the message
    ("steerguard/v1alpha1", "steerguard/v2", UnsupportedApiVersionError, "apiVersion", 1, "steerguard/v1alpha1"),
    ("steerguard/v1alpha1", "1", UnsupportedApiVersionError, "apiVersion", 1, "the number 1"),
    ("GuidancePolicy", "ArtifactManifest", UnsupportedApiVersionError, "kind", 2, "GuidancePolicy"),
    ("kind: GuidancePolicy\n", "", Invalid, "kind", 1, "missing"),
    ("metadata:", "metdata:", Invalid, "metdata", 3, "Did you mean `metadata`"),
    ("name: example", "name: Example", Invalid, "metadata.name", 4, "right form"),
    ('version: "1.0.0"', "version: 1.10", Invalid, "metadata.version", 5, '"1.10" without quotes is a number'),
    ('version: "1.0.0"', 'version: "1.0"', Invalid, "metadata.version", 5, "right form"),
    ("mode: enforce", "mode: enforced", Invalid, "mode", 6, "Did you mean `enforce`"),
    ("mode: enforce", "mode: on", Invalid, "mode", 6, "the text 'on'"),
    ("[text]", "[image]", Invalid, "target.modalities", 8, "must contain `text`"),
    ("[text]", "[text, sound]", Invalid, "target.modalities.1", 8, "`audio`"),
    ("[text]", "[]", Invalid, "target.modalities", 8, "at least 1"),
    ("[text]", "text", Invalid, "target.modalities", 8, "a list"),
    ("- id: intent\n", "- id: intent\n    id: twice\n", Syntax, "detectors.0.id", 11, "first in line 10"),
    ("linear_probe", "text_classifier", Invalid, "detectors.0.type", 11, "linear_probe"),
    ("harmful-intent@^1", "harmful intent", Invalid, "detectors.0.artifact", 12, "family@range"),
    ("id: steer\n", "id: intent 2\n", Invalid, "guidance.0.id", 14, "right form"),
    ("inferaligner\n", "infer_aligner\n", UnknownMethodError, "guidance.0.method", 15, "Did you mean `inferaligner`"),
    ("    method: inferaligner\n", "", Invalid, "guidance.0.method", 14, "missing"),
    ("coefficient: 1.0", "coefficent: 1.0", Invalid, "guidance.0.coefficent", 17, "Did you mean `coefficient`"),
    ("coefficient: 1.0", "coefficient: 9", Invalid, "guidance.0.coefficient", 17, "at most 8"),
    ("coefficient: 1.0", "coefficient: -0.1", Invalid, "guidance.0.coefficient", 17, "at least 0"),
    ("coefficient: 1.0", 'coefficient: "1.0"', Invalid, "guidance.0.coefficient", 17, "without quotes"),
    ("coefficient: 1.0", "coefficient: true", Invalid, "guidance.0.coefficient", 17, "the boolean true"),
    ("coefficient: 1.0", "coefficient: .inf", Syntax, "guidance.0.coefficient", 17, "infinite"),
    ("coefficient: 1.0", "coefficient: .NaN", Syntax, "guidance.0.coefficient", 17, "undefined"),
    ("coefficient: 1.0", "coefficient: 1e999", Syntax, "guidance.0.coefficient", 17, "too large"),
    ("coefficient: 1.0", "coefficient:", Invalid, "guidance.0.coefficient", 17, "no value"),
    ("[10, 11]", "[11, 10]", Invalid, "guidance.0.blocks", 18, "increasing order"),
    ("[10, 11]", "[10, -1]", Invalid, "guidance.0.blocks.1", 18, "at least 0"),
    ("[10, 11]", "[10, a]", Invalid, "guidance.0.blocks.1", 18, "`blocks.1`"),
    ("[10, 11]", "[10, 11.5]", Invalid, "guidance.0.blocks.1", 18, "a whole number"),
    ("candidates: 8", "candidates: 8.5", Invalid, "guidance.1.candidates", 22, "a whole number"),
    ("candidates: 8", "candidates: eight", Invalid, "guidance.1.candidates", 22, "a whole number"),
    ("candidates: 8", "candidates: 1_000", Invalid, "guidance.1.candidates", 22, "plain digits"),
    ("candidates: 8", "coefficient: 8", Invalid, "guidance.1.coefficient", 22, "`critic`"),
    ("keep: 2", "keep: 9", Invalid, "guidance.1.keep", 23, "at most candidates, which is 8"),
    ("id: window", f"id: {'x' * 65}", Invalid, "rules.1.id", 28, "at most 64"),
    ("id: window", "id: likely", Invalid, "rules.1.id", 28, "stands twice"),
    ("detector: intent,", "detector: intend,", Invalid, "rules.0.when.detector", 26, "Did you mean `intent`"),
    ("{fpr: 0.02}", "{fpr: 1.0}", Invalid, "rules.0.when.score.at_least.fpr", 26, "below 1"),
    ("{fpr: 0.02}", "{fprr: 0.02}", Invalid, "rules.0.when.score.at_least", 26, "Did you mean `fpr`"),
    ("{fpr: 0.02}", "{fpr: 0.02, value: 1}", Invalid, "rules.0.when.score.at_least.value", 26, "no field `value`"),
    ("{fpr: 0.02}", "0.02", Invalid, "rules.0.when.score.at_least", 26, "{value: 0.02}"),
    ("{at_least: {fpr: 0.02}}", "{}", Invalid, "rules.0.when.score", 26, "no end"),
    ("{at_least: {fpr: 0.02}}", "{at_least: }", Invalid, "rules.0.when.score.at_least", 26, "no value"),
    ("{value: 0.5}", "{value: 0.1}", Invalid, "rules.1.when.score.below", 31, "No score lies"),
    (f"when: {LIKELY}", "when: {any: []}", Invalid, "rules.0.when.any", 26, "at least 1"),
    (f"when: {LIKELY}", f"when: {{any: [{', '.join([LIKELY] * 17)}]}}", Invalid, "rules.0.when.any", 26, "at most 16"),
    (f"when: {LIKELY}", f"when: {{any: {LIKELY}}}", Invalid, "rules.0.when.any", 26, "a list"),
    (f"when: {LIKELY}", f"when: {{al: [{LIKELY}]}}", Invalid, "rules.0.when.al", 26, "Did you mean `all`"),
    (f"when: {LIKELY}", f"when: {{not: [{LIKELY}]}}", Invalid, "rules.0.when.not", 26, "a mapping"),
    (f"when: {LIKELY}", f"when: {{not: {LIKELY}, any: [{LIKELY}]}}", Invalid, "rules.0.when.not", 26, "no field `not`"),
    (f"when: {LIKELY}", "when: {all: [{always: true}]}", Invalid, "rules.0.when.all.0.always", 26, "no field `always`"),
    (
        f"when: {LIKELY}",
        f"when: {{all: [{LIKELY}, {{not: {LIKELY.replace('intent', 'intend')}}}]}}",
        Invalid,
        "rules.0.when.all.1.not.detector",
        26,
        "Did you mean `intent`",
    ),
    (
        f"when: {LIKELY}",
        f"when: {{any: [{LIKELY}, {{not: {LIKELY.replace('0.02', '2')}}}]}}",
        Invalid,
        "rules.0.when.any.1.not.score.at_least.fpr",
        26,
        "below 1",
    ),
    (
        f"when: {LIKELY}",
        f"when: {{not: {{not: {{not: {{not: {{not: {LIKELY}}}}}}}}}}}",
        Invalid,
        "rules.0.when.not.not.not.not",
        26,
        "at most 4 levels",
    ),
    (
        f"when: {LIKELY}",
        f"when: {{any: [{', '.join([f'{{all: [{LIKELY}, {LIKELY}, {LIKELY}]}}'] * 11)}]}}",
        Invalid,
        "rules.0.when",
        26,
        "at most 32",
    ),
    (
        f"when: {LIKELY}",
        f"when: {{all: [{LIKELY}, {{not: {LIKELY}}}]}}",
        Invalid,
        "rules.0.when",
        26,
        "No scores at all",
    ),
    ("{action: annotate}", "{action: anotate}", Invalid, "rules.1.then.action", 32, "Did you mean `annotate`"),
    ("{action: annotate}", "{action: guide}", Invalid, "rules.1.then.action", 32, "needs `use`"),
    ("{action: annotate}", "{action: refuse, use: [steer]}", Invalid, "rules.1.then.use", 32, "has no effect"),
    ("[steer, search]", "[steer, serch]", Invalid, "rules.0.then.use.1", 27, "Did you mean `search`"),
    ("[steer, search]", "[steer, search, steer]", Invalid, "rules.0.then.use.2", 27, "stands twice"),
    ("[steer, search]", "[search]", Invalid, "guidance.0.id", 14, "would never act"),
    ("default: {action: allow}", "default: {action: refuse}", Invalid, "rules.0.then.action", 27, "never take effect"),
    ("latency_ms: 4000", "latency_ms: 4s", Invalid, "budget.max_added_latency_ms", 35, "milliseconds"),
    ("max_added_latency_ms", "max_latency_ms", Invalid, "budget.max_latency_ms", 35, "`max_added_latency_ms`"),
    ("exceeded: refuse", "exceeded: fallback", Invalid, "budget.on_exceeded", 36, "`fallback` list"),
    ("exceeded: refuse", "exceeded: refuse\n  fallback: [steer]", Invalid, "budget.fallback", 37, "no effect"),
    ("strategy: buffer", "strategy: window", Invalid, "streaming.strategy", 37, "`buffer`"),
    ('"No."', '""', Invalid, "refusal.template", 38, "at least 1"),
    ('"No."', '"\\ud800"', Syntax, "refusal.template", 38, "not a Unicode character"),
    ("audit: refuse", "audit: allow", Invalid, "failure.audit", 39, "To loosen it"),
    ("audit: refuse", "audit: {action: allow}", Invalid, "failure.audit.reason", 39, "missing"),
    ("audit: refuse", f"audit: {LOOSE}", Invalid, "failure.audit.expires", 39, "has expired"),
    (
        "audit: refuse",
        f"audit: {LOOSE.replace('shadow deployment', 'soon')}",
        Invalid,
        "failure.audit.reason",
        39,
        "10",
    ),
    ("audit: refuse", f"audit: {LOOSE.replace('2026-11-21', 'soon')}", Invalid, "failure.audit.expires", 39, "date"),
    ("prompt: refuse", f"prompt: {LOOSE}", Invalid, "unrecognised_prompt.expires", 40, "has expired"),
    ("disclosure: code", "disclosure: [code]", Invalid, "disclosure", 41, "`category`"),
    ("metadata:", "metadata: &anchor", Syntax, "metadata", 3, "anchor &anchor"),
    ("name: example", "name: *example", Syntax, "metadata.name", 4, "alias *example"),
    ("name: example", "name: !!str example", Syntax, "metadata.name", 4, "tag"),
    ("name: example", "name: !python/name:os.system x", Syntax, "metadata.name", 4, "tag"),
    ("name: example", "<<: {}", Syntax, "metadata", 4, "merge key"),
    ("name: example", "1: example", Syntax, "metadata", 4, "not text"),
    ("name: example", "true: example", Syntax, "metadata", 4, "not text"),
    ("name: example", "? [a]\n  : example", Syntax, "metadata", 4, "not a list or a mapping"),
    ("mode: enforce", "---\nmode: enforce", Syntax, "", 6, "one document"),
    ("mode: enforce", "\tmode: enforce", Syntax, "", 6, "cannot start any token"),
    ("mode: enforce", "mode: [", Syntax, "", 8, "expected"),
    ("mode: enforce", "mode: \x07", Syntax, "", 6, "not allowed in YAML"),
]


@pytest.mark.parametrize(("old", "new", "kind", "field", "line", "part"), CASES)
def test_malformed_document_names_field_line_and_remedy(
    old: str, new: str, kind: type[PolicyError], field: str, line: int, part: str
) -> None:
    assert old in DOCUMENT
    with pytest.raises(PolicyError) as caught:
        parse_policy(DOCUMENT.replace(old, new, 1), file="example.yaml", today=TODAY)
    assert type(caught.value) is kind, caught.value
    assert isinstance(caught.value.where, Problems)
    places = [(problem.field, problem.position.line if problem.position else None) for problem in caught.value.where]
    assert (field, line) in places, caught.value
    assert part.lower() in str(caught.value).lower()
    assert f"example.yaml:{line}:" in str(caught.value)


def test_the_document_of_the_table_is_valid() -> None:
    policy = parse_policy(DOCUMENT, file="example.yaml", today=TODAY)
    assert policy.guidance[1].id == "search"


def test_several_problems_are_reported_together_in_the_order_of_the_file() -> None:
    text = DOCUMENT.replace("coefficient: 1.0", "coefficient: 9").replace("mode: enforce", "mode: off")
    with pytest.raises(PolicyValidationError) as caught:
        parse_policy(text.replace("keep: 2", "kept: 2"), file="example.yaml", today=TODAY)
    assert isinstance(caught.value.where, Problems)
    assert [problem.field for problem in caught.value.where] == ["mode", "guidance.0.coefficient", "guidance.1.kept"]
    assert "3 problems" in caught.value.summary


def test_several_forbidden_constructs_are_reported_together() -> None:
    text = DOCUMENT.replace("metadata:", "metadata: &a").replace("mode: enforce", "mode: !x enforce")
    with pytest.raises(PolicySyntaxError) as caught:
        parse_policy(text, file="example.yaml", today=TODAY)
    assert isinstance(caught.value.where, Problems)
    assert [problem.field for problem in caught.value.where] == ["metadata", "mode"]


def test_a_loosening_is_accepted_on_its_last_day() -> None:
    text = DOCUMENT.replace("audit: refuse", f"audit: {LOOSE}")
    policy = parse_policy(text, file="example.yaml", today=date(2026, 11, 21))
    assert policy.document()["failure"]["audit"]["expires"] == "2026-11-21"
