"""Guided scoring: direct forward passes over whole rows, a prompt and the answer whose likelihood is asked for.

A pass reads, decides and changes at once. The verdict is read at the end of the generation prompt; what follows it is
the answer to be scored, and its tokens get what generated ones would get. So the logits are those of guided generation.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from steerguard.decision import Decision, Usage
from steerguard.engine.active import ACTIVE, Stretch, activity, require_permission
from steerguard.engine.arguments import check_shapes
from steerguard.engine.call_trace import CallTrace
from steerguard.engine.exceeded import before_answers
from steerguard.engine.finish import GuidedResult
from steerguard.engine.modality_columns import changeable_columns
from steerguard.engine.outcome import RowVerdict, decision, doses, read_verdicts
from steerguard.engine.probing import probe
from steerguard.engine.refused_logits import Columns, refused_logits
from steerguard.engine.sampling import new_request, unpadded
from steerguard.engine.scored_rows import ScoredPrompt, scored_program
from steerguard.errors import UnsupportedGenerationError
from steerguard.policy.rules import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from steerguard.engine.loop import Engine
    from steerguard.engine.request import GuidedRequest

GUIDED_INPUTS = frozenset({"input_ids", "attention_mask", "labels", "logits_to_keep"})
"""Arguments of a forward pass that scoring follows; every other one raises by name."""

HARMLESS_VALUES = {
    "use_cache": (False,),
    "return_dict": (True,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "output_router_logits": (False,),
}
"""Arguments that change nothing at these values."""


class Scoring(Stretch):
    """A stretch of code whose direct forward passes are guided and recorded; made by `guard.forward`.

    Attributes:
        decisions: for each pass, in order, one `Decision` per row.

    Args:
        engine: of the policy that the passes run under.
        require_intact: refuses a model whose weights do not fit.
        at_start: returns the engine that one pass runs on; called before each.
        release: records decisions.
        failed: records that a pass failed.
    """

    permits_forward = False

    def __init__(
        self,
        engine: Engine,
        *,
        require_intact: Callable[[Any], None],
        at_start: Callable[[Engine], Engine],
        release: Callable[[GuidedResult, CallTrace], None],
        failed: Callable[[BaseException, CallTrace], None],
    ) -> None:
        super().__init__(engine.owner)
        self.decisions: list[tuple[Decision, ...]] = []
        self._engine = scored_engine(engine)
        self._require_intact = require_intact
        self._at_start = at_start
        self._release = release
        self._failed = failed

    def run(self, model: Any, plain: Callable[..., Any], arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Run one forward pass under guidance; its output holds `logits`, `loss` if labels were given, and `guidance`.

        Args:
            model: the wrapped model.
            plain: its own forward pass, bound.
            arguments: positional arguments of the call.
            named: named arguments of the call.

        Raises:
            UnsupportedGenerationError: an argument that scoring does not follow.
            AuditError: a decision could not be recorded; no logits are returned.
            GuidanceError: guidance failed; no logits are returned.
        """
        trace = CallTrace("forward")
        try:
            self._require_intact(model)
            result = _score(self._at_start(self._engine), model, plain, _inputs(model, arguments, named), trace)
            self._release(result, trace)
        except BaseException as error:
            self._failed(error, trace)
            raise
        self.decisions.append(result.decisions)
        return result.output


def current_scoring(owner: object) -> Scoring | None:
    """Return the scoring that this thread is in, or None where it may run the model as it is.

    Raises:
        UnguidedForwardError: it may do neither.
    """
    state = ACTIVE.get()
    if isinstance(state, Scoring) and state.owner is owner and state.is_here:
        return state
    require_permission(owner)
    return None


def scored_engine(engine: Engine) -> Engine:
    """Return the engine as scoring runs it: a closed answer is recognised, and given answers count as generated."""
    prompt = engine.generation_prompt
    return replace(
        engine,
        program=scored_program(engine.program),
        generation_prompt=None if prompt is None else ScoredPrompt.from_prompt(prompt),
    )


