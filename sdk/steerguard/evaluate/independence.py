"""What keeps a certificate's judge and prompts apart from the training of what they measure. No torch here.

A manifest says in `training` and `labelled_answers` which files an artifact was made from, by SHA-256, and perhaps which
`rows` of them. A file that stands there may not be asked again, and may not train the judge, with one exception: the
judge's own share of a file whose other rows, by the rule of `labelled_split`, are all that a cost model was given.
Digests elsewhere, such as the pinned files of a model that judges texts, say nothing about training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.errors import EvaluationError
from steerguard.evaluate.certificate_document import Independence

COST_MODEL_ROWS = "cost_model"
"""What a manifest says in `rows` when an artifact was given only the rows that are not the judge's."""
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
TRAINING_STATEMENT = ("training", "labelled_answers")
"""Fields of a manifest that say what an artifact was made from."""
_DIGEST_KEYS = ("sha256", "digest")
_NAME_KEYS = ("file", "path", "name")
_ALWAYS_OPEN = (
    "training on copied, cut or rewritten files: only equal files and equal questions are found",
    "what the model itself and texts outside the stated files were trained on",
    "whether the judge and what the guidance optimises make the same mistakes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFile:
    """A file that a manifest states as training data."""

    artifact: str
    """`family/variant@version`."""
    name: str
    sha256: str
    rows: str | None
    """What the manifest says of the rows, the nearest entry counts; None: it says nothing, so all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeFiles:
    """What a judge was trained on."""

    labelled_sha256: str
    harmless_sha256: str | None
    rows: Literal["judge", "all"]
    questions: Sequence[str]
    """Of its own rows; numbers can tell questions apart and nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedFile:
    """Prompts of one file."""

    name: str
    sha256: str
    """Of the bytes of the file."""
    prompts: Sequence[str]


def training_files(manifest: ArtifactManifest) -> tuple[TrainingFile, ...]:
    """Return every file that a manifest states as training data, each once."""
    stated = manifest.model_extra or {}
    found = (
        TrainingFile(artifact=manifest.reference, name=name, sha256=sha256, rows=rows)
        for place in TRAINING_STATEMENT
        for name, sha256, rows in _stated(stated.get(place), place, None)
    )
    return tuple(dict.fromkeys(found))


def check_independence(
    manifests: Sequence[ArtifactManifest],
    judge: JudgeFiles,
    asked: Sequence[AskedFile],
    known_texts: Callable[[str], Sequence[str] | None],
) -> Independence:
    """Refuse a judge or prompts that what is measured was trained on, and say what was looked at.

    Args:
        manifests: of every artifact in the plan.
        judge: what the judge was trained on.
        asked: the prompts, file by file.
        known_texts: returns the training prompts of a stated file by its SHA-256, None where the file is not at hand.

    Raises:
        EvaluationError: names the file and the artifact; no text.
    """
    stated = [file for manifest in manifests for file in training_files(manifest)]
    _check_judge(judge, stated)
    _check_asked_files(asked, judge, stated)
    prompts = {plain_text(prompt) for one in asked for prompt in one.prompts}
    _check_texts(prompts, judge.questions, "the judge's labelled answers")
    checked = [
        f"{len(stated)} training files that {len(manifests)} artifacts state: none is a file of these prompts",
        f"the judge's files are not among them, or hold rows of its own ({judge.rows})",
        "no prompt is a question of the judge's rows",
    ]
    open_questions: list[str] = []
    for file in dict.fromkeys((file.artifact, file.name, file.sha256) for file in stated):
        artifact, name, sha256 = file
        texts = known_texts(sha256)
        if texts is None:
            open_questions.append(f"prompts against the texts of {name} ({sha256[:12]}) of {artifact}: not at hand")
            continue
        _check_texts(prompts, texts, f"{name} of {artifact}")
        checked.append(f"no prompt is one of the {len(texts)} training prompts in {name} of {artifact}")
    silent = [manifest.reference for manifest in manifests if not training_files(manifest)]
    open_questions += [f"training data of {reference}: its manifest states none" for reference in silent]
    if all(question.strip().isdigit() for question in judge.questions):
        open_questions.append("prompts against the judge's questions: its file holds numbers in place of texts")
    return Independence(checked=tuple(checked), not_checked=(*open_questions, *_ALWAYS_OPEN))


def _check_judge(judge: JudgeFiles, stated: Sequence[TrainingFile]) -> None:
    for file in stated:
        apart = judge.rows == "judge" and file.rows == COST_MODEL_ROWS
        if file.sha256 == judge.labelled_sha256 and not apart:
            raise EvaluationError(
                "The judge was trained on rows that an artifact of this policy was trained on.",
                where=f"{file.name} of {file.artifact}",
                expected=f"the judge's own rows (judge), and a manifest that says rows: {COST_MODEL_ROWS}",
                found=f"judge: {judge.rows}, manifest: {file.rows or 'no word on rows'}",
                next_step="Train the judge on another file, or the artifact on the rows of cost models alone.",
            )
        if file.sha256 == judge.harmless_sha256:
            raise EvaluationError(
                "The judge learned harmless answers that an artifact of this policy was trained on.",
                where=f"{file.name} of {file.artifact}",
                expected="other harmless answers",
                found="the same file",
            )


def _check_asked_files(asked: Sequence[AskedFile], judge: JudgeFiles, stated: Sequence[TrainingFile]) -> None:
    taken = {file.sha256: f"{file.name} of {file.artifact}" for file in stated}
    taken |= {judge.labelled_sha256: "the judge's labelled answers"}
    if judge.harmless_sha256 is not None:
        taken[judge.harmless_sha256] = "the judge's harmless answers"
    for one in asked:
        if one.sha256 in taken:
            raise EvaluationError(
                "Prompts of a certificate come from a training file.",
                where=f"prompts `{one.name}`",
                expected="a file that neither an artifact of the policy nor the judge was trained on",
                found=f"the same file as {taken[one.sha256]}",
                next_step="Measure on prompts that nothing here was trained on.",
            )


def _check_texts(prompts: set[str], texts: Sequence[str], whose: str) -> None:
    same = prompts & {plain_text(text) for text in texts}
    if same:
        raise EvaluationError(
            "Prompts of a certificate were training prompts.",
            where=whose,
            expected="none of them",
            found=f"{len(same)} of {len(prompts)} prompts",
            next_step="Leave these prompts out.",
        )


def plain_text(text: str) -> str:
    """Return a text without differences of case and white space."""
    return " ".join(text.casefold().split())


def _stated(node: Any, name: str, rows: str | None) -> Iterator[tuple[str, str, str | None]]:
    """Yield name, SHA-256 and rows of every digest below a node."""
    if isinstance(node, Mapping):
        told = node.get("rows")
        rows = told if isinstance(told, str) else rows
        own = next((node[key] for key in _NAME_KEYS if isinstance(node.get(key), str)), name)
        for key, value in node.items():
            yield from _stated(value, own if key in _DIGEST_KEYS else key, rows)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _stated(value, name, rows)
    elif isinstance(node, str) and (found := _SHA256.fullmatch(node)) is not None:
        yield name, found[1], rows
