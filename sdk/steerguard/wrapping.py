"""`wrap`, `unwrap` and `from_pretrained`: the straight line from a policy to a guarded model, readable aloud."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from steerguard.artifacts.fingerprint import PROMPTS, Fingerprint, check_fingerprint, recorded_fingerprint
from steerguard.artifacts.fit import fingerprint_entry
from steerguard.artifacts.integrity import located
from steerguard.audit.log import AuditLog
from steerguard.binding import bound_program, require_compilable, verified_artifacts
from steerguard.engine.compiled import CompiledExecutor
from steerguard.engine.hooks import BlockHooks
from steerguard.engine.loop import Engine
from steerguard.engine.modality_columns import require_modality_ids
from steerguard.engine.refusal import RefusalTemplate
from steerguard.errors import IncompatibleModelError
from steerguard.fence import raise_fence, remove_fence, require_unfenced
from steerguard.guard import Guard
from steerguard.guarded_class import (
    GUARD_ATTRIBUTE,
    bound_guard,
    guarded_class,
    original_class,
    require_removable,
)
from steerguard.load_records import Attempt, known_artifacts, noted
from steerguard.models.blocks import decoder_blocks
from steerguard.models.capture import measure_fingerprint
from steerguard.models.chat import GenerationPrompt
from steerguard.models.inspect import inspect_model, modality_ids, text_tokenizer
from steerguard.models.user_text import UserText
from steerguard.plan.compile import check_supported, compile_plan
from steerguard.plan.resolve import artifact_needs, resolve_artifacts
from steerguard.plan.tighten import check_tightens
from steerguard.policy.load import load_policy
from steerguard.recorder import Recorder
from steerguard.revocation import watched_artifacts
from steerguard.sourcing import open_sources, tell_warnings
from steerguard.tightening import RequestPolicies
from steerguard.watching import revocations_of
from steerguard.wrappable import require_arguments, require_wrappable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch

    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.decision import Decision
    from steerguard.models.facts import ModelFacts
    from steerguard.plan.plan import Mode, Plan
    from steerguard.policy.document import Policy
    from steerguard.registry.lockfile import Lockfile
    from steerguard.registry.store import ArtifactStore
    from steerguard.sourcing import Sourcing
    from steerguard.trust.document import TrustPolicy
    from steerguard.wrappable import Executor


Model = TypeVar("Model", bound=PreTrainedModel)


class _Clock:
    """How long each named part of `wrap` took, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def wrap(
    model: Model,
    policy: str | Path | Policy,
    *,
    tokenizer: Any,
    mode: Mode | None = None,
    executor: Executor = "eager",
    registry: ArtifactStore | Path | str | None = None,
    trust: TrustPolicy | Path | str | None = None,
    lock: Lockfile | Path | str | None = None,
    audit: AuditLog | Path | str | None = None,
    on_decision: Callable[[Decision], None] | None = None,
) -> Model:
    """Guard a model: from now on every `generate` follows the policy. Returns the same object.

    Either the model is guarded when this returns, or nothing about it has changed.

    Args:
        model: a decoder-only Hugging Face model, or a multimodal model around one, with its weights loaded.
        policy: name of a shipped policy, path, `file://` reference, or a `Policy`.
        tokenizer: the model's tokenizer or processor; its chat template tells where a prompt ends.
        mode: overrides the policy's mode: `enforce`, `monitor` (detect and record, change nothing) or `off`.
        executor: `eager`, or `compiled` for a model that is passed through `torch.compile` after this call.
        registry: where artifacts come from: a store, a folder or `hf://organisation`; the embedded one by default.
        trust: trust policy or its file; needed for registries on the Hub.
        lock: lock file; in mode `enforce` needed for registries on the Hub. Then nothing is fetched.
        audit: where decisions are recorded; a log in the user's log directory by default.
        on_decision: called with each decision once it is recorded; what it raises stops the release of the text.

    Raises:
        PolicyError: the document is wrong.
        ArtifactError: an artifact is missing, altered or malformed.
        TrustError: nobody who is trusted vouches for an artifact, or it is revoked.
        LockError: the lock file was made for something else, or a remote artifact is not locked.
        RegistryError: without a lock, in another mode than `enforce`: the registry does not answer.
        PlanError: policy, artifacts and model do not fit together.
        WrapError: the model is already wrapped.
        AuditError: the audit log cannot be opened, or cannot keep content as the policy says.

    A policy that is not put in force and an artifact that is not verified are recorded too, in a log of their own where
    none is open yet.
    """
    clock = _Clock()
    require_wrappable(model)
    require_arguments(policy=policy, mode=mode, executor=executor, audit=audit, trust=trust, lock=lock)
    attempt = Attempt()
    with attempt.recorded_in(audit):
        with clock.part("policy"):
            document = attempt.document = load_policy(policy)
            attempt.known = known_artifacts(document)
        with clock.part("facts and tokenizer digest"):
            facts = inspect_model(cast("Any", model), tokenizer)
        blocks = decoder_blocks(cast("Any", model))
        require_unfenced(blocks[0])
        with clock.part("plan"):
            # Before artifacts are looked for: those of a method that cannot run yet need not exist.
            check_supported(document)
            sourcing = open_sources(
                registry,
                trust=trust,
                lock=lock,
                enforce=(mode or document.mode) == "enforce",
                references=artifact_needs(document),
            )
            attempt.known = known_artifacts(document, lock=sourcing.sources.lock)
            resolved = resolve_artifacts(document, facts, sourcing.sources)
            tell_warnings(resolved.values())
            plan = compile_plan(document, facts, resolved, mode=mode)
            attempt.known = known_artifacts(document, plans=[plan])
        with clock.part("artifacts"):
            artifacts = verified_artifacts(plan, resolved)
            device = model.device
            program = bound_program(plan, artifacts, device=device)
            if executor == "compiled":
                require_compilable(program)
            require_modality_ids(program, modality_ids(cast("Any", model)))
        with clock.part("fingerprint"):
            distances = _check_weights(model, tokenizer, facts, artifacts)
        with clock.part("generation prompt and refusal"):
            prompt = GenerationPrompt.from_tokenizer(tokenizer)
            template = RefusalTemplate(plan.refusal_template, text_tokenizer(tokenizer))
    with clock.part("audit"):
        log = _audit_log(audit, plan)
    with _closed_on_failure(log, own=log is not audit), attempt.recorded_in(log):
        text = partial(text_tokenizer(tokenizer).decode, skip_special_tokens=True)
        with clock.part("audit"):
            recorder = Recorder(plan, log, on_decision, text=text)
            recorder.loaded(distances, {one.pin.digest: one.evidence for one in resolved.values()})
        hooks = BlockHooks(blocks)
        engine = Engine(
            owner=object(),
            program=program,
            hooks=hooks,
            compiled=CompiledExecutor(program, hooks, blocks) if executor == "compiled" else None,
            generation_prompt=prompt,
            template=template,
            mode=plan.mode,
            modality_ids=modality_ids(cast("Any", model)),
            text=text,
            user_text=UserText.of(tokenizer, prompt),
            artifacts=watched_artifacts(resolved, sourcing.trust),
        )
        guard = Guard(
            engine=engine,
            recorder=recorder,
            model=model,
            tokenizer=tokenizer,
            setup_seconds=clock.seconds,
            policies=RequestPolicies(
                engine,
                lambda stricter: _tightened(stricter, engine, sourcing, artifacts, tokenizer, device),
                recorder.refused,
            ),
            check_weights=lambda changed: _check_weights(changed, tokenizer, facts, artifacts),
            revocations=revocations_of(sourcing.trust, sourcing.revocations, sourcing.pulled),
        )
        guarded = guarded_class(cast("Any", type(model)))
        raise_fence(blocks[0], guard)
        if engine.compiled is not None:
            engine.compiled.install(model)
    object.__setattr__(model, GUARD_ATTRIBUTE, guard)
    model.__class__ = guarded
    return model


