"""What `steerguard evaluate` costs beside bare batched `generate`, and whether kills leave a trace in its result.

    python benchmarks/evaluate_speed.py --out benchmarks/results/evaluate_speed.json

Speed: SmolLM2-135M-Instruct answers the same prompts in the same batches, three ways in turn, several times over: bare
(render a batch, `generate`, decode), through `evaluate` without a policy, and through `evaluate` with the policies.
The ratio is the median over the rounds of seconds per answered row against the bare seconds of the same round.
`evaluate` counts everything behind the loaded model: tokenisation, digests, journal, figures, report. `within` judges
it without a policy, both without and with the search for a batch size, which is charged to that one run.
Runs under a policy write other answers than bare `generate`, and a refused prompt costs next to nothing, so they are
reported by themselves: seconds per token that the model wrote, and that against the unguided run of the same round.

Kills: the command is started on fewer rows and killed with SIGKILL at random times, again and again until it ends by
itself; `evaluation.json` must have the bytes of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from steerguard.content import registry_directory
from steerguard.evaluate.answering import EncodedSet
from steerguard.evaluate.batches import length_batches
from steerguard.evaluate.inputs import EvaluationInputs
from steerguard.evaluate.journal import read_rows
from steerguard.evaluate.prompt_files import PromptSet, read_prompts
from steerguard.evaluate.prompt_spec import parse_spec
from steerguard.evaluate.result import UNGUIDED
from steerguard.evaluate.run import evaluate
from steerguard.models.chat import render
from steerguard.models.packaged import load_packaged_smollm2
from steerguard.policy.load import load_policy

LIMIT = 1.15
SEARCHED = "unguided, with the batch-size search"
HARMFUL, BENIGN = (registry_directory() / "prompts" / f"{name}.jsonl" for name in ("harmful", "benign"))


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=520, help="prompts of the speed measurement, half of them harmful")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=None, help="measured by default")
    parser.add_argument("--policy", action="append", help="default: harmlessness")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--kill-rows", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    policies = options.policy or ["harmlessness"]
    with tempfile.TemporaryDirectory(prefix="steerguard-evaluate-") as folder:
        speed = measure_speed(Path(folder), options, policies)
        print(json.dumps(speed), flush=True)
        kills = measure_kills(Path(folder), options, policies) if options.kills else None
    report = {
        "command": "python benchmarks/evaluate_speed.py --out benchmarks/results/evaluate_speed.json",
        "model": "SmolLM2-135M-Instruct, bfloat16",
        "rows": options.rows,
        "max_new_tokens": options.max_new_tokens,
        "threads": options.threads,
        "policies": policies,
        "speed": speed,
        "kills": kills,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))
    if kills is not None and not kills["identical"]:
        raise SystemExit(1)


def measure_speed(folder: Path, options: Any, policies: list[str]) -> dict[str, Any]:
    """Return seconds per answered row, and their ratios, way by way and round by round."""
    model, tokenizer = load_packaged_smollm2()
    sets = prompt_sets(options.rows)
    seconds: dict[str, list[float]] = {"bare": [], "unguided": [], SEARCHED: [], "bare again": []}
    per_token: dict[str, list[float]] = {}
    size, search = options.batch_size, 0.0
    if size is None:
        # A run of its own settles the size, so that every timed run has the same batches; its search is reported.
        speed = run_evaluate(model, tokenizer, sets, [], folder / "search", options, None)[1]
        size = json.loads((folder / "search" / "settings.json").read_bytes())["settings"]["batch_size"]
        search = speed["batch_size_search"]["seconds"]
    rows = sum(map(len, sets))

    def bare() -> float:
        return timed(lambda: bare_answers(model, tokenizer, sets, size, options.max_new_tokens)) / rows

    for number in range(options.rounds):
        seconds["bare"].append(bare())
        for name, of_run in (("unguided", []), ("with policies", policies)):
            spent, _ = run_evaluate(model, tokenizer, sets, of_run, folder / f"{name}-{number}", options, size)
            if of_run:
                for run, value in seconds_per_token(folder / f"{name}-{number}").items():
                    per_token.setdefault(run, []).append(value)
            else:
                seconds[name].append(spent / rows)
                seconds[SEARCHED].append((spent + search) / rows)
        seconds["bare again"].append(bare())
    ratios = {
        name: [spent / base for spent, base in zip(values, seconds["bare"], strict=True)]
        for name, values in seconds.items()
        if name != "bare"
    }
    medians = {name: round(statistics.median(values), 4) for name, values in ratios.items()}
    return {
        "batch_size": size,
        "batch_size_search_seconds": search,
        "seconds_per_row": {name: [round(value, 4) for value in values] for name, values in seconds.items()},
        "ratio": medians,
        "limit": LIMIT,
        "within": medians["unguided"] <= LIMIT and medians[SEARCHED] <= LIMIT,
        "seconds_per_generated_token": {
            run: {
                "median": round(statistics.median(values), 6),
                "ratio_to_unguided": round(
                    statistics.median(value / plain for value, plain in zip(values, per_token[UNGUIDED], strict=True)),
                    4,
                ),
            }
            for run, values in per_token.items()
        },
    }


def seconds_per_token(folder: Path) -> dict[str, float]:
    """Return by run the seconds of its batches per token that the model wrote; refusal texts of a policy do not count."""
    spent: dict[str, float] = {}
    for part in json.loads((folder / "speed.json").read_bytes())["parts"]:
        spent[part["run"]] = spent.get(part["run"], 0.0) + part["seconds"]
    written = dict.fromkeys(spent, 0)
    for row in read_rows(folder):
        if row.applied != "refuse":
            written[row.run] += row.answer_tokens
    return {run: spent[run] / tokens for run, tokens in written.items() if tokens}


def prompt_sets(rows: int) -> list[PromptSet]:
    """Return the project's own prompts, half harmful and half benign."""
    half = rows // 2
    return [
        read_prompts(parse_spec(f"harmful={HARMFUL}[:{half}]"), "refuse"),
        read_prompts(parse_spec(f"benign={BENIGN}[:{rows - half}]"), "answer"),
    ]


