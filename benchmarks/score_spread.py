"""Measure how far the score of one prompt moves with the way it is run, and how many prompts lie that near to a threshold.

    python benchmarks/score_spread.py --out benchmarks/results/score_spread.json [--data <folder of public data sets>]

The packaged model reads the same prompts alone, in batches of 8 and 32, padded on either side, without a cache, in chunks,
in a check and as a scored pass, in each type of weights: with the shipped linear probe, and with cosine conditions whose
directions are the weights of that probe. Random models with random probes are read in the same ways.
The tolerances of `steerguard.plan.score_tolerance` must be at least twice the largest difference on the packaged model.

The share of prompts within the tolerance of a shipped threshold is counted on the benign scores of the calibration and,
with `--data`, on sets of `prompt_groups.py`, the project's own held-out prompts among them. The result holds figures,
never texts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from prompt_groups import Chat, PromptGroup, benign_groups, harmful_groups
from safetensors.torch import load_file

import steerguard
from steerguard.artifacts.calibration import parse_calibration
from steerguard.artifacts.codec import write_artifact
from steerguard.artifacts.fingerprint import PROMPTS
from steerguard.artifacts.probe_params import COSINE_FEATURE, COSINE_METHOD
from steerguard.audit.log import AuditLog
from steerguard.build.contrast import prompt_file
from steerguard.content import registry_directory
from steerguard.detect.probe import PROBE_FILE
from steerguard.evaluate.proportions import Proportion
from steerguard.models.capture import measure_fingerprint
from steerguard.models.chat import render
from steerguard.models.loading import WEIGHT_TYPES
from steerguard.models.packaged import load_packaged_smollm2
from steerguard.plan.plan import Plan
from steerguard.plan.planned_rules import raised
from steerguard.policy.load import parse_policy
from steerguard.policy.rules import near
from steerguard.registry.local import LocalDirectory, create_registry
from steerguard.testing import MemorySink, tiny_model, tiny_registry, tiny_tokenizer
from steerguard.testing.trial import CONTENTS

RATES = ("0.05", "0.1")
"""Rates of the shipped policies."""
TINY = ("llama", "qwen2", "gemma", "gpt2", "phi", "gpt_neox", "qwen3", "mixtral")
TYPES = {"harmful-intent": "linear_probe", "condition-tanh": "cosine", "condition-direction": "cosine"}
"""Families of the registry that is measured with, and their type."""
COUNTED = (
    "cast_harmless",
    "truthfulqa",
    "gsm8k",
    "own_ordinary",
    "own_scary",
    "advbench",
    "cast_harmful",
    "own_harmful",
)
"""Sets of `prompt_groups.py` whose scores are counted."""
PROMPTS_READ = {"bfloat16": 32, "float32": 16, "float16": 8}
"""Prompts that are run in every way, by type of weights: few where a CPU is slow."""
COUNTED_IN = "bfloat16"
"""Type of weights whose scores are counted: that of the shipped calibration."""
CHUNK = 16
POLICY = """\
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {name: spread, version: "1.0.0", description: Reads scores., owner: benchmarks}
target: {modalities: [text]}
detectors: [DETECTORS]
default: {action: allow}
"""

Scores = dict[str, list[float]]
"""By detector, one per prompt."""


def main() -> None:
    """Measure, print and write the report: one type of weights after the other, those of earlier runs are kept."""
    options = _options()
    torch.set_num_threads(options.threads)
    kept = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    report = Report(options.out, kept.get("spreads", []), kept.get("shares", []))
    for weights in options.weights:
        if "tiny" in options.models:
            for architecture in TINY:
                report.add(architecture, weights, tiny(architecture, weights))
        if "packaged" in options.models:
            packaged(weights, report, options)


def packaged(weights: str, report: Report, options: argparse.Namespace) -> None:
    """Measure the packaged model in one type of weights."""
    model, tokenizer = load_packaged_smollm2(WEIGHT_TYPES[weights])
    with tempfile.TemporaryDirectory(prefix="steerguard-spread-") as folder:
        registry = packaged_registry(Path(folder) / "registry", model, tokenizer)
        reader = Reader(model, tokenizer, registry, TYPES)
        chats = _prompts(PROMPTS_READ[weights])
        found = {way: scores(reader) for way, scores in ways(chats).items() if _say(weights, way)}
        report.add("packaged:smollm2", weights, spread(found, reader.plan))
        if weights == COUNTED_IN:
            report.count(near_thresholds(reader, options))


@dataclass(slots=True)
class Report:
    """The result file; what is not measured anew stays as it was."""

    file: Path
    spreads: list[dict[str, Any]]
    shares: list[dict[str, Any]]

    def add(self, model: str, weights: str, found: list[dict[str, Any]]) -> None:
        """Put the spreads of a model in the place of earlier ones."""
        for one in found:
            print(
                f"{model:16s} {weights:8s} {one['detector']:20s} largest {one['largest']} of a tolerance of "
                f"{one['tolerance']}, between {' and '.join(one['between'])}; scores deviate by {one['deviation']}",
                flush=True,
            )
        others = [one for one in self.spreads if (one["model"], one["weights"]) != (model, weights)]
        models, types = ("packaged:smollm2", *TINY), list(PROMPTS_READ)
        self.spreads = sorted(
            [*others, *({"model": model, "weights": weights, **one} for one in found)],
            key=lambda one: (models.index(one["model"]), types.index(one["weights"])),
        )
        self._write()

    def count(self, shares: list[dict[str, Any]]) -> None:
        """Put these shares in the place of earlier ones."""
        self.shares = shares
        self._write()

    def _write(self) -> None:
        command = "python benchmarks/score_spread.py --data <folder> --out benchmarks/results/score_spread.json"
        document = {"command": command, "chunk": CHUNK, "spreads": self.spreads, "shares": self.shares}
        self.file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


class Reader:
    """A model and the detectors that are read from it.

    Attributes:
        plan: the plan of the last reading.
    """

    plan: Plan

    def __init__(self, model: Any, tokenizer: Any, registry: LocalDirectory, types: Mapping[str, str]) -> None:
        self._model, self._tokenizer, self._registry = model, tokenizer, registry
        entries = (
            f'{{id: {name.replace("-", "_")}, type: {kind}, artifact: "{name}@>=1"}}' for name, kind in types.items()
        )
        self._policy = parse_policy(POLICY.replace("DETECTORS", ", ".join(entries)), file="spread.yaml")

    def scores(
        self, chats: Sequence[Chat], run: Callable[[Any, dict[str, Any]], object], *, batch: int, side: Any = "left"
    ) -> Scores:
        """Return what every detector reads for each chat when batches are run in one way."""
        log = AuditLog.open(sink=MemorySink(), content="none")
        model = steerguard.wrap(
            self._model, self._policy, tokenizer=self._tokenizer, mode="monitor", registry=self._registry, audit=log
        )
        self.plan = model.guard.plan
        try:
            with model.guard.collect() as reports:
                for first in range(0, len(chats), batch):
                    inputs = render(self._tokenizer, chats[first : first + batch], padding_side=side)
                    with torch.no_grad():
                        run(model, inputs)
        finally:
            steerguard.unwrap(model)
            log.close()
        found: Scores = {}
        for decision in reports:
            for reading in decision.readings:
                found.setdefault(reading.source, []).append(float("nan") if reading.score is None else reading.score)
        return found


def ways(chats: Sequence[Chat], most: int = 32) -> dict[str, Callable[[Reader], Scores]]:
    """Return every way in which the chats are run."""

    def scored(model: Any, inputs: dict[str, Any]) -> None:
        with model.guard.forward():
            model(**inputs)

    return {
        "alone": lambda reader: reader.scores(chats, _generated(), batch=1),
        "batches of 8": lambda reader: reader.scores(chats, _generated(), batch=8),
        f"batches of {most}": lambda reader: reader.scores(chats, _generated(), batch=most),
        "padding on the right": lambda reader: reader.scores(chats, _generated(), batch=8, side="right"),
        "no cache": lambda reader: reader.scores(chats, _generated(use_cache=False), batch=8),
        "chunks": lambda reader: reader.scores(chats, _generated(prefill_chunk_size=CHUNK), batch=8),
        "alone in chunks": lambda reader: reader.scores(chats, _generated(prefill_chunk_size=CHUNK), batch=1),
        "a scored pass": lambda reader: reader.scores(chats, scored, batch=8),
    }


def spread(found: Mapping[str, Scores], plan: Plan) -> list[dict[str, Any]]:
    """Return per detector the largest difference between two ways of running the same prompt."""
    result = []
    for name in next(iter(found.values())):
        table = torch.tensor([scores[name] for scores in found.values()], dtype=torch.float64)
        gaps = table.amax(dim=0) - table.amin(dim=0)
        row = int(gaps.argmax())
        ends = (int(table[:, row].argmin()), int(table[:, row].argmax()))
        between = [list(found)[end] for end in ends]
        result.append(
            {
                "detector": name,
                "prompts": table.shape[1],
                "largest": f"{float(gaps.max()):.3g}",
                "between": between,
                "median": f"{float(gaps.median()):.3g}",
                "deviation": f"{float(table[0].std()):.3g}",
                "tolerance": f"{plan.tolerances[name]:.3g}",
            }
        )
    return result


def tiny(architecture: Any, weights: str) -> list[dict[str, Any]]:
    """Return the spreads on one random model with random probes."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(architecture, dtype=WEIGHT_TYPES[weights])
    chats: list[Chat] = [[{"role": "user", "content": text}] for text in CONTENTS]
    with tempfile.TemporaryDirectory(prefix="steerguard-spread-") as folder:
        registry = tiny_registry(Path(folder) / "tiny", model, tokenizer)
        reader = Reader(model, tokenizer, registry, {"harmful-intent": "linear_probe", "condition": "cosine"})
        found = {way: scores(reader) for way, scores in ways(chats, most=len(chats)).items()}
    return spread(found, reader.plan)


