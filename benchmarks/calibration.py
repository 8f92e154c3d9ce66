"""Measure whether thresholds given as rates keep their promise on real benign scores: 500 random splits per pool.

    python benchmarks/calibration.py --data <folder of public data sets> --out benchmarks/results/calibration.json

The model reads every benign prompt once; the scores, never the prompts, are kept in the file that `--scores` names.
The pool `own` needs no data folder.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from steerguard.artifacts.calibration import Calibration
from steerguard.artifacts.verify import VerifiedArtifact, verify_artifact
from steerguard.build.contrast import prompt_file
from steerguard.build.own_calibration import calibrate, described
from steerguard.content import registry_directory
from steerguard.evaluate.prompt_files import read_prompts
from steerguard.evaluate.prompt_spec import parse_spec
from steerguard.evaluate.proportions import Proportion
from steerguard.evaluate.random_splits import SplitReport, split_reports
from steerguard.models.chat import Conversation
from steerguard.registry.local import LocalDirectory, embedded_registry

RATES = ("0.01", "0.02", "0.05", "0.1")
SHOWN = "all"
"""The pool in the figure."""
FAMILY = "harmful-intent"
PUBLIC = (
    "truthfulqa={}/truthfulqa/TruthfulQA.csv#Question",
    "gsm8k={}/gsm8k/test.jsonl#question",
    "cast_harmless_test={}/cast/condition_harmful.json#test.harmless",
    "cyberseceval_frr={}/cyberseceval/mitre_frr.json#mutated_prompt",
)
"""Benign sets of the data folder, besides the questions of PubMedQA."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Benign scores of one set of prompts."""

    name: str
    scores: list[float]