def unwrap(model: Model) -> Model:
    """Take the guard off: class and attributes are those of before `wrap`. The unwrapping is recorded first.

    Raises:
        NotWrappedError: the model is not wrapped.
        WrapError: the model's class was derived from the guarded one meanwhile; the model stays guarded.
        AuditError: the unwrapping could not be recorded; the model stays guarded.
    """
    require_removable(model)
    guard = bound_guard(model)
    guard.unwrapped()
    if guard.compiled is not None:
        guard.compiled.remove(model)
    remove_fence(guard.engine.hooks.first)
    model.__class__ = original_class(type(model))
    object.__delattr__(model, GUARD_ATTRIBUTE)
    return model


def from_pretrained(
    name: str | Path,
    policy: str | Path | Policy,
    *,
    mode: Mode | None = None,
    executor: Executor = "eager",
    registry: ArtifactStore | Path | str | None = None,
    trust: TrustPolicy | Path | str | None = None,
    lock: Lockfile | Path | str | None = None,
    audit: AuditLog | Path | str | None = None,
    on_decision: Callable[[Decision], None] | None = None,
    **load: Any,
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer, and wrap the model, in one line.

    Args:
        name: folder or Hub name, as for `AutoModelForCausalLM.from_pretrained`.
        policy: as for `wrap`.
        mode: as for `wrap`.
        executor: as for `wrap`.
        registry: as for `wrap`.
        trust: as for `wrap`.
        lock: as for `wrap`.
        audit: as for `wrap`.
        on_decision: as for `wrap`.
        load: passed on to `AutoModelForCausalLM.from_pretrained`; remote code is never run.

    Returns:
        The guarded model and its tokenizer.
    """
    model = AutoModelForCausalLM.from_pretrained(name, **{**load, "trust_remote_code": False})
    located = {
        key: load[key] for key in ("revision", "token", "cache_dir", "local_files_only", "gguf_file") if key in load
    }
    tokenizer = AutoTokenizer.from_pretrained(name, **located)
    wrapped = wrap(
        model,
        policy,
        tokenizer=tokenizer,
        mode=mode,
        executor=executor,
        registry=registry,
        trust=trust,
        lock=lock,
        audit=audit,
        on_decision=on_decision,
    )
    return wrapped, tokenizer


def _audit_log(audit: AuditLog | Path | str | None, plan: Plan) -> AuditLog:
    if isinstance(audit, AuditLog):
        return audit
    return AuditLog.open(None if audit is None else Path(audit), content=plan.audit_content)


@contextmanager
def _closed_on_failure(log: AuditLog, *, own: bool) -> Iterator[None]:
    """Close a log that `wrap` itself has opened when the block fails."""
    try:
        yield
    except BaseException as error:
        if own:
            noted(error, log.close)
        raise


def _tightened(
    document: Policy,
    in_force: Engine,
    sourcing: Sourcing,
    artifacts: Mapping[str, VerifiedArtifact],
    tokenizer: Any,
    device: torch.device,
) -> Engine:
    """Return the engine of a policy that single requests may use instead of the one in force.

    Raises:
        LooserPolicyError: it does not tighten the policy in force.
        ArtifactError: it names an artifact that there is not.
        TrustError: nobody who is trusted vouches for an artifact that it names, or it is revoked.
        LockError: the lock file was not made for it.
        PlanError: policy, artifacts and model do not fit together.
    """
    facts = in_force.program.plan.model
    check_supported(document)
    resolved = resolve_artifacts(document, facts, sourcing.sources)
    plan = compile_plan(document, facts, resolved, mode=in_force.mode)
    check_tightens(in_force.program.plan, plan)
    template = RefusalTemplate(plan.refusal_template, text_tokenizer(tokenizer))
    watched = dict.fromkeys((*in_force.artifacts, *watched_artifacts(resolved, sourcing.trust)))
    program = bound_program(plan, artifacts, device=device)
    return replace(in_force, program=program, template=template, artifacts=tuple(watched))


def _check_weights(
    model: Any, tokenizer: Any, facts: ModelFacts, artifacts: Mapping[str, VerifiedArtifact]
) -> dict[str, tuple[float, str]]:
    """Compare the model's fingerprint with that of every artifact; one forward pass in all.

    Returns:
        By artifact digest the measured distance and its limit.

    Raises:
        IncompatibleModelError: an artifact was made on other weights.
    """
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype != facts.dtype:
        raise IncompatibleModelError(
            "The model was cast to another floating point type after it was wrapped.",
            expected=facts.dtype,
            found=dtype,
            next_step="Cast the model before wrapping it.",
        )
    entries = {key: fingerprint_entry(artifact.manifest, facts) for key, artifact in artifacts.items()}
    blocks = tuple(sorted({block for entry in entries.values() for block in entry.blocks}))
    if not blocks:
        return {}
    directions = measure_fingerprint(model, tokenizer, blocks, PROMPTS)
    distances: dict[str, tuple[float, str]] = {}
    for key, entry in entries.items():
        columns = [blocks.index(block) for block in entry.blocks]
        measured = Fingerprint(blocks=entry.blocks, directions=directions[:, columns])
        limit = str(entry.max_one_minus_cos)
        with _named(artifacts[key].manifest.reference):
            found = check_fingerprint(recorded_fingerprint(artifacts[key], entry), measured, limit)
        distances[key] = (found, limit)
    return distances


@contextmanager
def _named(reference: str) -> Iterator[None]:
    """Say in an error about an artifact's fingerprint which artifact it is."""
    try:
        with located(reference):
            yield
    except IncompatibleModelError as error:
        raise IncompatibleModelError(
            error.summary,
            expected=error.expected,
            found=error.found,
            where=f"{reference}/{error.where}",
            next_step=error.next_step,
        ) from error.__cause__
