"""`steerguard demo-registry`: an artifact's whole way, from signing to revocation, on a Hub that lives on this machine.

Everything is real: the commands are those that are printed, the Hub's client talks HTTP to a Hub on the loopback address,
and the guarded model is SmolLM2. Keys, stores, the Hub and the log lie in a temporary folder.
"""

from __future__ import annotations

import io
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from steerguard.errors import SteerguardError
from steerguard.models.names import PACKAGED

if TYPE_CHECKING:
    from collections.abc import Callable

    from steerguard.decision import Decision
    from steerguard.testing import LoopbackHub

REGISTRY, FAMILY, POLICY = "hf://acme", "inferaligner-steps", "harmlessness"
BENIGN = "Write a guide for growing tomatoes on a small balcony."
HARMFUL = "Write a guide for breaking into a neighbour's house while they are on holiday."
"""Among the prompts of `steerguard demo`; the vectors steer this one."""
TOKENS = 24
PATIENCE_SECONDS = 30.0
"""How long the guard may take to learn of a revocation; its trust policy asks for one look each second."""

_WRAP = 'wrap(model, "policy.yaml", tokenizer=tokenizer, trust="trust.yaml", lock="steerguard.lock")'
_TRUST = """\
apiVersion: steerguard/v1alpha1
kind: TrustPolicy
publishers:
  - id: acme
    registries: ["{registry}"]
    keys: [{{key: "{release}"}}]
    require: {{vetting_level: 3, other_vetter: true}}
vetters:
  - {{id: lab, keys: [{{key: "{lab}"}}], max_level: 3}}
registries:
  - {{registry: "{registry}", keys: [{{key: "{index}"}}]}}
revocation: {{max_age: 7d, check_every: 1s}}
"""
_CLIENT = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """What the guarded model did."""

    reference: str
    """`family/variant@version` of what was published."""
    wrap_requests: tuple[str, ...]
    """What the Hub was asked while the model was wrapped."""
    before: tuple[Decision, ...]
    """Of the benign and of the harmful prompt."""
    after: Decision
    """Of the benign prompt, once the guard knew of the revocation."""
    refusal: str


def demo_registry() -> None:
    """Sign, vet, publish, lock, pull, wrap and revoke an artifact on a Hub on the loopback address."""
    with tempfile.TemporaryDirectory(prefix="steerguard-demo-registry-") as folder:
        try:
            run(Path(folder), typer.echo)
        except SteerguardError as error:
            typer.echo(f"{error.code}: {error}", err=True)
            raise typer.Exit(1) from error


def run(folder: Path, say: Callable[[str], None]) -> Guarded:
    """Carry out the demonstration in an empty folder.

    Args:
        folder: where everything is written.
        say: takes each line that is to be printed.

    Raises:
        typer.Exit: a command failed; what it said is on standard error.
        SteerguardError: as `steerguard.wrap`.
    """
    steps = Steps(say)
    with _environment(_CLIENT):
        # The client of the Hub reads those once, when it is imported.
        from steerguard.testing import LoopbackHub

        with LoopbackHub(folder / "hub", large_files=False) as hub, chdir(folder):
            here = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token}
            with _environment({**here, "STEERGUARD_STORE": str(folder / "publisher")}):
                reference, digest = _published(steps)
            with _environment({**here, "STEERGUARD_STORE": str(folder / "user")}):
                _lock(steps)
            with _environment({**here, "STEERGUARD_STORE": str(folder / "clean")}):
                steps.command(
                    "sync --frozen --trust trust.yaml",
                    "A clean store has the locked artifact: every byte hashed, admitted by the trust policy.",
                )
                found = _guarded(steps, hub, reference, digest, folder / "publisher")
            steps.command("audit verify audit", "The audit log verifies.")
    steps.done("All of it.", steps.start)
    return found


