"""How long set-up takes: imports, `policy validate` from the shell, and the parts of `wrap` on SmolLM2.

    python benchmarks/setup.py --out benchmarks/results/setup.json

Every figure is a median over separate runs. `wrap beyond` is everything but the tokenizer digest (with the model's
facts) and the fingerprint's forward pass; reading and verifying the artifact files is counted in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import steerguard
from steerguard.models.packaged import load_packaged_smollm2

RUNS = 9
SHELL_LIMIT, WRAP_LIMIT = 0.5, 0.15
NOT_COUNTED = ("facts and tokenizer digest", "fingerprint")
COMMANDS = {
    "import steerguard": ["-c", "import steerguard"],
    "steerguard policy validate": ["-m", "steerguard.cli.main", "policy", "validate", "harmlessness"],
}
FOREIGN = "import sys; bad = {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules); sys.exit(len(bad))"


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"command": "make benchmark-setup", "runs": RUNS, "seconds": {}}
    for name, arguments in COMMANDS.items():
        report["seconds"][name] = round(statistics.median(shell(arguments) for _ in range(RUNS)), 4)
    subprocess.run([sys.executable, "-c", f"import steerguard; {FOREIGN}"], check=True)
    parts = wrap_parts()
    beyond = [sum(s for name, s in run.items() if name not in NOT_COUNTED) for run in parts]
    report["wrap"] = {name: round(statistics.median(run[name] for run in parts), 4) for name in parts[0]}
    report["seconds"]["wrap beyond"] = round(statistics.median(beyond), 4)
    report["bars"] = {**dict.fromkeys(COMMANDS, SHELL_LIMIT), "wrap beyond": WRAP_LIMIT}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    for name, seconds in report["seconds"].items():
        bar = report["bars"][name]
        print(f"{name:28} {seconds:.3f} s   bar {bar} s   {'ok' if seconds <= bar else 'over the bar'}")
    for name, seconds in report["wrap"].items():
        print(f"  wrap: {name:28} {seconds * 1000:7.1f} ms")


def shell(arguments: list[str]) -> float:
    """Return the seconds that one Python process takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def wrap_parts() -> list[dict[str, float]]:
    """Return the parts of `wrap` by name, once per run, on the packaged model in bfloat16."""
    model, tokenizer = load_packaged_smollm2()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(RUNS):
            steerguard.wrap(model, "harmlessness", tokenizer=tokenizer, audit=Path(folder))
            runs.append(model.guard.setup_seconds)
            steerguard.unwrap(model)
    return runs


if __name__ == "__main__":
    main()
