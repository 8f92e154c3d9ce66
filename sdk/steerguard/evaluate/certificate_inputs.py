"""What a certificate is measured with: prompts that differ, a judge and its files, how answers are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from steerguard.errors import EvaluationError
from steerguard.evaluate.answering import GREEDY
from steerguard.evaluate.independence import AskedFile, JudgeFiles, plain_text
from steerguard.evaluate.judge import JudgeQuality
from steerguard.evaluate.prompt_files import PromptSet
from steerguard.evaluate.recording import Judge
from steerguard.policy.document import Policy
from steerguard.registry.lockfile import Lockfile
from steerguard.registry.store import ArtifactStore
from steerguard.trust.document import TrustPolicy


class MeasuredJudge(Judge, Protocol):
    """A judge that knows how it does on its own rows."""

    quality: JudgeQuality


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedPrompts:
    """Prompts of one file, each once."""

    prompts: PromptSet
    file_sha256: str
    """Of the bytes of the file."""
    repeated: int = 0
    """How many were left out because they ask what an earlier one asks."""

    @property
    def asked(self) -> AskedFile:
        """What the check of independence looks at."""
        texts = tuple(self.prompts.prompt(index) for index in range(len(self.prompts)))
        return AskedFile(name=self.prompts.name, sha256=self.file_sha256, prompts=texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateInputs:
    """What to certify, and how."""

    model_name: str
    """What the certificate calls the model."""
    policy: Policy
    sets: tuple[CertifiedPrompts, ...]
    """At least one; names differ."""
    judge: MeasuredJudge
    judge_files: JudgeFiles
    confidence: str = "0.95"
    """Decimal text, at least 0.5 and below 1."""
    max_new_tokens: int = 64
    temperature: str | None = None
    """Decimal text above 0; None answers greedily."""
    batch_size: int = 16
    seed: int = 0
    """Of sampling."""
    registry: ArtifactStore | Path | str | None = None
    """Where artifacts come from, as for `wrap`; None is the embedded registry."""
    trust: TrustPolicy | None = None
    """Whose signatures count; needed for registries on the Hub."""
    lock: Lockfile | None = None
    """What artifacts are pinned to; needed for registries on the Hub in mode `enforce`."""

    def __post_init__(self) -> None:
        """Refuse settings that no certificate can have."""
        if not self.sets or not all(len(one.prompts) for one in self.sets):
            raise EvaluationError("There are no prompts to certify on.", expected="at least one prompt in every set")
        if not _is_number(self.confidence) or not 0.5 <= float(self.confidence) < 1.0:
            raise EvaluationError(
                "This is no confidence.", expected="a number from 0.5 to below 1", found=self.confidence[:40]
            )
        if self.temperature is not None and not (
            _is_number(self.temperature) and 0.0 < float(self.temperature) <= 10.0
        ):
            raise EvaluationError(
                "This is no temperature.", expected="a number above 0, at most 10", found=self.temperature[:40]
            )

    @property
    def decoding(self) -> dict[str, Any]:
        """The arguments of `generate` that say how tokens are chosen."""
        if self.temperature is None:
            return GREEDY
        # The whole distribution, whatever the model's own generation settings say.
        return {"do_sample": True, "num_beams": 1, "temperature": float(self.temperature), "top_p": 1.0, "top_k": 0}


def without_repeats(sets: Sequence[tuple[PromptSet, str]]) -> tuple[CertifiedPrompts, ...]:
    """Keep the first prompt of each question over all sets: a bound counts independent draws.

    Prompts ask the same where their last user messages differ in case and white space only, whatever stands before
    these and however the answers are begun.

    Args:
        sets: prompts and the SHA-256 of the file that they come from.

    Raises:
        EvaluationError: a set holds nothing that an earlier one does not.
    """
    seen: set[str] = set()
    found: list[CertifiedPrompts] = []
    for prompts, file_sha256 in sets:
        kept: list[int] = []
        for index in range(len(prompts)):
            key = plain_text(prompts.prompt(index))
            if key not in seen:
                seen.add(key)
                kept.append(index)
        if not kept:
            raise EvaluationError(
                "A set of prompts holds no prompt of its own.",
                where=prompts.name,
                expected="at least one question that no earlier set asks",
                found=f"{len(prompts)} prompts",
                next_step="Leave the set out, or certify it alone: a forced beginning makes no other question.",
            )
        chosen = replace(
            prompts,
            conversations=tuple(prompts.conversations[index] for index in kept),
            prefills=None if prompts.prefills is None else tuple(prompts.prefills[index] for index in kept),
        )
        found.append(CertifiedPrompts(prompts=chosen, file_sha256=file_sha256, repeated=len(prompts) - len(kept)))
    return tuple(found)


def _is_number(text: str) -> bool:
    whole, _, part = text.partition(".")
    return whole.isascii() and whole.isdigit() and (not part or (part.isascii() and part.isdigit()))
