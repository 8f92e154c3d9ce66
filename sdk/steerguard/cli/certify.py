"""`steerguard certify`: the violation rate of a guarded model, bounded, as an attestation. Loads torch only when it measures."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from steerguard.cli.artifact_sources import LockOption, artifact_sources
from steerguard.cli.registry_source import RegistryOption, TrustOption
from steerguard.errors import EvaluationError, SteerguardError
from steerguard.models.names import PACKAGED

if TYPE_CHECKING:
    from steerguard.evaluate.certificate_document import Certificate
    from steerguard.evaluate.certificate_inputs import CertificateInputs

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect it."""
_SPEC = "[NAME=]PATH[#COLUMN][+PREFILL_COLUMN][[START:STOP]]"
_TIME = "%Y-%m-%dT%H:%M:%SZ"

JudgeKind = Literal["words", "sentences"]

_Verify = Annotated[
    Path | None, typer.Option("--verify", metavar="FILE", help="Check a certificate instead of making one.")
]
_Model = Annotated[str | None, typer.Option("--model", help=f"Folder of a Hugging Face model, or {PACKAGED}.")]
_Policy = Annotated[str | None, typer.Option("--policy", help="Shipped policy or file; its mode must be enforce.")]
_Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompts", metavar="SPEC", help=f"Prompts that nothing was trained on: {_SPEC}; may be repeated."),
]
_Judge = Annotated[Path | None, typer.Option("--judge", help="Labelled answers that the judge is trained on.")]
_Harmless = Annotated[
    Path | None, typer.Option("--judge-harmless", help="Harmless answers of this model that the judge learns as well.")
]
_Kind = Annotated[str, typer.Option("--judge-kind", help="What the judge reads: words or sentences.")]
_Rows = Annotated[
    str, typer.Option("--judge-rows", help="judge: only rows that no cost model may use; all: every row of the file.")
]
_Out = Annotated[Path | None, typer.Option("--out", help="File for the certificate; must not exist.")]
_Work = Annotated[
    Path | None,
    typer.Option("--work", help="Folder that keeps prompts and answers; an unfinished measurement in it is continued."),
]
_Confidence = Annotated[str, typer.Option("--confidence", help="Of the upper bound, 0.5 to below 1.")]
_Tokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Most new tokens per answer.")]
_Temperature = Annotated[
    str | None, typer.Option("--temperature", help="Sample at this temperature; greedy by default.")
]
_Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Most rows per batch.")]
_Seed = Annotated[int, typer.Option("--seed", min=0, help="Of sampling.")]
_Type = Annotated[str, typer.Option("--dtype", help="Type of the weights: bfloat16, float16 or float32.")]
_Created = Annotated[
    str | None, typer.Option("--created", metavar="TIME", help="YYYY-MM-DDTHH:MM:SSZ; now by default.")
]


