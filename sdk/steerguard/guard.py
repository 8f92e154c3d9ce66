"""The guard of one wrapped model: a bound plan, and the straight line that every `generate` follows.

    arguments checked → prefill read and decided → text generated under guidance → decisions recorded → text released

It owns no state of a request, so threads may generate at once.
"""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch

from steerguard.engine.active import ACTIVE, Unguided, activity, require_permission
from steerguard.engine.arguments import CACHE, unsupported
from steerguard.engine.cache_kinds import keeps_keys
from steerguard.engine.call_checks import check_call, check_compiled
from steerguard.engine.call_trace import CallTrace
from steerguard.engine.checking import check_batch
from steerguard.engine.loop import Engine
from steerguard.engine.sampling import guided_sample
from steerguard.engine.scoring import Scoring
from steerguard.engine.streaming import guard_streamer
from steerguard.errors import IncompatibleModelError, NotWrappedError, SteerguardError, UnsupportedGenerationError
from steerguard.explain import Explanation, explain
from steerguard.guarded_call import GuardedCall
from steerguard.models.blocks import decoder_blocks
from steerguard.models.chat import render
from steerguard.models.weights_token import weights_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from steerguard.audit.log import AuditLog
    from steerguard.decision import Decision
    from steerguard.engine.finish import GuidedResult
    from steerguard.engine.own_caches import CacheTurn
    from steerguard.models.chat import Conversation
    from steerguard.plan.plan import Plan
    from steerguard.policy.document import Policy
    from steerguard.recorder import Recorder
    from steerguard.revocation import Revocations
    from steerguard.tightening import RequestPolicies


