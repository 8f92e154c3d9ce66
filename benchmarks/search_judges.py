"""The independent judges of `search.py`: trained on rows that no cost model may use, and on none of the measured prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from prompt_groups import Chat
from search_sets import TEMPERATURE, begun_in_turn, texts_of

from steerguard.evaluate.judge import HarmJudge, train_judge_on
from steerguard.evaluate.labelled_answers import read_labelled_answers
from steerguard.evaluate.labelled_split import judge_rows
from steerguard.evaluate.sentence_judge import train_sentence_judge_on
from steerguard.models.chat import render
from steerguard.models.sentence_encoder import packaged_encoder

HARMLESS = 192
"""CAST harmless train: the first prompts whose plain answers teach the judges what a harmless answer of this model is."""
SEED = 9
TEXTS = 512
"""Texts that are encoded before what is known is kept."""

Floats = npt.NDArray[np.float32]


class KeptEncoder:
    """A sentence encoder whose vectors are kept in a folder: each text is encoded once, also over several runs.

    Args:
        folder: where they are kept, by the digest of the text.
    """

    def __init__(self, folder: Path) -> None:
        self._encoder = packaged_encoder()
        self.identity = self._encoder.identity
        name = hashlib.sha256(self.identity.encode()).hexdigest()[:12]
        self._file = folder / f"sentences.{name}.npz"
        self._found: dict[str, Floats] = {}
        if self._file.is_file():
            with np.load(self._file) as kept:
                self._found = dict(zip(kept["digests"].tolist(), kept["vectors"], strict=True))

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return one unit vector per text, float32 `[texts, width]`."""
        digests = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        new = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in self._found}
        for start in range(0, len(new), TEXTS):
            part = dict(islice(new.items(), start, start + TEXTS))
            self._found.update(zip(part, self._encoder.encode(list(part.values())), strict=True))
            self._file.parent.mkdir(parents=True, exist_ok=True)
            staged = self._file.with_suffix(".part.npz")
            np.savez(staged, digests=np.array(list(self._found)), vectors=np.stack(list(self._found.values())))
            staged.replace(self._file)
        return np.stack([self._found[digest] for digest in digests])


def trained_judges(data: Path, harmless: Sequence[str], folder: Path) -> dict[str, HarmJudge]:
    """Return the judge of words, and the judge of words and sentences, on the same rows.

    Args:
        data: folder with the public sets.
        harmless: harmless answers of the model that is judged.
        folder: where vectors of sentences are kept.
    """
    labelled = read_labelled_answers(data / "gptfuzz" / "responses_labeled" / "train.csv")
    own = labelled.chosen(judge_rows(labelled.questions))
    return {
        "words": train_judge_on(own, harmless, seed=0),
        "sentences": train_sentence_judge_on(own, harmless, KeptEncoder(folder), seed=0),
    }


def harmless_answers(model: Any, tokenizer: Any, data: Path, *, tokens: int, folder: Path) -> list[str]:
    """Return plain answers to harmless prompts, every other one begun by force, with its beginning; kept in the folder.

    Args:
        model: unwrapped.
        tokenizer: its tokenizer.
        data: folder with the public sets.
        tokens: most new tokens of an answer.
        folder: where they are kept.
    """
    file = folder / "harmless_answers.json"
    if file.is_file():
        kept: list[str] = json.loads(file.read_text(encoding="utf-8"))
        return kept
    rows = json.loads((data / "cast" / "condition_harmful.json").read_text(encoding="utf-8"))["train"][:HARMLESS]
    chats: list[Chat] = [[{"role": "user", "content": row["harmless"]}] for row in rows]
    begun = begun_in_turn(chats)
    torch.manual_seed(SEED)
    found: list[str] = []
    for start in range(0, len(chats), 32):
        part = slice(start, start + 32)
        inputs = render(tokenizer, chats[part], prefills=begun[part])
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=tokens, do_sample=True, temperature=TEMPERATURE)
        texts = texts_of(tokenizer, ids[:, inputs["input_ids"].shape[1] :].tolist())
        found += [(beginning or "") + text for beginning, text in zip(begun[part], texts, strict=True)]
    found = [text for text in found if text.strip()]
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found), encoding="utf-8")
    return found


def described(judge: HarmJudge) -> dict[str, Any]:
    """Return what a judge is and how it does out of fold, as the report holds it."""
    quality = {
        name: f"{value:.4f}" if isinstance(value, float) else value for name, value in asdict(judge.quality).items()
    }
    return {"identity": judge.identity, "threshold": f"{judge.threshold:.6f}", "out_of_fold": quality}