def _inputs(model: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a pass by name; refuse what scoring does not follow, before anything runs."""
    if getattr(model, "_compiled_call_impl", None) is not None:
        raise _unsupported("a compiled forward pass (`torch.compile`)")
    signature = inspect.signature(model.forward)
    given: dict[str, Any] = {}
    for name, value in signature.bind_partial(*arguments, **named).arguments.items():
        rest = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        given |= value if rest else {name: value}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name not in GUIDED_INPUTS and not any(value is legal for legal in HARMLESS_VALUES.get(name, ())):
            raise _unsupported(f"`{name}`")
    if "input_ids" not in given:
        raise _unsupported("no `input_ids`")
    try:
        check_shapes(given["input_ids"], given.get("attention_mask"))
    except UnsupportedGenerationError as error:
        raise _unsupported(str(error.found)) from None
    if isinstance(keep := given.get("logits_to_keep"), (list, tuple)):
        given["logits_to_keep"] = torch.tensor(keep, dtype=torch.long, device=given["input_ids"].device)
    elif isinstance(keep, torch.Tensor) and keep.dim() != 1:
        raise _unsupported(f"`logits_to_keep` of shape {tuple(keep.shape)}")
    if "labels" in given and getattr(model.config, "output_router_logits", False):
        raise _unsupported("`labels` while the model's settings add a router loss")
    return {name: value for name, value in given.items() if name in GUIDED_INPUTS}


def _score(
    engine: Engine, model: Any, plain: Callable[..., Any], inputs: Mapping[str, Any], trace: CallTrace
) -> GuidedResult:
    if engine.program.watches:
        raise _unsupported("a rolling guard, which reads answers while they are generated,")
    input_ids, attention = inputs["input_ids"], inputs.get("attention_mask")
    mask = torch.ones_like(input_ids, dtype=torch.bool) if attention is None else attention.bool()
    request = new_request(engine, input_ids, mask, cached=False, scores_answers=True)
    # Read before the pass, whose hooks belong to the app too.
    prompts = unpadded(input_ids, mask)
    trace.stage = "detect"
    output = _passed(engine, request, plain, {**inputs, **_positions(model, input_ids, attention)}, trace)
    trace.stage = "generate"
    columns = Columns.of(request, mask, logits_to_keep=inputs.get("logits_to_keep"))
    verdicts = read_verdicts(request, engine.mode)
    attended = mask.long().tolist()
    changeable = changeable_columns(
        engine.program, attended, prompts, engine.modality_ids, scored_behind=request.columns
    )
    row_doses = doses(request, verdicts, attended, 0, changeable)
    verdicts = _refuse_broken(verdicts, columns.broken(output.logits))
    decisions = tuple(
        decision(
            request,
            request_id=trace.request,
            row=row,
            mode=engine.mode,
            verdict=verdict,
            row_doses=row_doses[row],
            usage=Usage(
                prompt_tokens=len(prompts[row]),
                generated_tokens=0,
                extra_forward_tokens=engine.program.plan.cost.extra_forward_tokens(
                    len(prompts[row]), extra_passes=request.extra_passes
                ),
            ),
            template_cut=False,
        )
        for row, verdict in enumerate(verdicts)
    )
    final = _returned(engine, model, output, columns, verdicts, inputs.get("labels"))
    object.__setattr__(final, "guidance", decisions)
    return GuidedResult(
        output=final,
        decisions=decisions,
        prompts=prompts,
        answers=((),) * len(prompts),
        exceeded=tuple(before_answers(request.exceeded, range(request.rows), decisions)),
    )


def _passed(
    engine: Engine, request: GuidedRequest, plain: Callable[..., Any], inputs: Mapping[str, Any], trace: CallTrace
) -> Any:
    """Run the model over the rows: once, or twice where the verdict would come too late."""
    named = {**inputs, "use_cache": False, "return_dict": True}
    probe(engine, request, lambda _chunk: plain(**{name: named[name] for name in named if name != "labels"}))
    hooks = engine.hooks.install(request.prefill_hooks())
    try:
        with activity(request), torch.no_grad(), trace.outside():
            return plain(**named)
    finally:
        hooks.remove()


def _positions(model: Any, input_ids: Tensor, attention: Tensor | None) -> dict[str, Tensor]:
    """Return the position numbers that `generate` would give a padded batch; nothing where there is no padding."""
    if attention is None or bool(attention.all()) or "position_ids" not in inspect.signature(model.forward).parameters:
        return {}
    found = model._prepare_position_ids_for_generation(  # noqa: SLF001 - so that a verdict is the one of generate
        input_ids, {"input_ids": input_ids, "attention_mask": attention}
    )
    return {"position_ids": found}


def _refuse_broken(verdicts: tuple[RowVerdict, ...], broken: list[bool]) -> tuple[RowVerdict, ...]:
    """Turn open rows whose logits are not finite into refusals."""
    return tuple(
        replace(
            verdict,
            applied="refuse",
            verdict=Verdict(rules=verdict.verdict.rules, action="refuse", use=(), cause="non_finite"),
        )
        if verdict.open and broken[row]
        else verdict
        for row, verdict in enumerate(verdicts)
    )


def _returned(
    engine: Engine,
    model: Any,
    output: Any,
    columns: Columns,
    verdicts: tuple[RowVerdict, ...],
    labels: Tensor | None,
) -> Any:
    """Return logits and loss only: states of a refused row must not leave either."""
    logits, loss = output.logits, output.loss if labels is not None else None
    if any(verdict.applied == "refuse" for verdict in verdicts):
        logits = refused_logits(logits, columns, verdicts, engine.template, model.generation_config)
        if labels is not None:
            loss = model.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
    return type(output)(logits=logits) if loss is None else type(output)(loss=loss, logits=logits)


def _unsupported(what: str) -> UnsupportedGenerationError:
    return UnsupportedGenerationError(
        f"This version does not score with {what} under guidance.",
        expected="a forward pass over input_ids, with attention_mask, labels and logits_to_keep at most",
        found=what,
        where="guard.forward",
        next_step="Leave it out, or run inside `with model.guard.unguided(reason):`, which records the bypass.",
    )