class Guard:
    """What stands between an app and one wrapped model; made by `steerguard.wrap`, reached as `model.guard`.

    Attributes:
        owner: token that the activities of this guard carry.
        compiled: the executor of a model that the app compiles; None with `executor="eager"`.
        setup_seconds: how long each part of `wrap` took, by name.
        revocations: what is watched while the guard runs; None without a trust policy.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        recorder: Recorder,
        model: Any,
        tokenizer: Any,
        setup_seconds: Mapping[str, float],
        policies: RequestPolicies,
        check_weights: Callable[[Any], object],
        revocations: Revocations | None = None,
    ) -> None:
        self._engine = engine
        self.owner = engine.owner
        self.compiled = engine.compiled
        self._recorder = recorder
        self._model = weakref.ref(model)
        self._tokenizer = tokenizer
        self._policies = policies
        self._check_weights = check_weights
        self.revocations = revocations
        self._weights = weights_token(model)
        self._unfit: str | None = None
        self.setup_seconds = dict(setup_seconds)

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self._engine.program.plan

    @property
    def engine(self) -> Engine:
        """The bound engine, for benchmarks and tests."""
        return self._engine

    @property
    def audit(self) -> Any:
        """The audit log that decisions go to."""
        return self._recorder.audit

    @property
    def hooked_blocks(self) -> tuple[int, ...]:
        """Decoder blocks that carry a hook at this moment; empty while no request runs."""
        return self._engine.hooks.installed

    def generate(self, model: Any, original: Callable[..., Any], arguments: tuple[Any, ...], named: Any) -> Any:
        """Generate under guidance; signature and return types are those of `model.generate`.

        Args:
            model: the wrapped model.
            original: its own `generate`, bound.
            arguments: positional arguments of the call.
            named: named arguments of the call; `policy` among them is a stricter policy for this call only, as for
                `wrap`, and does nothing where guidance is off.

        Raises:
            UnsupportedGenerationError: a way of generating that this version does not guide.
            LooserPolicyError: `policy` does not tighten the policy in force.
            AuditError: a decision could not be recorded; no text is returned.
            GuidanceError: guidance failed; no text is returned.
        """
        policy = named.pop("policy", None)
        if self.allows_unguided():
            return original(*arguments, **named)
        if self.plan.mode == "off":
            self._recorder.bypassed("unguided", "mode off")
            with activity(Unguided(self.owner)):
                return original(*arguments, **named)
        trace, recorder, streamer = CallTrace("generate"), self._recorder, None
        try:
            streamer, arguments, named = guard_streamer(original, arguments, named)
            engine = self._policies.engine_for(policy)
            recorder = recorder.under(engine.program.plan)
            engine = self._unless_revoked(engine, recorder)
            call = GuardedCall(engine, recorder, trace)
            self._require_intact(model)
            compiles = self.compiled is not None
            check_compiled(model, compiles=compiles)
            width = check_call(model, original, arguments, named, compiles=compiles)
            lent = engine.caches.turn(named.get(CACHE), width=width, may_continue=keeps_keys(model, self.plan))
            if streamer is not None:
                recorder.streamed(trace)
            with lent as call.turn:
                with self.uncompiled(model), activity(call), trace.outside():
                    output = original(*arguments, **named)
                result = call.outcome()
                if streamer is not None:
                    streamer.check(result.generated)
                recorder.release(result, trace)
            if streamer is not None:
                streamer.finish(result.generated)
        except BaseException as error:
            recorder.failed(error, trace)
            if streamer is not None:
                streamer.fail(error)
            raise
        return self._with_report(output, result)

    def decode(
        self, original: Callable[..., Any], input_ids: torch.Tensor, named: dict[str, Any], *, beams: bool
    ) -> Any:
        """Run the decoding loop of one call; reached only from within `generate`.

        Args:
            original: transformers' loop, bound.
            input_ids: int64 `[rows, prompt width]`.
            named: its other arguments.
            beams: whether it is beam search.

        Raises:
            UnguidedForwardError: the loop was started some other way.
        """
        state = ACTIVE.get()
        if self.allows_unguided():
            return original(input_ids, **named)
        if not isinstance(state, GuardedCall) or state.owner is not self.owner or not state.live:
            self.require_permission()
            raise unsupported("a decoding loop started by hand")
        with state.trace.inside():
            state.result = guided_sample(
                state.engine,
                original,
                input_ids,
                model=self._model(),
                beams=beams,
                record=state.recorder.decided,
                turn=cast("CacheTurn", state.turn),
                trace=state.trace,
                **named,
            )
        return state.result.output

    def check(self, messages: Conversation | Sequence[Conversation]) -> Any:
        """Detect without generating: one prompt pass, nothing changed, the decision recorded.

        Args:
            messages: one conversation (a list of messages), or several.

        Returns:
            One `Decision` for one conversation, a list of them for several.
        """
        single = bool(messages) and hasattr(messages[0], "keys")
        conversations = cast("Sequence[Conversation]", [messages] if single else messages)
        decisions = self._check(conversations) if conversations else []
        return decisions[0] if single else decisions

    def explain(self, messages: Conversation) -> Explanation:
        """Say what every detector read for one conversation and what would flip the verdict."""
        calibrations = {name: source.words for name, source in self.plan.calibrations.items()}
        return explain(self._check([messages])[0], calibrations)

    @contextmanager
    def collect(self) -> Iterator[list[Decision]]:
        """Gather the decisions of all calls that this thread makes inside the block, one per returned row."""
        with self._recorder.collect() as reports:
            yield reports

    @contextmanager
    def unguided(self, reason: str) -> Iterator[None]:
        """Let this thread use the model without guidance inside the block; the bypass and its reason are recorded first.

        It holds for this thread and this asynchronous task, and ends with the block.
        In a generator it also holds for the caller while the generator is suspended inside the block: leave the block
        before `yield`.

        Args:
            reason: why, one sentence without prompt text; it goes to the audit log.

        Raises:
            UnsupportedGenerationError: the reason is empty.
            AuditError: the bypass could not be recorded.
        """
        if not str(reason or "").strip():
            raise UnsupportedGenerationError(
                "A bypass needs a reason.", expected="one sentence", found="none", where="guard.unguided"
            )
        self._recorder.bypassed("unguided", reason)
        with activity(Unguided(self.owner)):
            yield

    def require_permission(self) -> None:
        """Refuse a forward pass of the model that no request of this guard started."""
        require_permission(self.owner)

    def weights_changed(self, model: Any) -> None:
        """Check the fingerprint again; until it fits, every request is refused.

        Raises:
            IncompatibleModelError: the weights are not those that the artifacts were made on.
        """
        self._unfit = "the check was interrupted"
        self._engine.caches.outdate()
        try:
            with self.uncompiled(model), activity(Unguided(self.owner)):
                self._engine.hooks.require_blocks(decoder_blocks(model))
                self._check_weights(model)
        except SteerguardError as error:
            self._unfit = error.summary
            self._recorder.not_verified(error)
            raise
        finally:
            self._weights = weights_token(model)
        self._unfit = None

    def use_audit(self, audit: AuditLog) -> None:
        """Go on with another audit log, for example after the first one broke; it starts with what is in force.

        Raises:
            AuditError: the new log cannot be written; the old one stays in use.
        """
        self._recorder.use(audit)
        if self.revocations is not None:
            self.revocations.forget()

    def unwrapped(self) -> None:
        """Record that the model goes back to its owner without guidance, know no cache any more, and watch nothing."""
        self._engine.caches.forget()
        self._recorder.bypassed("unwrap", "steerguard.unwrap was called")
        if self.revocations is not None:
            self.revocations.close()

    def _check(self, conversations: Sequence[Conversation]) -> list[Decision]:
        model = self._model()
        if model is None:
            raise NotWrappedError(
                "The model of this guard no longer exists.", expected="the model that was wrapped", found="nothing"
            )
        trace, recorder = CallTrace("check"), self._recorder
        try:
            batch = render(self._tokenizer, conversations, device=model.device)
            recorder = recorder.under(self.plan)
            self._require_intact(model)
            with self.uncompiled(model):
                engine = self._unless_revoked(self._engine, recorder)
                result = check_batch(engine, model, batch["input_ids"], batch["attention_mask"], trace=trace)
            recorder.release(result, trace)
        except BaseException as error:
            recorder.failed(error, trace)
            raise
        return list(result.decisions)

    def uncompiled(self, model: Any) -> AbstractContextManager[None]:
        """Keep other threads out and run a model without `torch.compile` inside the block, where the app may compile it.

        The decode steps of a generation run compiled again.
        """
        return nullcontext() if self.compiled is None else self.compiled.uncompiled(model)

    def allows_unguided(self) -> bool:
        """Return whether this thread is inside `unguided`."""
        state = ACTIVE.get()
        return isinstance(state, Unguided) and state.owner is self.owner and state.permits_forward

    def _unless_revoked(self, engine: Engine, recorder: Recorder) -> Engine:
        """Return the engine that a call runs on from its start to its end; a revoked artifact makes it refuse all rows."""
        return engine if self.revocations is None else self.revocations.applied(engine, recorder.audit)

    def _require_intact(self, model: Any) -> None:
        """Refuse a model whose weights do not fit; check again when modules or weights were exchanged."""
        if weights_token(model) != self._weights:
            self.weights_changed(model)
        if self._unfit is not None:
            raise IncompatibleModelError(
                "The model's weights changed and do not fit the artifacts, so the guard refuses to run.",
                expected="the weights that were wrapped",
                found=self._unfit,
                next_step="Load the original weights, or unwrap the model.",
            )

    @staticmethod
    def _with_report(output: Any, result: GuidedResult) -> Any:
        """Attach the decisions to a dictionary output as `.guidance`."""
        if not isinstance(output, torch.Tensor):
            object.__setattr__(output, "guidance", result.decisions)
        return output

    @contextmanager
    def forward(self, *, policy: str | Path | Policy | None = None) -> Iterator[Scoring]:
        """Make direct forward passes of the model legal and guided in this thread, inside the block.

        A row is a prompt and the answer whose likelihood is asked for. The verdict is read at the end of the generation
        prompt, guidance acts in the same pass, and the decisions are recorded before the logits are returned.
        In mode `off` the passes run without guidance, and entering the block records that.

        Args:
            policy: a stricter policy for this block only, as for `generate`.

        Returns:
            The scoring; its `decisions` hold one tuple per pass with one `Decision` per row.

        Raises:
            LooserPolicyError: `policy` does not tighten the policy in force.
            AuditError: the policy of the block, or mode `off`, could not be recorded.
        """
        if self.plan.mode == "off":
            self._recorder.bypassed("unguided", "mode off")
            engine, recorder = self._engine, self._recorder
        else:
            engine = self._policies.engine_for(policy)
            recorder = self._recorder.under(engine.program.plan)
        scoring = Scoring(
            engine,
            require_intact=self._require_intact,
            at_start=lambda scored: self._unless_revoked(scored, recorder),
            release=recorder.release,
            failed=recorder.failed,
        )
        with activity(Unguided(self.owner) if self.plan.mode == "off" else scoring):
            yield scoring
