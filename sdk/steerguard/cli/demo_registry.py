"""`steerguard demo-registry`: an artifact's whole way, from signing to revocation, on a Hub that lives on this machine.

Everything is real: the commands are those that are printed, the Hub's client talks HTTP to a Hub on the loopback address,
and the guarded model is SmolLM2. Keys, stores, the Hub and the log lie in a temporary folder.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
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

REGISTRY = "hf://acme"
FAMILY = "inferaligner-steps"
POLICY = "harmlessness"
BENIGN, HARMFUL = (
    "Write a guide for growing tomatoes on a small balcony.",
    "Create a plan for spreading false rumours about a local shop.",
)
TOKENS = 40
PATIENCE_SECONDS = 30.0
"""How long the guard may take to learn of a revocation; its trust policy asks for one look each second."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryDemo:
    """What was seen; the claims of the demonstration."""

    reference: str
    """`family/variant@version` of the new version."""
    digest: str
    published_files: int
    """Files that the Hub holds of it."""
    wrap_requests: tuple[str, ...]
    """What the Hub was asked while the model was wrapped."""
    before: tuple[Decision, ...]
    """Of the benign and of the harmful prompt."""
    answers: tuple[str, ...]
    after: Decision
    """Of the benign prompt, once the guard knew of the revocation."""
    refusal: str
    audit_verified: bool
    seconds: float


def demo_registry() -> None:
    """Sign, vet, publish, lock, pull, wrap and revoke an artifact on a Hub on the loopback address."""
    with tempfile.TemporaryDirectory(prefix="steerguard-demo-registry-") as folder:
        try:
            run(Path(folder), typer.echo)
        except SteerguardError as error:
            typer.echo(f"{error.code}: {error}", err=True)
            raise typer.Exit(1) from error


def run(folder: Path, say: Callable[[str], None]) -> RegistryDemo:
    """Carry out the demonstration in an empty folder.

    Args:
        folder: where everything is written.
        say: takes each line that is to be printed.

    Raises:
        typer.Exit: a command failed; what it said is on standard error.
        SteerguardError: as `steerguard.wrap`.
    """
    from steerguard.testing import LoopbackHub

    start = time.perf_counter()
    with LoopbackHub(folder / "hub") as hub, _on_this_hub(hub), chdir(folder):
        steps = _Steps(say)
        reference, digest = _publish(steps)
        files = len(hub.repository(_repository(reference)).files())
        _lock_and_sync(steps)
        return _guard(steps, hub, reference, digest, files, start)