def certify(
    verify: _Verify = None,
    model: _Model = None,
    policy: _Policy = None,
    prompts: _Prompts = None,
    judge: _Judge = None,
    judge_harmless: _Harmless = None,
    judge_kind: _Kind = "words",
    judge_rows: _Rows = "judge",
    out: _Out = None,
    work: _Work = None,
    confidence: _Confidence = "0.95",
    max_new_tokens: _Tokens = 64,
    temperature: _Temperature = None,
    batch_size: _Batch = 16,
    seed: _Seed = 0,
    dtype: _Type = "bfloat16",
    registry: RegistryOption = None,
    trust: TrustOption = None,
    lock: LockOption = None,
    created: _Created = None,
) -> None:
    """Measure how often a judge calls answers under a policy harmful, with an upper bound; or check such a statement."""
    try:
        if verify is not None:
            _verify(verify)
            return
        target = _needed(model=model, policy=policy, prompts=prompts, judge=judge, out=out)
        _check_out(target["out"])
        time = _time(created)
        settings = {
            **artifact_sources(registry, trust, lock),
            "confidence": confidence,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "batch_size": batch_size,
            "seed": seed,
        }
        inputs = _inputs(target, judge_harmless, judge_kind, judge_rows, settings)
        certificate = _measure(inputs, target["model"], dtype, work, time)
        _write(certificate, target["out"])
    except SteerguardError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        kept = "Nothing is kept." if work is None else f"What is answered is kept in {work}: run it again to go on."
        typer.echo(f"Stopped, no certificate was written. {kept}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _needed(**given: Any) -> dict[str, Any]:
    missing = [f"--{name}" for name, value in given.items() if not value]
    if missing:
        raise EvaluationError(
            "A certificate needs more than this.",
            expected="--model, --policy, --prompts, --judge and --out; or --verify FILE alone",
            found=f"no {', '.join(missing)}",
        )
    return given


def _inputs(
    target: dict[str, Any], harmless: Path | None, kind: str, rows: str, settings: dict[str, Any]
) -> CertificateInputs:
    """Read every file that the command names; a wrong one is said before a model is loaded."""
    from steerguard.evaluate.prompt_files import read_prompts
    from steerguard.evaluate.prompt_spec import parse_specs
    from steerguard.policy.load import load_policy

    document = load_policy(target["policy"])
    sets = [(read_prompts(spec, "refuse"), _sha256(spec.path)) for spec in parse_specs(target["prompts"], [])[0]]
    judge = _judge(target["judge"], harmless, kind, rows)
    # From here on torch is loaded; what is wrong with a file was said before.
    from steerguard.evaluate.certificate_inputs import CertificateInputs, without_repeats

    model = target["model"]
    return CertificateInputs(
        model_name=model if model == PACKAGED else Path(model).resolve().name,
        policy=document,
        sets=without_repeats(sets),
        **judge,
        **settings,
    )


def _judge(path: Path, harmless: Path | None, kind: str, rows: str) -> dict[str, Any]:
    """Train the judge, and say what it was trained on."""
    from steerguard.evaluate.independence import JudgeFiles
    from steerguard.evaluate.judge import train_judge
    from steerguard.evaluate.labelled_answers import read_labelled_answers
    from steerguard.evaluate.labelled_split import is_judge_question
    from steerguard.evaluate.sentence_judge import train_sentence_judge

    trainers = {"words": train_judge, "sentences": train_sentence_judge}
    for option, value, legal in (("--judge-kind", kind, tuple(trainers)), ("--judge-rows", rows, ("judge", "all"))):
        if value not in legal:
            raise EvaluationError(
                "There is no such judge.", where=option, expected=" or ".join(legal), found=value[:40]
            )
    chosen: Literal["judge", "all"] = "judge" if rows == "judge" else "all"
    questions = dict.fromkeys(read_labelled_answers(path).questions)
    files = JudgeFiles(
        labelled_sha256=_sha256(path),
        harmless_sha256=None if harmless is None else _sha256(harmless),
        rows=chosen,
        questions=tuple(one for one in questions if chosen == "all" or is_judge_question(one)),
    )
    return {"judge": trainers[kind](path, harmless_answers=harmless, rows=chosen), "judge_files": files}


def _measure(inputs: CertificateInputs, model: str, dtype: str, work: Path | None, created: str) -> Certificate:
    from steerguard.cli.evaluate import progress_bar
    from steerguard.evaluate.certificate import certify as measure
    from steerguard.models.loading import load_named_model

    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steerguard-certify-")))
        told = stack.enter_context(progress_bar())
        told.note("loading the model")
        loaded, tokenizer = load_named_model(model, dtype)
        return measure(loaded, tokenizer, inputs, folder, created=created, progress=told)


def _write(certificate: Certificate, out: Path) -> None:
    from steerguard.canonical import sha256_hex
    from steerguard.evaluate.certificate_document import certificate_bytes

    content = certificate_bytes(certificate)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("xb") as stream:
            stream.write(content)
    except OSError as error:
        raise EvaluationError("The certificate cannot be written.", where=out, found=error.strerror) from error
    _show(certificate)
    typer.echo(f"\nWrote {out}, sha256:{sha256_hex(content)}. It is not signed.")


def _verify(path: Path) -> None:
    from steerguard.evaluate.certificate_document import parse_certificate

    try:
        content = path.read_bytes()
    except OSError as error:
        raise EvaluationError("The certificate cannot be read.", where=path, found=error.strerror) from error
    _show(parse_certificate(content, where=path.name))
    typer.echo(
        "\nSchema and arithmetic hold. It is not signed, and nothing here shows that the answers were what it says."
    )


def _show(certificate: Certificate) -> None:
    stated, subject = certificate.predicate, certificate.subject
    typer.echo(
        f"{subject.model.name} ({subject.model.weights}) under {subject.policy.name} {subject.policy.version}, "
        f"{certificate.created}:\n"
        f"{stated.violations} of {stated.n} answers were judged harmful ({stated.rate}), {stated.refusals} were refused.\n"
        f"With confidence {stated.confidence} the rate of such answers on prompts drawn like these is at most "
        f"{stated.upper_bound}."
    )
    typer.echo("\nChecked:\n" + "\n".join(f"- {line}" for line in stated.independence.checked))
    typer.echo("\nNot checked:\n" + "\n".join(f"- {line}" for line in stated.independence.not_checked))


def _check_out(out: Path) -> None:
    if out.exists():
        raise EvaluationError("The output exists already.", where=out, next_step="Choose a name that is not taken.")


def _sha256(path: Path) -> str:
    from steerguard.canonical import sha256_hex

    try:
        return sha256_hex(path.read_bytes())
    except OSError as error:
        raise EvaluationError("A file cannot be read.", where=path, found=error.strerror) from error


def _time(created: str | None) -> str:
    if created is None:
        return datetime.now(UTC).strftime(_TIME)
    try:
        return datetime.strptime(created, _TIME).replace(tzinfo=UTC).strftime(_TIME)
    except ValueError as error:
        raise EvaluationError(
            "This is not a time.", where="--created", expected="UTC such as 2026-01-31T12:00:00Z", found=created[:40]
        ) from error
