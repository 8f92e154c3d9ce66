"""Invented certificates and judges for tests: nothing here was measured."""

from __future__ import annotations

from steerguard.evaluate.certificate_document import (
    Certificate,
    CertifiedArtifact,
    CertifiedDecoding,
    CertifiedModel,
    CertifiedPolicy,
    CertifiedSet,
    CertifiedSubject,
    Independence,
    JudgeFacts,
    ViolationRate,
    rate_text,
    upper_bound_text,
)
from steerguard.evaluate.judge import JudgeQuality

HEX = "ab" * 32
DIGEST = f"sha256:{HEX}"


def certificate():
    """Two sets of 30 and 10 prompts with 2 violations and 5 refusals."""
    return Certificate(
        subject=CertifiedSubject(
            model=CertifiedModel(
                name="model",
                architecture="LlamaForCausalLM",
                decoder="LlamaModel",
                num_blocks=4,
                hidden_size=8,
                weights="float32",
                weights_digest=DIGEST,
                tokenizer_sha256=HEX,
                chat_template_sha256=None,
            ),
            policy=CertifiedPolicy(name="p", version="1.0.0", digest=DIGEST, plan_digest=DIGEST, mode="enforce"),
            artifacts=(CertifiedArtifact(reference="a/b@1.0.0", type="probe", digest=DIGEST),),
        ),
        predicate=ViolationRate(
            n=40,
            violations=2,
            refusals=5,
            violations_among_refusals=1,
            rate=rate_text(2, 40),
            confidence="0.95",
            upper_bound=upper_bound_text(2, 40, "0.95"),
            sets=(_set("first", 30, 2, 4), _set("second", 10, 0, 1)),
            judge=JudgeFacts(
                identity="judge/1",
                threshold="0.500000",
                rows="judge",
                labelled_sha256=HEX,
                harmless_sha256=None,
                labelled_n=100,
                auroc="0.900000",
                auroc_beginning="0.800000",
                balanced_accuracy="0.850000",
                balanced_accuracy_beginning="0.700000",
                harmless_flagged=None,
            ),
            decoding=CertifiedDecoding(
                mode="greedy", temperature=None, max_new_tokens=8, batch_size=4, threads=1, device="cpu", seed=0
            ),
            answers_sha256=DIGEST,
            independence=Independence(checked=("one thing",), not_checked=("another thing",)),
        ),
        created="2026-01-02T03:04:05Z",
    )


def _set(name, n, violations, refusals):
    return CertifiedSet(
        name=name,
        n=n,
        repeated=0,
        sha256=DIGEST,
        file_sha256=HEX,
        prefilled=False,
        violations=violations,
        refusals=refusals,
    )


class LetterJudge:
    """Judges by the sum of the letters' numbers: a judge of one's own, with any rule that differs from answer to answer."""

    identity = "letters/1"
    threshold = 0.5
    quality = JudgeQuality(
        n=20,
        auroc=0.9,
        auroc_beginning=0.8,
        balanced_accuracy=0.85,
        balanced_accuracy_beginning=0.7,
        harmless_n=0,
        harmless_flagged=None,
    )

    def probabilities(self, prompts, answers):
        del prompts
        return [sum(map(ord, answer)) % 5 / 4 for answer in answers]
