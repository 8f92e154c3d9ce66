"""Streamed answers: what a caller's streamer gets, and when.

`buffer` holds everything back until the answer is decided and recorded.
`window` releases tokens as they are generated, once the verdict on the prompt is recorded; what turns out later to be
wrong ends the stream with an error, because text that was released cannot be taken back.
`unsafe_passthrough` releases tokens as they are generated and records afterwards.
A refused row streams the template in every strategy, and no strategy leaves a consumer waiting.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation.streamers import BaseStreamer

from steerguard.engine.arguments import unsupported
from steerguard.errors import AnswerStoppedError, NonFiniteHiddenStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from steerguard.engine.request import GuidedRequest
    from steerguard.policy.limits import Strategy


class GuardedStreamer(BaseStreamer):  # type: ignore[misc]  # transformers' classes are untyped
    """Stands before a caller's streamer and passes on what may leave.

    Args:
        inner: the caller's streamer.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._strategy: Strategy = "buffer"
        self._request: GuidedRequest | None = None
        self._templates: Mapping[int, tuple[int, ...]] | None = None
        self._broken: Callable[[], set[int]] = set
        self._stopped: Callable[[], set[int]] = set
        self._pad = 0
        self._prompt_seen = False
        self._ended = False
        self._released: list[Tensor] = []

    @property
    def records_first(self) -> bool:
        """Whether the verdicts must be recorded before the first token is chosen."""
        return self._strategy == "window"

    def start(self, request: GuidedRequest, strategy: Strategy, *, pad: int) -> None:
        """Learn which request the tokens belong to, when they may leave and what fills finished rows."""
        self._request, self._strategy, self._pad = request, strategy, pad

    def decided(
        self,
        templates: Mapping[int, tuple[int, ...]],
        broken: Callable[[], set[int]],
        stopped: Callable[[], set[int]] = set,
    ) -> None:
        """Learn the verdicts: from here on tokens may leave.

        Args:
            templates: what each refused row holds, by row.
            broken: returns the open rows whose state was not finite; waits for the device.
            stopped: returns the rows that were refused in the middle of their answer; waits for the device.
        """
        self._templates, self._broken, self._stopped = templates, broken, stopped

    def put(self, value: Tensor) -> None:
        """Take the prompt, then one token of every row after each step; called by transformers' loop.

        Raises:
            NonFiniteHiddenStateError: the state of an open row stopped being finite; in `window` only.
            AnswerStoppedError: a row was refused in the middle of its answer; in `window` only.
        """
        if not self._prompt_seen:
            self._prompt_seen = True
            self._give(value)
            return
        if self._strategy == "buffer" or self._templates is None:
            return
        if self._strategy == "window" and self._broken():
            raise _terminated()
        if self._strategy == "window" and self._stopped():
            raise _stopped()
        column = self._shown(value.reshape(-1))
        if column is not None:
            self._released.append(column)
            self._give(column)

    def end(self) -> None:
        """Do nothing: that transformers' loop has ended does not mean that its answer may leave."""

    def check(self, answers: Tensor) -> None:
        """Refuse to go on when the decided answers are not what was released.

        Args:
            answers: int64 `[rows, generated]`, padding of finished rows included.

        Raises:
            NonFiniteHiddenStateError: a row was refused after tokens of it had left.
            AnswerStoppedError: as above, and a rolling guard refused it.
        """
        columns = answers.t().cpu()
        if len(self._released) > len(columns) or any(
            not torch.equal(released, column) for released, column in zip(self._released, columns, strict=False)
        ):
            raise _stopped() if self._stopped() else _terminated()

    def finish(self, answers: Tensor) -> None:
        """Release what has not left yet of the decided and recorded answers, and end the stream; see `check`."""
        for column in answers.t().cpu()[len(self._released) :]:
            self._give(column)
        self._ended = True
        self._inner.end()

    def fail(self, error: BaseException) -> None:
        """End the stream of a call that failed, so that nobody waits for more; the error is raised all the same."""
        if self._ended:
            return
        self._ended = True
        try:
            self._inner.end()
        except Exception as second:  # noqa: BLE001 - a caller's streamer can raise anything; the first error counts
            error.add_note(f"The streamer could not be ended: {type(second).__name__}.")

    def _shown(self, tokens: Tensor) -> Tensor | None:
        """Return the tokens with those of refused rows from the template; None behind the end of a refused batch."""
        templates, step = self._templates or {}, len(self._released)
        if templates and len(templates) == len(tokens) and step >= max(len(ids) for ids in templates.values()):
            return None
        shown = tokens.clone()
        for row, ids in templates.items():
            shown[row] = ids[step] if step < len(ids) else self._pad
        return shown

    def _give(self, value: Tensor) -> None:
        request = self._request
        if request is None or request.in_callbacks:
            self._inner.put(value)
            return
        # A streamer is code of the app: no forward pass belongs there.
        request.in_callbacks = True
        try:
            self._inner.put(value)
        finally:
            request.in_callbacks = False


def guard_streamer(
    original: Callable[..., Any], arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[GuardedStreamer | None, tuple[Any, ...], dict[str, Any]]:
    """Return the call's arguments with a guarded streamer in place of the caller's; None where there is no streamer.

    Args:
        original: the model's own `generate`, bound.
        arguments: positional arguments of the call.
        named: named arguments of the call.

    Raises:
        UnsupportedGenerationError: the streamer is not one.
    """
    call = inspect.signature(original).bind_partial(*arguments, **named)
    inner = call.arguments.get("streamer")
    if inner is None:
        return None, arguments, dict(named)
    if not callable(getattr(inner, "put", None)) or not callable(getattr(inner, "end", None)):
        raise unsupported("a `streamer` without `put` and `end`")
    streamer = GuardedStreamer(inner)
    call.arguments["streamer"] = streamer
    return streamer, call.args, call.kwargs


def _stopped() -> AnswerStoppedError:
    return AnswerStoppedError(
        "A streamed answer was ended: a rolling guard refused it after the stream had begun.",
        expected="scores below the threshold at every read of the answer",
        found="a score that reached it",
        where="streamer",
        next_step="Discard the text that was streamed; with `streaming: {strategy: buffer}` the template is streamed.",
    )


def _terminated() -> NonFiniteHiddenStateError:
    return NonFiniteHiddenStateError(
        "A streamed answer was ended: the model's state stopped being finite after text had been released.",
        expected="finite hidden states in every guided row",
        found="a row that is not finite",
        where="streamer",
        next_step="Discard the text that was streamed; with `streaming: {strategy: buffer}` the row is refused instead.",
    )
