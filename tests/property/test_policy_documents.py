"""A policy survives the way through its document, in JSON and in YAML, and no text makes the loader fall over."""

from __future__ import annotations

import json
from datetime import date

import yaml
from hypothesis import given
from hypothesis import strategies as st

from steerguard.errors import PolicyError
from steerguard.policy.load import parse_policy
from steerguard.policy.numbers import decimal_text
from steerguard.policy.rule_documents import MAX_LEVELS
from steerguard.policy.yaml_subset import read_document

TODAY = date(2026, 11, 22)

text = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=40)
identifiers = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
rates = st.floats(min_value=1e-6, max_value=0.999)
loosening = st.fixed_dictionaries(
    {
        "action": st.just("allow"),
        "reason": text.map(lambda words: f"because of {words}"),
        "expires": st.dates(TODAY, date(2099, 12, 31)).map(date.isoformat),
    }
)
handling = st.just("refuse") | loosening
steering = st.fixed_dictionaries(
    {"method": st.just("inferaligner"), "artifact": st.just("inferaligner@^1")},
    optional={
        "coefficient": st.floats(0, 8) | st.integers(0, 8),
        "positions": st.sampled_from(["all", "last_prompt_token_and_decode", "decode", "prefill"]),
        "gate": st.sampled_from(["verdict", "per_block"]),
        "blocks": st.sets(st.integers(0, 60), min_size=1, max_size=5).map(sorted),
    },
)
bounds = st.builds(lambda value: {"value": value}, st.floats(-1e6, 1e6)) | st.builds(lambda fpr: {"fpr": fpr}, rates)


common = {"start": st.sampled_from(["lazy", "always"]), "final_check": st.sampled_from(["cost_model", "none"])}
search = (
    st.fixed_dictionaries(
        {"method": st.just("inference_guard"), "critic": st.just("harm-cost@^1"), "candidates": st.integers(2, 512)},
        optional={"retries": st.integers(0, 16), "cost_budget": bounds, "discount": st.floats(0.01, 1.0), **common},
    )
    | st.fixed_dictionaries(
        {"method": st.just("best_of_n"), "critic": st.just("harm-cost@^1")},
        optional={"rule": st.sampled_from(["plain", "lagrangian", "augmented"]), "weight": st.floats(0, 10), **common},
    )
    | st.fixed_dictionaries(
        {"method": st.just("controlled_decoding"), "critic": st.just("harm-cost@^1")},
        optional={"block_tokens": st.integers(1, 512), "temperature": st.floats(0.1, 5.0), **common},
    )
    | st.fixed_dictionaries(
        {"method": st.just("value_filter"), "critic": st.just("harm-cost@^1"), "threshold": bounds}, optional=common
    )
    | st.fixed_dictionaries(
        {"method": st.just("guardian"), "critic": st.just("guardian@^1")},
        optional={"check": st.sampled_from([["output"], ["input", "output"], ["output", "input"]])},
    )
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, object]:
    steps = {name: draw(steering | search) for name in draw(st.lists(identifiers, unique=True, max_size=3))}
    guiding = [{"action": "guide", "use": list(steps)}] if steps else []
    outcomes = st.sampled_from([{"action": "annotate"}, {"action": "refuse"}, *guiding])
    compared = st.builds(lambda end: {"detector": "d", "score": {"at_least": end}}, bounds)
    # No `not`: drawn freely it can exclude what stands beside it, and such a document is refused.
    composed = st.recursive(
        compared,
        lambda inner: st.builds(
            lambda kind, parts: {kind: parts}, st.sampled_from(["any", "all"]), st.lists(inner, min_size=1, max_size=3)
        ),
        max_leaves=4,
    ).filter(lambda condition: json.dumps(condition).count("[") <= MAX_LEVELS)
    conditions = st.just({"always": True}) | composed | st.builds(lambda inner: {"not": inner}, compared)
    rules = [
        {"id": name, "when": draw(conditions), "then": draw(outcomes)}
        for name in draw(st.lists(identifiers, unique=True, max_size=4))
    ]
    if guiding:
        taken = {rule["id"] for rule in rules}
        rules.append(
            {
                "id": next(name for name in ("r1", "r2", "r3", "r4", "r5") if name not in taken),
                "when": {"always": True},
                "then": guiding[0],
            }
        )
    return {
        "apiVersion": "steerguard/v1alpha1",
        "kind": "GuidancePolicy",
        "metadata": {"name": "drawn", "version": "1.0.0", "description": draw(text)},
        "mode": draw(st.sampled_from(["enforce", "monitor"])),
        "detectors": [{"id": "d", "type": "linear_probe", "artifact": "harmful-intent@^1"}],
        "guidance": [{"id": name, **step} for name, step in steps.items()],
        "rules": rules,
        "unrecognised_prompt": draw(handling | st.just("gate_every_turn")),
        "failure": draw(st.fixed_dictionaries({}, optional={"detector": handling, "audit": handling})),
        "refusal": {"template": draw(text.filter(bool))},
        "budget": {"max_extra_forward_tokens": draw(st.integers(0, 10**9))},
    }


@given(documents())
def test_document_and_policy_round_trip(document: dict[str, object]) -> None:
    policy = parse_policy(json.dumps(document), file="x.json", today=TODAY)
    as_json = json.dumps(policy.document())
    as_yaml = yaml.safe_dump(policy.document(), allow_unicode=True)
    for form, file in ((as_json, "x.json"), (as_json, "x.yaml"), (as_yaml, "x.yaml")):
        again = parse_policy(form, file=file, today=TODAY)
        assert again == policy
        assert again.digest == policy.digest
        assert again.document() == policy.document()


def outcome_of(written: str, file: str) -> str:
    """Return the message of the policy error that a text gives, or the file's name if it is a policy."""
    try:
        parse_policy(written, file=file, today=TODAY)
    except PolicyError as error:
        return str(error)
    return file


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.sampled_from([None, 2, "\t"]))
def test_json_documents_are_read_as_the_json_module_reads_them(value: object, indent: int | str | None) -> None:
    encoded = json.dumps(value, indent=indent)
    assert read_document(encoded, file="x.json").data == json.loads(encoded)


@given(st.text(max_size=200) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@\n\t ,?0.e<", max_size=60))
def test_any_text_gives_a_policy_or_a_policy_error(written: str) -> None:
    for file in ("x.yaml", "x.json"):
        assert file in outcome_of(written, file)


@given(documents(), st.data())
def test_any_damage_to_a_document_gives_a_policy_or_a_policy_error(
    document: dict[str, object], data: st.DataObject
) -> None:
    damaged = json.loads(json.dumps(document))
    target = damaged
    while isinstance(target, (dict, list)) and target:
        keys = list(target) if isinstance(target, dict) else list(range(len(target)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(target[key], (dict, list)) or not target[key] or data.draw(st.booleans()):
            target[key] = data.draw(json_values)
            break
        target = target[key]
    assert "x.json" in outcome_of(json.dumps(damaged), "x.json")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimal_text_reads_back_as_the_same_number(number: float) -> None:
    assert float(decimal_text(number)) == number
    assert "e" not in decimal_text(number)
