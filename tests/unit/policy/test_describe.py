from __future__ import annotations

from pathlib import Path

from steerguard.policy.describe import describe
from steerguard.policy.load import load_policy

FULL = Path(__file__).parents[2] / "documents" / "full.yaml"


def test_every_part_of_the_full_document_is_told() -> None:
    text = "\n".join(describe(load_policy(FULL)))
    assert text.startswith("Nothing is changed")
    assert (
        "When the score of harmful_intent is at least what 0.1% of benign prompts reach, the request is refused" in text
    )
    assert "is at least -0.25 and is below 0.75, the answer is given unchanged and marked (rule raw)" in text
    assert (
        "When (the score of harmful_intent is at least what 5% of benign prompts reach and (it is not true that (the "
        "score of topic is at least what 10% of benign prompts reach and is below what 1% of benign prompts reach))) or "
        "the score of second_opinion is at least 2.5, the request is refused (rule composed)." in text
    )
    assert "For every request" in text
    assert "guided by steer and search" in text
    assert "falls back to steer_gently" in text
    assert "allowed until 2099-01-31, because: shadow deployment without users" in text


def test_a_shipped_policy_reads_as_sentences() -> None:
    for sentence in describe(load_policy("refuse-only")):
        assert sentence[0].isupper()
        assert sentence.rstrip('"').endswith(".")
