"""Caches that outlive a call: what this guard filled them with, and when the next turn may go on behind it.

Invariants:
- With a cache of an earlier turn a call has the outcome of the same call without one. A cache saves time; it changes
  no verdict and is no way around one.
- A prefill goes on behind a cache only where the states in it are those that the call without a cache would have there:
  of the same tokens, seen by the same mask, changed by nothing. In every other case the cache is emptied in place, and
  the prefill goes over all columns.
- A cache that this guard did not fill, or that was changed since, is refused by name and left as it is.
- Nothing is stored on a cache, and no record keeps one alive.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from steerguard.engine.cache_kinds import (
    can_be_continued,
    can_be_cropped,
    crop,
    empty,
    fixed_rows,
    is_empty,
    lengths,
    states,
)
from steerguard.engine.schedules import first_changed
from steerguard.errors import UnsupportedGenerationError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from torch import Tensor

    from steerguard.detect.probe import Probe
    from steerguard.engine.request import GuidedRequest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """The tokens whose unguided states lie in a cache; on the CPU."""

    ids: Tensor
    """int64 `[rows, columns]`."""
    mask: Tensor
    """bool `[rows, columns]`, False where a column was hidden from the ones behind it."""
    in_mean: Tensor
    """bool `[rows, prompt columns]`, the columns that `sums` are over; the prompt came before what was generated."""
    sums: Mapping[Hashable, Tensor] = field(default_factory=dict)
    """float32 `[rows, width]` by block, what a prompt mean was made of, where it lies on the device; empty for none."""

    @property
    def count(self) -> int:
        """How many columns there are."""
        return int(self.ids.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Record:
    columns: Columns | None
    """None where the next turn must start over: something was steered, or rows were moved about."""
    lengths: tuple[int, ...]
    """Columns that each layer has seen."""
    seal: tuple[tuple[weakref.ref[Tensor], int | None], ...]
    """The tensors that the cache held, and how often each had been edited in place."""


class OwnCaches:
    """The caches that one guard has filled, known by identity."""

    def __init__(self) -> None:
        self._records: weakref.WeakKeyDictionary[Any, _Record] = weakref.WeakKeyDictionary()
        self._in_use: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, cache: Any, *, width: int | None = None, may_continue: bool = True) -> Iterator[CacheTurn]:
        """Lend a cache to one call; a call that fails leaves it empty.

        Args:
            cache: what the app passed, of a known kind; None for nothing.
            width: columns of the prompt; None where the call brings no tokens.
            may_continue: False for a model or a call whose earlier columns must always be run again.

        Raises:
            UnsupportedGenerationError: the cache holds what this guard did not put there, another call uses it, or the
                prompt is not longer than what it holds.
        """
        if cache is None:
            yield CacheTurn(self, None, None, plain=may_continue)
            return
        record = self._borrow(cache, width)
        try:
            turn = CacheTurn(self, cache, None if record is None else record.columns, plain=may_continue)
            if record is not None and (record.columns is None or not may_continue or not can_be_continued(cache)):
                # Now, because some classes number the positions of a prompt by what their cache holds.
                turn.start_over()
            yield turn
        except BaseException:
            with self._lock:
                self._records.pop(cache, None)
            empty(cache)
            raise
        finally:
            with self._lock:
                self._in_use.discard(cache)

    def keep(self, cache: Any, columns: Columns | None) -> None:
        """Remember what a call has left in a cache.

        Args:
            cache: the cache.
            columns: what the next turn may go on behind; None where it must start over.
        """
        seal = tuple((weakref.ref(state), _edits(state)) for state in states(cache))
        with self._lock:
            self._records[cache] = _Record(columns=columns, lengths=lengths(cache), seal=seal)

    def outdate(self) -> None:
        """Let no next turn go on behind what any cache holds: the model is not the one that computed it."""
        with self._lock:
            for cache, record in list(self._records.items()):
                self._records[cache] = replace(record, columns=None)

    def forget(self) -> None:
        """Know no cache any more."""
        with self._lock:
            self._records.clear()

    def _borrow(self, cache: Any, width: int | None) -> _Record | None:
        """Return the record of a cache that is filled, None for an empty one; it is in use from here on."""
        with self._lock:
            if cache in self._in_use:
                raise _refused(
                    "another call is using this cache", "a cache for each call that runs", "one cache in two"
                )
            record = self._records.get(cache)
            if not is_empty(cache):
                _require_untouched(cache, record)
                held = max(lengths(cache))
                if width is None or width <= held:
                    raise _refused(
                        "the prompt is not longer than what the cache holds",
                        f"the whole conversation in `input_ids`, more than {held} columns",
                        f"{width or 0} columns",
                    )
            else:
                record = None
            self._records.pop(cache, None)
            self._in_use.add(cache)
            return record


class CacheTurn:
    """One call and the cache that the app brought to it.

    Args:
        caches: where the outcome is remembered.
        cache: the cache; None where the app brought none.
        columns: what lies in it that the call may go on behind; None for nothing.
        plain: whether the tokens and their mask alone say what the cache will hold.
    """

    def __init__(self, caches: OwnCaches, cache: Any, columns: Columns | None, *, plain: bool) -> None:
        self._caches = caches
        self.cache = cache
        self._columns = columns
        self._plain = plain

    def start_over(self) -> None:
        """Empty the cache, so that the prefill goes over all columns."""
        self._columns = None
        if self.cache is not None:
            empty(self.cache)

    def settle(self, request: GuidedRequest, input_ids: Tensor, *, plain: bool) -> None:
        """Let the prefill of a request go on behind the cache where that is exact; otherwise start over.

        Args:
            request: the request, before anything was read; its `first_column` is set.
            input_ids: int64 `[rows, prompt width]`.
            plain: whether the call brings nothing but tokens and their mask.

        Raises:
            UnsupportedGenerationError: the cache is bound to another number of rows.
        """
        self._plain = self._plain and plain
        if self.cache is None:
            return
        rows = fixed_rows(self.cache)
        if rows is not None and rows != request.rows:
            raise _refused("this kind of cache keeps its number of rows", f"{rows} rows", f"{request.rows} rows")
        held, count = self._columns, 0
        if held is not None and self._plain:
            count = spared(held, request, self.cache)
        if held is None or not count or not holds(held, input_ids, request.prompt_mask, count):
            self.start_over()
            return
        crop(self.cache, held.count - count)
        request.prompt_states.seed(held.sums)
        request.first_column = count

    def close(self, cache: Any, columns: Columns | None, *, refused: bool) -> None:
        """Remember the cache of a call that succeeded.

        Args:
            cache: of a known kind; what the app brought, or what its output carries.
            columns: what the next turn may go on behind; None where it must start over.
            refused: whether a row was refused; then the cache is emptied, for it holds what the model made of it.
        """
        if refused:
            empty(cache)
        else:
            self._caches.keep(cache, columns if self._plain else None)


def spared(held: Columns, request: GuidedRequest, cache: Any) -> int:
    """Return how many columns of a cache a request neither reads nor changes, whatever its verdict; 0 for none.

    A prompt mean needs the sums over earlier columns, and those are known of the earlier prompt only: what was generated
    behind it is run again.

    Args:
        held: what the cache holds.
        request: the request, before anything was read.
        cache: the cache.
    """
    program, count = request.program, held.count
    if program.reads_prompt_mean:
        read = {block for probe in program.probes for block, over in _parts(probe) if over == "prompt_mean"}
        known = read and read <= held.sums.keys() and can_be_cropped(cache)
        if not known or any(over == "prompt_mean" for watch in program.watches for _, over in _parts(watch.probe)):
            return 0
        count = held.in_mean.shape[1]
        if not torch.equal(request.mean_mask[:, :count].cpu(), held.in_mean):
            return 0
    return count if leaves(request, count) else 0


def _parts(probe: Probe) -> Iterator[tuple[int, str]]:
    return zip(probe.blocks, probe.over, strict=True)


def holds(held: Columns, input_ids: Tensor, prompt_mask: Tensor, count: int) -> bool:
    """Return whether every token of a prompt that lies in a cache has there the state that its prompt gives it.

    A cached column may be hidden by the prompt only where no column of the same row is visible behind it, as the
    filler of a row that ended before its neighbours.

    Args:
        held: what the cache holds.
        input_ids: int64 `[rows, prompt width]`.
        prompt_mask: bool `[rows, prompt width]`.
        count: how many of the cached columns matter.
    """
    if input_ids.shape[0] != held.ids.shape[0]:
        return False
    ids, mask = input_ids[:, :count].cpu(), prompt_mask[:, :count].cpu()
    behind = mask.flip(1).cumsum(dim=1).flip(1) > 0
    same = ((mask == held.mask[:, :count]) | ~behind) & ((ids == held.ids[:, :count]) | ~mask)
    return bool(same.all())


def leaves(request: GuidedRequest, columns: int) -> bool:
    """Return whether no row of a request has its prompt's end or an intervention in its first columns."""
    rows = [
        (attention, end)
        for attention, end, seen in zip(request.prompt_mask.tolist(), request.columns, request.recognised, strict=True)
        if seen
    ]
    items = request.program.interventions if request.steers else ()
    return all(end >= columns for _, end in rows) and all(
        first_changed(item.schedule, attention=attention, end=end) >= columns
        for item in items
        for attention, end in rows
    )


