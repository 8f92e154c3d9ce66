"""The proposer on transformers: a prompt is prefilled once, and its cache is forked for every candidate.

Tokens are drawn as the library's own sampling loop draws them, with the processors and criteria that `generate` prepared:
one candidate is, token for token, what that loop would have drawn from the same generator.
The last token of a block runs at once, and what can follow it waits for the next block.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from steerguard.engine.answer_states import AnswerSums
from steerguard.engine.branch_steps import BranchSteps, PrefilledRow
from steerguard.engine.forks import Mark, fork
from steerguard.engine.loop_inputs import rows_of
from steerguard.errors import CandidateMemoryError
from steerguard.guidance.search.proposer import Candidates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from steerguard.methods.search_parts import Draw


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prefixes:
    """Rows that tokens are drawn behind; each has gone through the model."""

    ids: Tensor
    """int64 `[rows, columns]`, prompt and padding included."""
    inputs: dict[str, Any]
    """What the model is given beside them."""
    logits: Tensor
    """float32 `[rows, vocabulary]` of the next token."""
    sums: AnswerSums | None
    """None where nothing reads states."""

    def rows(self, rows: Tensor) -> Prefixes:
        """Return some rows, int64 `[rows]`, in the order given; a row may be named several times."""
        return Prefixes(
            ids=self.ids[rows],
            inputs=rows_of(self.inputs, rows),
            logits=self.logits[rows],
            sums=None if self.sums is None else self.sums.rows(rows),
        )


@dataclass(slots=True, kw_only=True, eq=False)
class _Drawing:
    """Candidates of one block while they are drawn."""

    rows: Prefixes
    mark: Mark
    """Where the cache goes back to."""
    ended: Tensor
    """bool `[rows]`."""
    broken: Tensor
    """bool `[rows]`: the model's numbers are not finite, or there is no such candidate."""
    log_probs: Tensor
    """float32 `[rows]`."""
    tokens: list[Tensor] = field(default_factory=list)
    lengths: Tensor
    """int64 `[rows]`: tokens of each that are not padding."""
    passes: int = 0

    def append(self, tokens: Tensor, scores: Tensor, *, pad: int) -> None:
        """Add one token of every row; a row that has ended gets padding.

        Args:
            tokens: int64 `[rows]`.
            scores: float32 `[rows, vocabulary]`, what they were chosen by, before any penalty.
            pad: what rows that have ended get.
        """
        found = scores.gather(1, tokens[:, None]).squeeze(1) - scores.logsumexp(dim=1)
        self.broken = self.broken | ~(torch.isfinite(found) | self.ended)
        self.log_probs = torch.where(self.ended, self.log_probs, self.log_probs + found)
        self.lengths = self.lengths + ~self.ended
        tokens = torch.where(self.ended, pad, tokens)
        self.tokens.append(tokens)
        self.rows = replace(self.rows, ids=torch.cat([self.rows.ids, tokens[:, None]], dim=1))

    def candidates(self, parents: Sequence[int], forward_tokens: int) -> Candidates:
        """Return what was drawn; waits for the device."""
        tokens, lengths = torch.stack(self.tokens, dim=1).tolist(), self.lengths.tolist()
        read = None if self.rows.sums is None else self.rows.sums.inputs()
        spoilt = self.broken[:, None, None]
        return Candidates(
            parents=tuple(parents),
            tokens=tuple(tuple(row[:length]) for row, length in zip(tokens, lengths, strict=True)),
            ended=tuple(self.ended.tolist()),
            log_probs=tuple(torch.where(self.broken, torch.nan, self.log_probs).tolist()),
            means=None if read is None or read.means is None else read.means.masked_fill(spoilt, torch.nan),
            newest=None if read is None or read.newest is None else read.newest.masked_fill(spoilt, torch.nan),
            read=None if read is None else read.read,
            forward_tokens=forward_tokens,
        )