def packaged_registry(root: Path, model: Any, tokenizer: Any) -> LocalDirectory:
    """Make a registry with the shipped probe and with conditions whose directions are its weights, for any weights."""
    (folder,) = (registry_directory() / "harmful-intent" / "smollm2-135m-instruct").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    calibration = parse_calibration((folder / "calibration.json").read_bytes())
    probe = load_file(folder / PROBE_FILE)
    (*_, entry) = manifest["fingerprints"]
    directions = measure_fingerprint(model, tokenizer, entry["blocks"], PROMPTS)
    entry = {**entry, "weights": str(model.dtype).removeprefix("torch."), "file": "weights/fingerprint.safetensors"}
    features = [one for one in manifest["requires"]["features"] if one != "probe.linear"]
    registry = create_registry(root)
    for family, kind in TYPES.items():
        fields = {name: value for name, value in manifest.items() if name != "files"}
        fields |= {"family": family, "method": kind, "fingerprints": [entry]}
        tensors = dict(probe)
        if kind == COSINE_METHOD:
            similarity = "tanh_projection" if family.endswith("tanh") else "direction"
            fields["requires"] = {**manifest["requires"], "features": [COSINE_FEATURE, *features]}
            fields["params"] = {**manifest["params"], "similarity": similarity}
            tensors = {"direction": probe["weight"]}
        files = {PROBE_FILE: tensors, entry["file"]: {"directions": directions}}
        write_artifact(root.parent / family, fields, files, calibration, None, "# For measuring\n", None)
        registry.add(root.parent / family)
    return registry