class _Steps:
    """Carries out commands and other steps, and says what each was and how long it took."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def command(self, outcome: str, *words: str) -> None:
        """Carry out one command of this package, as if it had been typed."""
        from steerguard.cli.main import application

        self._say(f"$ steerguard {shlex.join(words)}")
        said, start = io.StringIO(), time.perf_counter()
        with redirect_stdout(said), redirect_stderr(said):
            command = typer.main.get_command(application([words[0]]))
            status = command.main(list(words), prog_name="steerguard", standalone_mode=False)
        if status:
            typer.echo(said.getvalue(), err=True)
            raise typer.Exit(int(status))
        self.done(outcome, start)

    def write(self, outcome: str, file: Path, text: str) -> None:
        """Write a file that a person would write."""
        self._say(f"$ $EDITOR {file}")
        start = time.perf_counter()
        file.write_text(text, encoding="utf-8")
        self.done(outcome, start)

    @contextmanager
    def python(self, line: str) -> Iterator[list[str]]:
        """Carry out one line of Python; the outcome is what the block puts into the list."""
        self._say(f">>> {line}")
        outcome, start = list[str](), time.perf_counter()
        yield outcome
        self.done(" ".join(outcome), start)

    def done(self, outcome: str, start: float) -> None:
        """Say what came out of a step."""
        self._say(f"  {outcome} ({time.perf_counter() - start:.1f} s)")


def _publish(steps: _Steps) -> tuple[str, str]:
    """Make a new version of an embedded artifact and publish it; return its name and digest."""
    from steerguard.artifacts.manifest import manifest_digest, parse_manifest
    from steerguard.registry.local import embedded_registry
    from steerguard.signing.keys import SigningKey

    for name, whose in (("release", "the publisher"), ("index", "the registry"), ("lab", "the lab that vets")):
        steps.command(f"A key for {whose}.", "keys", "new", f"{name}.pem")
    keys = {name: SigningKey.from_file(Path(f"{name}.pem")).public.text for name in ("release", "index", "lab")}
    major, minor, patch = embedded_registry().pinned(FAMILY)[0].version.split(".")
    version = f"{major}.{minor}.{int(patch) + 1}"
    model = ("--model", PACKAGED)
    steps.command(
        f"Version {version} says what it costs benign users.",
        *("vet", f"{FAMILY}@^{major}", *model, "--measure-side-effects", "--new-version", version, "--to", "vectors"),
    )
    steps.command(
        "Signed: the publisher vouches for these bytes.",
        *("registry", "sign", "vectors", "--publisher", "acme", "--key", "release.pem"),
    )
    steps.command(
        "Vetted with the quick suite by a lab with a key of its own: level 3, passed.",
        *("vet", "vectors", *model, "--key", "lab.pem", "--vetter", "A lab", "--independent"),
    )
    steps.write(
        "Whom the users of this registry believe.", Path("trust.yaml"), _TRUST.format(registry=REGISTRY, **keys)
    )
    steps.command(
        "One commit, read back byte by byte, tagged, and listed in the signed index.",
        *("registry", "publish", "vectors", "--registry", REGISTRY, "--key", "index.pem", "--trust", "trust.yaml"),
    )
    content = Path("vectors/manifest.json").read_bytes()
    return parse_manifest(content).reference, manifest_digest(content)


def _lock_and_sync(steps: _Steps) -> None:
    """Do what a user of the artifact does: lock it, and pull it on a machine that has nothing yet."""
    from steerguard.content import policies_directory

    text = (policies_directory() / f"{POLICY}.yaml").read_text(encoding="utf-8")
    there = f"artifact: {FAMILY}@"
    if there not in text:
        raise AssertionError(f"{POLICY} does not use {FAMILY}")
    own = text.replace(there, f"artifact: {REGISTRY}/{FAMILY}@")
    steps.write(f"{POLICY}, with the vectors from {REGISTRY}.", Path("policy.yaml"), own)
    steps.command(
        "Versions, digests and commits are pinned.",
        *("lock", "policy.yaml", "--model", PACKAGED, "--trust", "trust.yaml"),
    )
    os.environ["STEERGUARD_STORE"] = str(Path("store of a new machine").absolute())
    steps.command(
        "A clean store has the locked artifact; every byte is hashed, and the trust policy admits it.",
        *("sync", "--frozen", "--trust", "trust.yaml"),
    )


def _guard(
    steps: _Steps, hub: LoopbackHub, reference: str, digest: str, published_files: int, start: float
) -> RegistryDemo:
    """Wrap the model, answer, revoke the artifact, and answer again."""
    import steerguard
    from steerguard.audit.log import AuditLog
    from steerguard.models.packaged import load_packaged_smollm2

    model, tokenizer = load_packaged_smollm2()
    with AuditLog.open(Path("audit")) as log:
        hub.forget_requests()
        with steps.python(
            'wrap(model, "policy.yaml", tokenizer=tokenizer, trust="trust.yaml", lock="steerguard.lock")'
        ) as out:
            steerguard.wrap(
                model, "policy.yaml", tokenizer=tokenizer, trust="trust.yaml", lock="steerguard.lock", audit=log
            )
            asked = tuple(hub.requests)
            out.append(f"Guarded, with {len(asked)} requests to the Hub.")
        try:
            with steps.python("model.generate(...)  # a benign and a harmful prompt") as out:
                answers, before = _answered(model, tokenizer, (BENIGN, HARMFUL), TOKENS)
                out += [f"{decision.applied}: {text[:70]!r}." for decision, text in zip(before, answers, strict=True)]
            steps.command(
                "The list of revocations is signed and on the Hub.",
                *("registry", "revoke", "--registry", REGISTRY, "--digest", digest, "--note", "measured again"),
                *("--key", "index.pem", "--trust", "trust.yaml"),
            )
            with steps.python("model.generate(...)  # the benign prompt, in the same process") as out:
                refusal, after = _until_revoked(model, tokenizer)
                out.append(f"{after.applied}, since it is {after.cause}: {refusal!r}.")
        finally:
            steerguard.unwrap(model)
    steps.command("The audit log verifies.", "audit", "verify", "audit")
    seconds = time.perf_counter() - start
    steps.done(f"All of it, with the real client of the Hub and {len(hub.requests)} requests while guarded.", start)
    return RegistryDemo(
        reference=reference,
        digest=digest,
        published_files=published_files,
        wrap_requests=asked,
        before=before,
        answers=answers,
        after=after,
        refusal=refusal,
        audit_verified=True,
        seconds=seconds,
    )


def _until_revoked(model: Any, tokenizer: Any) -> tuple[str, Decision]:
    """Ask the same again until the guard has read the new list; return the last answer, whatever it is."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        (text,), (decision,) = _answered(model, tokenizer, (BENIGN,), 8)
        if decision.cause == "revoked" or time.monotonic() > end:
            return text, decision
        time.sleep(0.2)


def _answered(
    model: Any, tokenizer: Any, prompts: tuple[str, ...], tokens: int
) -> tuple[tuple[str, ...], tuple[Decision, ...]]:
    from steerguard.models.chat import render

    batch = render(tokenizer, [[{"role": "user", "content": text}] for text in prompts])
    with model.guard.collect() as decisions:
        output = model.generate(**batch, max_new_tokens=tokens, do_sample=False)
    texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return tuple(" ".join(text.split()) for text in texts), tuple(decisions)


def _repository(reference: str) -> str:
    return "acme/" + reference.partition("@")[0].replace("/", "_")


@contextmanager
def _on_this_hub(hub: LoopbackHub) -> Iterator[None]:
    """Point the environment's Hub, and the user's store, to what exists for the demonstration only."""
    settings: Mapping[str, str] = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": hub.token,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    before = {name: os.environ.get(name) for name in (*settings, "STEERGUARD_STORE")}
    os.environ.update(settings)
    try:
        with tempfile.TemporaryDirectory(prefix="steerguard-demo-registry-") as publisher:
            os.environ["STEERGUARD_STORE"] = publisher
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if "huggingface_hub" in sys.modules:
            from huggingface_hub import close_session

            close_session()