def bare_answers(model: Any, tokenizer: Any, sets: list[PromptSet], size: int, tokens: int) -> list[str]:
    """Answer as any script would, in the batches that `evaluate` makes; only the sorting is given to it for nothing."""
    texts: list[str] = []
    for prompts in sets:
        for indices in BATCHES.setdefault((prompts.name, size), batches_of(prompts, tokenizer, size)):
            batch = render(tokenizer, [prompts.conversations[index] for index in indices])
            with torch.inference_mode():
                ids = model.generate(**batch, max_new_tokens=tokens, do_sample=False)
            texts += tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


BATCHES: dict[tuple[str, int], tuple[tuple[int, ...], ...]] = {}


def batches_of(prompts: PromptSet, tokenizer: Any, size: int) -> tuple[tuple[int, ...], ...]:
    """Return the batches that `evaluate` makes of a set."""
    return length_batches(EncodedSet.of(prompts, tokenizer).lengths, size)


def run_evaluate(
    model: Any, tokenizer: Any, sets: list[PromptSet], policies: list[str], out: Path, options: Any, size: int | None
) -> tuple[float, dict[str, Any]]:
    """Evaluate into a folder; return the seconds it took and its speed file."""
    inputs = EvaluationInputs(
        model_name="packaged:smollm2",
        sets=tuple(sets),
        policies=tuple(map(load_policy, policies)),
        max_new_tokens=options.max_new_tokens,
        batch_size=size,
    )
    spent = timed(lambda: evaluate(model, tokenizer, inputs, out))
    speed: dict[str, Any] = json.loads((out / "speed.json").read_bytes())
    return spent, speed


def measure_kills(folder: Path, options: Any, policies: list[str]) -> dict[str, Any]:
    """Kill the command at random times until it has been killed often enough, and compare what it ends with."""
    half = options.kill_rows // 2
    command = [sys.executable, "-m", "steerguard.cli.main", "evaluate", "--model", "packaged:smollm2"]
    command += [word for name in policies for word in ("--policy", name)]
    command += ["--harmful", f"harmful={HARMFUL}[:{half}]", "--benign", f"benign={BENIGN}[:{half}]"]
    command += ["--max-new-tokens", "16", "--batch-size", "8", "--json", "--out"]
    whole, out = folder / "whole", folder / "killed"
    start = time.monotonic()
    expected = subprocess.run([*command, str(whole)], check=True, capture_output=True).stdout
    undisturbed = time.monotonic() - start
    chosen, kills, rows_at_kill, finished = random.Random(0), 0, [], 0
    identical = True
    while kills < options.kills:
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=chosen.uniform(0.2, 1.0) * undisturbed)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            journal = out / "rows.jsonl"
            rows_at_kill.append(journal.read_bytes().count(b"\n") if journal.exists() else 0)
            continue
        # It was faster than the kill: compare, and begin anew for the kills that are left.
        identical &= (out / "evaluation.json").read_bytes() == expected
        finished += 1
        shutil.rmtree(out)
    resumed = subprocess.run([*command, str(out)], check=True, capture_output=True).stdout
    identical &= resumed == expected
    return {
        "kills": kills,
        "rows": 2 * half * (1 + len(policies)),
        "rows_recorded_at_each_kill": rows_at_kill,
        "finished_between_kills": finished,
        "identical": identical,
    }


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