class TransformersProposer:
    """Draws continuations of one prefilled row; the contract is `guidance.search.proposer.Proposer`.

    Args:
        row: the row; its cache is the proposer's own from here on.
        live: the one prefix that it begins with.
        fed: generated tokens that went through the model.
    """

    def __init__(self, row: PrefilledRow, live: Prefixes, *, fed: int) -> None:
        self.row = row
        """Its cache holds the states of all candidates."""
        self._live = live
        self._fed = fed
        self._places = torch.zeros(1, dtype=torch.int64, device=live.ids.device)
        """By live prefix, a row of the cache that holds it."""
        self._drawing: _Drawing | None = None

    @property
    def prompt(self) -> str:
        """The prompt as text."""
        return self.row.prompt

    def text(self, tokens: Sequence[int]) -> str:
        """Return tokens of an answer as text, without special tokens."""
        return self.row.text(tokens)

    def propose(
        self, counts: Sequence[int], max_new_tokens: int, *, draw: Draw, avoid: Mapping[int, float] | None = None
    ) -> Candidates:
        """Draw continuations of the live prefixes; see the protocol.

        Raises:
            CandidateMemoryError: there was no memory for so many.
            GuidanceDidNotFireError: a decode step did not pass what it must.
        """
        parents = [prefix for prefix, count in enumerate(counts) for _ in range(count)]
        self._rewind()
        try:
            self._drawing = drawing = self._forked(parents)
            self._draw(drawing, max_new_tokens, draw, parents, avoid)
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory(len(parents)) from error
        return drawing.candidates(parents, len(parents) * drawing.passes)

    def keep(self, chosen: Sequence[int]) -> None:
        """Make candidates of the last draw the live prefixes; see the protocol."""
        if self._drawing is None:
            raise ValueError("nothing was proposed since the last choice")
        self._places = torch.tensor(list(chosen), device=self._live.ids.device)
        self._live, self._fed = self._drawing.rows.rows(self._places), self._fed + self._drawing.passes
        self._drawing = None

    def _rewind(self) -> None:
        """Go back to the live prefixes if candidates were drawn that nobody kept."""
        if self._drawing is not None:
            self._drawing.mark.restore(self.row.cache)
            self._drawing = None

    def _forked(self, parents: Sequence[int]) -> _Drawing:
        """Fork the cache for candidates of live prefixes."""
        copies = torch.tensor(list(parents), device=self._live.ids.device)
        places, prefixes = self._places, range(len(self._places))
        # Where a fork fails, the cache holds the prefixes in order.
        self._places = torch.arange(len(places), device=places.device)
        fork(self.row.cache, places, copies)
        self._places = torch.tensor([parents.index(prefix) for prefix in prefixes], device=places.device)
        nothing = torch.zeros(len(parents), dtype=torch.bool, device=copies.device)
        return _Drawing(
            rows=self._live.rows(copies),
            mark=Mark(self.row.cache),
            ended=nothing,
            broken=nothing,
            log_probs=torch.zeros(len(parents), device=copies.device),
            lengths=torch.zeros_like(copies),
        )

    def _out_of_memory(self, candidates: int) -> CandidateMemoryError:
        """Return the error for a draw that had too little memory, with the live prefixes as before."""
        error = CandidateMemoryError(
            "There is no memory for so many candidates.",
            expected="memory for the caches of all candidates of a block",
            found=f"out of memory with {candidates}",
            where="search",
            next_step="Lower `candidates` of the guidance entry.",
        )
        if self._drawing is not None:
            error.forward_tokens = candidates * self._drawing.passes
        self._rewind()
        return error

    def _draw(
        self,
        drawing: _Drawing,
        max_new_tokens: int,
        draw: Draw,
        parents: Sequence[int],
        avoid: Mapping[int, float] | None,
    ) -> None:
        """Grow the candidates of one block token by token."""
        penalty = _penalty(avoid, like=drawing.rows.logits)
        copies = torch.tensor(_numbered(parents), device=drawing.rows.ids.device)
        with BranchSteps(self.row, rows=len(parents), fed=self._fed, most=max_new_tokens) as steps:
            for _ in range(max_new_tokens):
                scores = self._scores(drawing)
                wanted = scores if penalty is None else scores - penalty
                drawing.append(self._choose(wanted, draw, copies), scores, pad=self.row.settings.pad)
                drawing.ended = drawing.ended | self.row.criteria(drawing.rows.ids, None).to(drawing.ended.device)
                # The library's own loop asks its device the same after every token.
                if bool(drawing.ended.all()):
                    return
                self._feed(drawing, steps)

    def _scores(self, drawing: _Drawing) -> Tensor:
        """Return the scores of the next token as the call's settings make them, float32 `[rows, vocabulary]`."""
        logits = drawing.rows.logits
        # A state that is not finite makes every logit of its row NaN, and drawing from NaN would fail.
        spoilt = torch.isnan(logits.select(1, 0))
        drawing.broken = drawing.broken | spoilt
        return self.row.processors(drawing.rows.ids, logits.masked_fill(spoilt[:, None], 0.0))

    def _choose(self, scores: Tensor, draw: Draw, copies: Tensor) -> Tensor:
        """Return the next token of each row, int64 `[rows]`.

        Where the call is greedy, the first copy of each prefix takes the most likely token.
        """
        if draw == "top":
            count = min(int(copies.max()) + 1, scores.shape[1])
            return scores.topk(count, dim=-1).indices.gather(1, copies.clamp(max=count - 1)[:, None]).squeeze(1)
        samples = self.row.settings.samples
        warm = scores if samples else scores / self.row.temperature
        if not samples and len(copies) == 1:
            return scores.argmax(dim=-1)
        drawn = torch.multinomial(torch.softmax(warm, dim=-1), num_samples=1).squeeze(1)
        return drawn if samples else torch.where(copies == 0, scores.argmax(dim=-1), drawn)

    def _feed(self, drawing: _Drawing, steps: BranchSteps) -> None:
        """Run the newest tokens; what follows a row that has ended means nothing."""
        rows = drawing.rows
        inputs, logits, states = steps.run(rows.ids, rows.inputs)
        sums = rows.sums
        if sums is not None and states is not None:
            sums = sums.plus(states, ~drawing.ended.to(sums.read.device))
        drawing.rows = Prefixes(ids=rows.ids, inputs=inputs, logits=logits, sums=sums)
        drawing.passes += 1


def _numbered(parents: Sequence[int]) -> list[int]:
    """Return which copy of its prefix each candidate is, from 0."""
    return [parents[:index].count(prefix) for index, prefix in enumerate(parents)]


def _penalty(avoid: Mapping[int, float] | None, *, like: Tensor) -> Tensor | None:
    """Return what is subtracted from the logits, float32 `[vocabulary]`."""
    if not avoid:
        return None
    penalty = torch.zeros(like.shape[-1], device=like.device)
    penalty[torch.tensor(list(avoid), device=like.device)] = torch.tensor(list(avoid.values()), device=like.device)
    return penalty