def columns_of(cache: Any, sequences: Tensor, request: GuidedRequest) -> Columns:
    """Return which tokens a cache holds after a run without beams.

    Args:
        cache: the cache; the last generated token is not in it.
        sequences: int64 `[rows, width]`, what the loop has fed to the model; every generated column was visible.
        request: the request, ended.
    """
    count = max(lengths(cache))
    mask = torch.ones(sequences.shape[0], count, dtype=torch.bool, device="cpu")
    shown = min(count, request.prompt_mask.shape[1])
    mask[:, :shown] = request.prompt_mask[:, :shown].cpu()
    return Columns(
        ids=sequences[:, :count].cpu().clone(),
        mask=mask,
        in_mean=request.mean_mask.cpu(),
        sums=dict(request.prompt_states.totals),
    )


def _require_untouched(cache: Any, record: _Record | None) -> None:
    if record is None:
        raise _refused(
            "it holds what this guard did not put there",
            "an empty cache, or the cache of an earlier guided call itself, not a copy",
            f"{max(lengths(cache))} columns of unknown origin",
        )
    now = lengths(cache)
    if now != record.lengths:
        raise _refused(
            "it was changed since the guard filled it", f"{max(record.lengths)} columns", f"{max(now)} columns"
        )
    held = states(cache)
    kept = len(held) == len(record.seal) and all(
        seen() is state and edits == _edits(state) for state, (seen, edits) in zip(held, record.seal, strict=True)
    )
    if not kept:
        raise _refused("it was changed since the guard filled it", "the tensors of the last turn", "other tensors")


def _edits(state: Tensor) -> int | None:
    """Return how often a tensor was edited in place; None where torch does not count."""
    return None if state.is_inference() else state._version  # noqa: SLF001 - torch's only edit counter


def _refused(why: str, expected: str, found: str) -> UnsupportedGenerationError:
    return UnsupportedGenerationError(
        f"The cache in `past_key_values` cannot be used: {why}.",
        expected=expected,
        found=found,
        where="generate",
        next_step="Pass an empty cache, or leave `past_key_values` out: the outcome is the same.",
    )