def main() -> None:
    """Score, split, report and draw."""
    options = _options()
    artifact = _artifact(options.registry)
    pools = _pools(_prompts(options.data, options.rows), artifact, options)
    everything = Pool("all", [score for pool in pools for score in pool.scores])
    unseen = Pool("own_unseen", [s for p in pools if p.name in {"own_calibration", "own_held_out"} for s in p.scores])
    reports: dict[str, list[SplitReport]] = {}
    alpha = options.alpha / (len(RATES) * (len(pools) + 2))
    for pool in (everything, unseen, *pools):
        # Without ties the counts depend on the split alone, so pools of one size need splits of their own.
        seed = f"{options.seed} {pool.name}"
        reports[pool.name] = split_reports(pool.scores, RATES, splits=options.splits, seed=seed, alpha=alpha)
        for report in reports[pool.name]:
            print(_line(pool.name, report))
    document = {
        "command": "python benchmarks/calibration.py --data <folder> --out benchmarks/results/calibration.json",
        "artifact": {"reference": artifact.manifest.reference, "digest": artifact.digest},
        "weights": options.weights,
        "splits": options.splits,
        "seed": options.seed,
        "chance_of_any_false_alarm": _text(options.alpha),
        "holds": all(report.holds for found in reports.values() for report in found),
        "pools": {name: [_figures(report) for report in found] for name, found in reports.items()},
        "other_prompts": _elsewhere(artifact.calibration, pools),
        "notes": [
            "Each split thresholds one half of a pool with the other; a mean over splits is a statement about that pool.",
            (
                "Without ties the law of the counts is the same for every set of scores, so this checks ranks, ties and rounding, "
                "and that the promise is met; it says nothing about prompts of another kind."
            ),
            (
                "A pool keeps the guarantee when the mean realised rate is not above the asked one beyond sampling error, and when "
                "at no rate more splits lie above it than the beta-binomial tail allows beyond the one-sided "
                "Dvoretzky-Kiefer-Wolfowitz band; chance_of_any_false_alarm is shared among all pools and rates."
            ),
            "other_prompts shows where the guarantee does not apply: the artifact's own calibration on other prompts.",
        ],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    _draw(reports[SHOWN], options.figure)
    print(f"{options.out}: {'the guarantee holds' if document['holds'] else 'THE GUARANTEE DOES NOT HOLD'}")


def _artifact(registry: Path | None) -> VerifiedArtifact:
    store = embedded_registry() if registry is None else LocalDirectory(registry)
    pin = store.pinned(FAMILY)[0]
    return verify_artifact(store.read(pin), pin.digest, where=pin.reference)


def _prompts(data: Path | None, rows: int) -> dict[str, list[Conversation]]:
    own = prompt_file(registry_directory() / "prompts" / "benign.jsonl")
    prompts: dict[str, list[Conversation]] = {
        f"own_{name}": list(own.split(name).conversations) for name in ("build", "calibration", "held_out")
    }
    if data is not None:
        for spec in PUBLIC:
            found = read_prompts(parse_spec(spec.format(data)), "answer")
            prompts[found.name] = list(found.conversations[:rows])
        questions = json.loads((data / "pubmedqa" / "ori_pqal.json").read_text(encoding="utf-8")).values()
        prompts["pubmedqa"] = [[{"role": "user", "content": entry["QUESTION"]}] for entry in questions][:rows]
    return {name: chats for name, chats in prompts.items() if chats}


def _pools(
    prompts: dict[str, list[Conversation]], artifact: VerifiedArtifact, options: argparse.Namespace
) -> list[Pool]:
    """Return the scores of every set, from the file where artifact, weights and prompts are the same."""
    cache = _cached(options.scores, artifact.digest, options.weights)
    loaded: tuple[Any, Any] | None = None
    for name, chats in prompts.items():
        digest = described(chats).sha256
        if cache["sets"].get(name, {}).get("prompts_sha256") == digest:
            continue
        if loaded is None:
            from steerguard.models.loading import PACKAGED, load_named_model  # noqa: PLC0415  not with cached scores

            loaded = load_named_model(PACKAGED, options.weights)
        own = calibrate(artifact, *loaded, chats, source=name, batch_size=options.batch_size)
        cache["sets"][name] = {"prompts_sha256": digest, "scores": list(own.calibration.benign_scores)}
        options.scores.parent.mkdir(parents=True, exist_ok=True)
        options.scores.write_text(json.dumps(cache) + "\n", encoding="utf-8")
        print(f"scored {name}: {len(chats)} prompts", flush=True)
    return [Pool(name, [float(score) for score in cache["sets"][name]["scores"]]) for name in prompts]


def _cached(file: Path, artifact: str, weights: str) -> dict[str, Any]:
    fresh = {"artifact": artifact, "weights": weights, "sets": {}}
    if not file.is_file():
        return fresh
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found if (found["artifact"], found["weights"]) == (artifact, weights) else fresh


def _figures(report: SplitReport) -> dict[str, Any]:
    low, high = report.mean_interval
    above, allowed = report.above_asked()
    return {
        "fpr": report.fpr,
        "n_calibration": report.n,
        "n_test": report.m,
        "mean_realised": _text(report.mean_rate),
        "mean_interval_95": [_text(low), _text(high)],
        "mean_allowed": _text(report.allowed_mean),
        "splits_above_asked": {**above.as_strings(), "at_most_expected": _text(allowed)},
        "quantiles": [
            {"level": _text(level), "rate": _text(rate), **seen.as_strings(), "at_most_expected": _text(most)}
            | {"share_of_splits_above": _text(seen.rate)}
            for level, rate, seen, most in report.quantiles()
        ],
        "largest_excess": _text(report.largest_excess),
        "tolerance": _text(report.tolerance),
        "holds": report.holds,
    }


def _elsewhere(calibration: Calibration | None, pools: list[Pool]) -> list[dict[str, Any]]:
    """Return how often other prompts reach the thresholds of the artifact's own calibration."""
    assert calibration is not None
    return [
        {
            "set": pool.name,
            "fpr": rate,
            **Proportion.of(score >= calibration.threshold(rate) for score in pool.scores).as_strings(),
        }
        for pool in pools
        if not pool.name.startswith("own_calibration")
        for rate in RATES
        if float(calibration.smallest_fpr) <= float(rate)
    ]


def _draw(reports: list[SplitReport], file: Path) -> None:
    """Draw, for each asked rate, how many splits realise more than each rate, and how many may."""
    import matplotlib as mpl  # noqa: PLC0415  the extra `eval`

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "steerguard", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt  # noqa: PLC0415  after the backend is chosen

    figure, axes = plt.subplots(2, 2, figsize=(8, 5.6), layout="constrained")
    for axis, report in zip(axes.flat, reports, strict=False):
        last = next(count for count in range(report.m + 1) if report.tail[count] < 1e-4)
        rates = [count / report.m for count in range(last + 1)]
        tail = report.tail[: last + 1]
        band = [min(1.0, chance + report.tolerance) for chance in tail]
        axis.fill_between(rates, tail, band, step="post", color="0.88", label="sampling error of the splits")
        axis.step(rates, tail, where="post", color="0.35", ls="--", label="at most, by the guarantee")
        seen = [report.share_above(count) for count in range(last + 1)]
        axis.step(rates, seen, where="post", color="#1f6fb4", label=f"{len(report.counts)} random splits")
        axis.axvline(float(report.fpr), color="#b4411f", lw=1, label="asked rate")
        axis.plot([report.mean_rate], [0.03], marker="^", color="#1f6fb4", ls="none", label="mean realised rate")
        axis.set_title(f"fpr {report.fpr}: {report.n} calibrate, {report.m} test", fontsize=9)
        axis.set_xlabel("realised rate r")
        axis.set_ylabel("share of splits above r")
        axis.set_ylim(0, 1.02)
    for axis in axes.flat[len(reports) :]:
        axis.set_visible(False)
    axes.flat[0].legend(fontsize=7, loc="upper right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def _line(name: str, report: SplitReport) -> str:
    above, allowed = report.above_asked()
    low, high = report.mean_interval
    return (
        f"{name:20s} fpr {report.fpr:5s} n {report.n:5d} mean {report.mean_rate:.4f} [{low:.4f}, {high:.4f}]  "
        f"above asked {above.rate:.3f} (at most {allowed:.3f})  excess {report.largest_excess:+.3f} of "
        f"{report.tolerance:.3f}  {'holds' if report.holds else 'DOES NOT HOLD'}"
    )


def _text(value: float) -> str:
    return f"{value:.4f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=None, help="folder of the public data sets; own prompts only without"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/calibration.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/calibration.svg"))
    parser.add_argument("--registry", type=Path, default=None, help="local registry; the embedded one by default")
    parser.add_argument("--weights", default="bfloat16")
    parser.add_argument("--rows", type=int, default=500, help="prompts per public set")
    parser.add_argument("--splits", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alpha", type=float, default=0.01, help="chance of a false alarm over the whole report")
    parser.add_argument("--batch-size", type=int, default=16)
    scores = platformdirs.user_cache_path("steerguard") / "benchmarks" / "calibration-scores.json"
    parser.add_argument("--scores", type=Path, default=scores, help="file that keeps the scores")
    return parser.parse_args()


if __name__ == "__main__":
    main()
