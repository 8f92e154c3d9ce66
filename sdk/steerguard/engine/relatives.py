"""Requests that come from another one: over the same rows before their prefill, or over copies of one row behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from steerguard.engine.request import GuidedRequest

if TYPE_CHECKING:
    from collections.abc import Collection

    from steerguard.guidance.intervention import Intervention


def sibling_of(request: GuidedRequest, *, steers: bool, chunk: int | None) -> GuidedRequest:
    """Return a fresh request over the same rows, for a pass before the prefill."""
    made = GuidedRequest(
        owner=request.owner,
        program=request.program,
        prompt_mask=request.prompt_mask,
        ends=[end if seen else None for end, seen in zip(request.columns, request.recognised, strict=True)],
        steers=steers,
        cached=True,
        copies=request.copies,
        chunk=chunk,
        texts=request.texts,
    )
    made.limit(request.within_budget)
    if request.verdict_known:
        made.adopt_verdict(request)
    return made


def branch_of(
    request: GuidedRequest, row: int, count: int, *, opened: Collection[Intervention], passes: int
) -> GuidedRequest:
    """Return a request for decode steps of copies of one row, steered as the row is.

    Args:
        request: the request of the row, its verdict taken.
        row: the row.
        count: how many copies.
        opened: interventions whose gate is open for the row.
        passes: how many decode passes there can be at most, those before it included.
    """
    rows = torch.full((count,), row, device=request.prompt_mask.device)
    made = GuidedRequest(
        owner=request.owner,
        program=request.program,
        prompt_mask=request.prompt_mask[rows],
        ends=[request.columns[row] if request.recognised[row] else None] * count,
        steers=request.steers,
        cached=True,
        most_passes=passes,
        texts=None if request.texts is None else request.texts[rows],
    )
    made.adopt_rows(request, rows)
    made.freeze(opened)
    return made
