"""One call of `generate`, before and after its decoding loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerguard.engine.arguments import unsupported

if TYPE_CHECKING:
    from steerguard.engine.call_trace import CallTrace
    from steerguard.engine.finish import GuidedResult
    from steerguard.engine.loop import Engine
    from steerguard.engine.own_caches import CacheTurn
    from steerguard.recorder import Recorder


class GuardedCall:
    """One call of `generate`: what its decoding loop needs, and what came of it.

    Args:
        engine: of the policy that it runs under.
        recorder: of that policy.
        trace: id, stage and time of the call.
    """

    permits_forward = False
    passing: int | None = None

    def __init__(self, engine: Engine, recorder: Recorder, trace: CallTrace) -> None:
        self.owner = engine.owner
        self.engine = engine
        self.recorder = recorder
        self.trace = trace
        self.live = True
        self.turn: CacheTurn | None = None
        self.result: GuidedResult | None = None

    def end(self) -> None:
        """Take no decoding loop from here on."""
        self.live = False

    def outcome(self) -> GuidedResult:
        """Return what the decoding loop came to; a call that took another way is refused."""
        if self.result is None:
            raise unsupported("a decoding loop other than greedy search, sampling and beam search")
        return self.result
