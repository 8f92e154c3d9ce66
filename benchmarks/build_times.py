"""How long the shipped artifacts take to build from nothing, all of them in one run.

    python benchmarks/build_times.py --out benchmarks/results/build_times.json

`steerguard build` runs for every recipe in `registry/recipes/`, from one empty cache. Each lane is a line of builds that
follow one another; lanes run side by side, each build with one thread, so two lanes fill two cores. Seconds are wall
time of the whole command: imports, loading of the model, every step, writing. What two recipes have in common is
computed once: `inferaligner` takes the donor of `inferaligner-steps` from the cache, or waits for it.

`same_weights` says whether a build gave the bytes of the weights that ship.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from steerguard.content import registry_directory, shipped_recipes

LANES = (
    ("inferaligner-steps", "harmful-answer"),
    ("harmful-intent", "harmful-condition", "refusal-vectors", "inferaligner", "refusal-direction"),
)
LIMIT = 20 * 60


def main() -> None:
    """Build, print and write the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="new folder for artifacts and cache; thrown away without it")
    options = parser.parse_args()
    planned = {name for lane in LANES for name in lane}
    if planned != set(shipped_recipes()):
        parser.error(f"lanes hold {sorted(planned)}, shipped are {sorted(shipped_recipes())}")
    if options.keep is not None:
        options.keep.mkdir(parents=True)
        report = measure(options.keep)
    else:
        with tempfile.TemporaryDirectory(prefix="steerguard-build-") as folder:
            report = measure(Path(folder))
    print(json.dumps(report, indent=2))
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measure(folder: Path) -> dict[str, Any]:
    """Return the report of one run whose artifacts and cache lie in `folder`."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(LANES)) as pool:
        lanes = list(pool.map(lambda lane: [built(name, folder) for name in lane], LANES))
    wall = time.monotonic() - began
    return {
        "command": "python benchmarks/build_times.py --out benchmarks/results/build_times.json",
        "model": "SmolLM2-135M-Instruct",
        "threads": 1,
        "lanes": [list(lane) for lane in LANES],
        "builds": [one for lane in lanes for one in lane],
        "wall_seconds": round(wall, 1),
        "limit_seconds": LIMIT,
        "within": wall <= LIMIT,
    }


def built(name: str, folder: Path) -> dict[str, Any]:
    """Build one recipe in a process of its own and return its line of the report."""
    out = folder / name
    command = [
        sys.executable,
        "-m",
        "steerguard.cli.main",
        "build",
        name,
        "--model",
        "packaged:smollm2",
        "--out",
        str(out),
    ]
    began = time.monotonic()
    with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        subprocess.run(
            [*command, "--cache", str(folder / "cache")],
            check=True,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    seconds = time.monotonic() - began
    return {"recipe": name, "seconds": round(seconds, 1), "same_weights": same_weights(out)}


def same_weights(built_folder: Path) -> bool:
    """Tell whether a built artifact has the weights of the shipped one of its family, variant and version."""
    made = _manifest(built_folder)
    shipped = registry_directory() / made["family"] / made["variant"] / made["version"]
    return shipped.is_dir() and _weights(made["files"]) == _weights(_manifest(shipped)["files"])


def _manifest(folder: Path) -> Mapping[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def _weights(files: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {one["path"]: one["sha256"] for one in files if one["path"].startswith("weights/")}


if __name__ == "__main__":
    main()