def near_thresholds(reader: Reader, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return which share of each set of prompts lies within the tolerance of a shipped threshold."""
    (folder,) = (registry_directory() / "harmful-intent" / "smollm2-135m-instruct").iterdir()
    calibration = parse_calibration((folder / "calibration.json").read_bytes())
    tolerance = reader.plan.tolerances["harmful_intent"]
    sets = {"calibration": ("the benign prompts of the calibration", [float(one) for one in calibration.benign_scores])}
    for group in _groups(options.data, options.rows):
        _say(group.title)
        scores = reader.scores(group.chats, _generated(), batch=16)["harmful_intent"]
        sets[group.id] = (group.title, scores)
    found = []
    for rate in RATES:
        threshold = calibration.threshold(rate)
        first, end = near(raised(threshold, tolerance), tolerance)
        for name, (title, scores) in sets.items():
            shares = {
                "taken": Proportion.of(score >= threshold for score in scores),
                "near": Proportion.of(first <= score < end for score in scores),
                "added_to_an_unraised_bound": Proportion.of(
                    near(threshold, tolerance)[0] <= score < threshold for score in scores
                ),
            }
            found.append(
                {"id": name, "set": title, "fpr": rate, **{key: share.as_strings() for key, share in shares.items()}}
            )
            print(rate, title, *(f"{key} {share.rate:.4f}" for key, share in shares.items()), flush=True)
    return found


def _groups(data: Path | None, rows: int) -> list[PromptGroup]:
    """Return the sets whose scores are counted, at most so many prompts of each."""
    if data is None:
        return []
    groups = [*benign_groups(data, rows), *harmful_groups(data, rows)]
    return [replace(group, chats=group.chats[:rows]) for group in groups if group.id in COUNTED]


def _generated(**settings: Any) -> Callable[[Any, dict[str, Any]], object]:
    return lambda model, inputs: model.generate(**inputs, max_new_tokens=1, do_sample=False, **settings)


def _prompts(rows: int) -> list[Chat]:
    """Return own held-out prompts, harmful and benign in turn."""
    found = [
        [list(chat) for chat in prompt_file(registry_directory() / "prompts" / name).split("held_out").conversations]
        for name in ("harmful.jsonl", "benign.jsonl")
    ]
    stride = [len(chats) // (rows // 2) for chats in found]
    picked = [chats[::step][: rows // 2] for chats, step in zip(found, stride, strict=True)]
    return [chat for pair in zip(*picked, strict=True) for chat in pair]


def _say(*words: str) -> bool:
    sys.stderr.write(" ".join(words) + "\n")
    return True


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=None, help="folder of the public data sets; own prompts only without"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/score_spread.json"))
    parser.add_argument("--rows", type=int, default=100, help="prompts of each set that are counted")
    parser.add_argument("--weights", nargs="+", default=list(PROMPTS_READ))
    parser.add_argument("--models", nargs="+", choices=("tiny", "packaged"), default=["tiny", "packaged"])
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