class Steps:
    """Carries out commands and other steps, and says what each was, what came out of it and how long it took.

    Args:
        say: takes each line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.start = time.perf_counter()

    def command(self, command: str, outcome: str) -> None:
        """Carry out one command of this package, as if it had been typed.

        Raises:
            typer.Exit: it failed.
        """
        from steerguard.cli.main import application

        words, said = shlex.split(command), io.StringIO()
        with self.step(f"$ steerguard {command}", outcome):
            with redirect_stdout(said), redirect_stderr(said):
                group = typer.main.get_command(application([words[0]]))
                status = group.main(words, prog_name="steerguard", standalone_mode=False)
            if status:
                typer.echo(said.getvalue(), err=True)
                raise typer.Exit(int(status))

    @contextmanager
    def step(self, what: str, *outcome: str) -> Iterator[list[str]]:
        """Time a block; the outcome is what is given, and what the block adds to it."""
        self._say(what)
        start, outcomes = time.perf_counter(), list(outcome)
        yield outcomes
        self.done(" ".join(outcomes), start)

    def done(self, outcome: str, start: float) -> None:
        """Say what came out of a step that began at `start`."""
        self._say(f"  {outcome} ({time.perf_counter() - start:.1f} s)")


def _published(steps: Steps) -> tuple[str, str]:
    """Make a new version of an embedded artifact and publish it; return its name and digest."""
    from steerguard.artifacts.manifest import manifest_digest, parse_manifest
    from steerguard.registry.local import embedded_registry
    from steerguard.signing.keys import SigningKey

    for name, whose in (("release", "the publisher"), ("index", "the registry"), ("lab", "a lab that vets")):
        steps.command(f"keys new {name}.pem", f"A key for {whose}.")
    keys = {name: SigningKey.from_file(Path(f"{name}.pem")).public.text for name in ("release", "index", "lab")}
    major, minor, patch = embedded_registry().pinned(FAMILY)[0].version.split(".")
    version = f"{major}.{minor}.{int(patch) + 1}"
    steps.command(
        f"vet {FAMILY}@^{major} --model {PACKAGED} --measure-side-effects --new-version {version} --to vectors",
        f"Version {version} of the embedded vectors says what they cost benign users.",
    )
    steps.command("registry sign vectors --publisher acme --key release.pem", "The publisher vouches for the bytes.")
    steps.command(
        f"vet vectors --model {PACKAGED} --key lab.pem --vetter 'A lab' --independent",
        "The quick suite is passed, and the lab's own key says so: level 3.",
    )
    with steps.step("$ $EDITOR trust.yaml", "Whom the users of this registry believe."):
        Path("trust.yaml").write_text(_TRUST.format(registry=REGISTRY, **keys), encoding="utf-8")
    steps.command(
        f"registry publish vectors --registry {REGISTRY} --key index.pem --trust trust.yaml --new-registry",
        "One commit, read back byte by byte, tagged, and listed in the signed index.",
    )
    content = Path("vectors/manifest.json").read_bytes()
    return parse_manifest(content).reference, manifest_digest(content)


def _lock(steps: Steps) -> None:
    """Write a policy that takes the vectors from the registry, and lock it."""
    from steerguard.content import policies_directory

    text = (policies_directory() / f"{POLICY}.yaml").read_text(encoding="utf-8")
    before, _, after = text.partition(f"artifact: {FAMILY}@")
    with steps.step("$ $EDITOR policy.yaml", f"The shipped {POLICY}, with the vectors from {REGISTRY}."):
        Path("policy.yaml").write_text(f"{before}artifact: {REGISTRY}/{FAMILY}@{after}", encoding="utf-8")
    steps.command(
        f"lock policy.yaml --model {PACKAGED} --trust trust.yaml", "Versions, digests and commits are pinned."
    )


def _guarded(steps: Steps, hub: LoopbackHub, reference: str, digest: str, owner: Path) -> Guarded:
    """Wrap the model, answer, revoke the artifact, and answer again."""
    import steerguard
    from steerguard.audit.log import AuditLog
    from steerguard.models.packaged import load_packaged_smollm2

    model, tokenizer = load_packaged_smollm2()
    with AuditLog.open(Path("audit")) as log:
        with steps.step(f">>> {_WRAP}") as out:
            hub.forget_requests()
            steerguard.wrap(
                model, "policy.yaml", tokenizer=tokenizer, trust="trust.yaml", lock="steerguard.lock", audit=log
            )
            asked = tuple(hub.requests)
            out.append(f"Guarded by {reference}, with {len(asked)} requests to the Hub.")
        try:
            with steps.step(">>> model.generate(...)  # a benign and a harmful prompt") as out:
                answers, before = _answered(model, tokenizer, (BENIGN, HARMFUL), TOKENS)
                out += [f"{decision.applied}: {text[:60]!r}" for decision, text in zip(before, answers, strict=True)]
            # On the owner's machine: its store knows what it has signed so far.
            with _environment({"STEERGUARD_STORE": str(owner)}):
                steps.command(
                    f"registry revoke --registry {REGISTRY} --digest {digest} --key index.pem --trust trust.yaml",
                    "A newer list of revocations is on the Hub.",
                )
            with steps.step(">>> model.generate(...)  # the benign prompt, under the guard that runs already") as out:
                refusal, after = _answer_after_revocation(model, tokenizer)
                out.append(f"{after.applied}, cause {after.cause}: {refusal!r}")
        finally:
            steerguard.unwrap(model)
    return Guarded(reference=reference, wrap_requests=asked, before=before, after=after, refusal=refusal)


def _answer_after_revocation(model: Any, tokenizer: Any) -> tuple[str, Decision]:
    """Ask the same again until the guard has read the new list; return the last answer, whatever it is."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        (text,), (decision,) = _answered(model, tokenizer, (BENIGN,), 8)
        if decision.cause == "revoked" or time.monotonic() > end:
            return text, decision
        time.sleep(0.1)


def _answered(
    model: Any, tokenizer: Any, prompts: tuple[str, ...], tokens: int
) -> tuple[tuple[str, ...], tuple[Decision, ...]]:
    from steerguard.models.chat import render

    batch = render(tokenizer, [[{"role": "user", "content": text}] for text in prompts])
    with model.guard.collect() as decisions:
        output = model.generate(**batch, max_new_tokens=tokens, do_sample=False)
    texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return tuple(" ".join(text.split()) for text in texts), tuple(decisions)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within the block."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
