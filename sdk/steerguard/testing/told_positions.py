"""Guarantee 6, token by token: the states that differ from the unguided run are those that the decisions tell of.

A state can be judged as long as nothing in front of it was changed: in each pass, and row by row, these are the places
between blocks up to the first one that this pass or an earlier one changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from steerguard.guidance.intervention import ByPhase, ByStep, Clamp, FirstSteps, Operated, Phases, VerdictGate
from steerguard.testing.guarantees import broken
from steerguard.testing.watched_run import differing, place_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from steerguard.decision import Decision
    from steerguard.guidance.intervention import Intervention, Schedule
    from steerguard.testing.watched_run import PassedStates


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is told of one place between blocks; bool `[rows, columns]`, prompt columns first, then those fed back."""

    may: Tensor
    """Columns that some open intervention names."""
    must: Tensor
    """Of these, the ones that change whatever the state is."""
    unless_zero: Tensor
    """Of these, the ones that change unless the state is all zeros, which an operator may keep."""


def acts_at(schedule: Schedule, number: int) -> bool:
    """Return whether a schedule acts on a token of a prompt that has no prefilled answer.

    Args:
        schedule: of an intervention.
        number: 0 for the last token of the prompt, -1, -2, ... before it, and t for generated token t.
    """
    if isinstance(schedule, ByPhase):
        return (schedule.prompt if number < 0 else schedule.decode if number > 0 else schedule.last) is not None
    if isinstance(schedule, ByStep):
        if number > 0:
            return number <= len(schedule.steps) and schedule.steps[number - 1] is not None
        return (schedule.prompt if number < 0 else schedule.last) is not None
    rule = schedule.positions
    if isinstance(rule, FirstSteps):
        return 0 < number <= rule.steps
    if isinstance(rule, Phases):
        if number > 0:
            return rule.decode and (rule.steps is None or number <= rule.steps)
        return rule.prompt if number < 0 else rule.last
    return {"all": True, "decode": number > 0, "prefill": number <= 0}.get(rule, number >= 0)


def told_places(
    interventions: Sequence[Intervention], decisions: Sequence[Decision], mask: Tensor, *, fed_back: int, places: int
) -> list[Told]:
    """Return what the decisions of a run tell of each place.

    Args:
        interventions: all that were bound.
        decisions: one per row.
        mask: `[rows, columns]` of the prompts, 0 at padding; no prompt has a prefilled answer.
        fed_back: generated tokens that went through the model.
        places: how many places there are, one more than blocks.

    Raises:
        ConformanceError: a decision counts other positions than its open interventions name.
    """
    attended = mask.cpu().bool()
    present = torch.nn.functional.pad(attended, (0, fed_back), value=True)
    numbers = present.long().cumsum(dim=1) - attended.sum(dim=1, keepdim=True)
    silent = torch.zeros((places, *present.shape), dtype=torch.bool)
    may, must, unless_zero = silent, silent.clone(), silent.clone()
    columns = {item: _columns(item.schedule, numbers) & present for item in interventions}
    for row, decision in enumerate(decisions):
        opened = {(dose.step, block) for dose in decision.doses for block in dose.open_blocks}
        acting = [item for item in interventions if (item.step, item.block) in opened]
        for item in acting:
            place = item.block + (item.point == "resid_post")
            may[place, row] |= columns[item][row]
            if not _surely_open(item, interventions):
                continue
            if not isinstance(item.schedule, Operated):
                must[place, row] |= columns[item][row]
            elif not isinstance(item.schedule.operator, Clamp):
                unless_zero[place, row] |= columns[item][row]
        if decision.applied == "guide":
            _require_counts(row, decision, acting, {item: int(columns[item][row].sum()) for item in acting})
    return [Told(may=may[place], must=must[place], unless_zero=unless_zero[place]) for place in range(places)]


def require_told(
    told: Sequence[Told],
    decisions: Sequence[Decision],
    before: PassedStates,
    after: PassedStates,
    *,
    extra: int,
    row_by_row: bool,
) -> None:
    """Require that in every pass the states changed that are told of, and no others.

    Rows that were refused are not judged: from there on they hold other tokens.

    Args:
        told: by place.
        decisions: one per row.
        before: states of the unguided run.
        after: states of the guided run.
        extra: passes of the guided run before its prefill.
        row_by_row: whether no row depends on the others, so that each is judged up to its own first change.

    Raises:
        ConformanceError: names the row, the place and the step.
    """
    refused = torch.tensor([decision.applied == "refuse" for decision in decisions])
    plain, guided = before.places, [states[extra:] for states in after.places]
    if not bool(refused.any()) and len(plain[0]) != len(guided[0]):
        raise broken(
            6,
            "the guided run has another number of passes",
            expected=f"{len(plain[0])} passes",
            found=f"{len(guided[0])} passes",
            where="the whole batch",
        )
    passes = list(zip(zip(*plain, strict=True), zip(*guided, strict=True), strict=False))
    changed = [
        torch.stack([differing(one, other) for one, other in zip(*states, strict=True)]) for states in passes
    ]  # per pass, bool `[places, rows, columns]`
    judged = _judged(changed, refused, row_by_row=row_by_row)
    _require_first_place(told, [entry.any(dim=2) & there for entry, there in zip(changed, judged, strict=True)])
    for number, (states, found) in enumerate(zip(passes, changed, strict=True)):
        stop = told[0].may.shape[1] - len(plain[0]) + 1 + number
        for place, entry in enumerate(told):
            here = slice(stop - found.shape[2], stop)
            zero = (states[0][place] == 0).all(dim=-1).cpu()
            least = entry.must[:, here] | (entry.unless_zero[:, here] & ~zero)
            wrong = ((found[place] & ~entry.may[:, here]) | (least & ~found[place])) & judged[number][place, :, None]
            if bool(wrong.any()):
                row = int(wrong.any(dim=1).nonzero()[0])
                raise broken(
                    6,
                    "other positions were changed than the decision tells",
                    expected=f"{int(least[row].sum())} to {int(entry.may[row, here].sum())} positions",
                    found=f"{int(found[place, row].sum())} positions, or as many at other columns",
                    where=f"row {row}, {place_name(place, len(told))}, {f'decode step {number}' if number else 'prefill'}",
                )


def _judged(changed: Sequence[Tensor], refused: Tensor, *, row_by_row: bool) -> list[Tensor]:
    """Return per pass which places of which rows can be judged, bool `[places, rows]`."""
    places = changed[0].shape[0]
    beyond = torch.full(refused.shape, places)
    found = []
    for entry in changed:
        somewhere = entry.any(dim=2)
        firsts = torch.where(somewhere.any(dim=0), somewhere.long().argmax(dim=0), places)
        beyond = torch.minimum(beyond, firsts if row_by_row else firsts.min())
        found.append((torch.arange(places)[:, None] <= beyond) & ~refused)
    return found


def _require_first_place(told: Sequence[Told], changed: Sequence[Tensor]) -> None:
    """Require that the first place that was changed in any row is one at which something acts.

    Args:
        told: by place.
        changed: per pass, bool `[places, rows]`, False where nothing can be judged.
    """
    found = torch.stack(list(changed)).any(dim=2).any(dim=0).tolist()
    first = next((place for place, there in enumerate(found) if there), None)
    wanted = next((place for place, entry in enumerate(told) if bool((entry.must | entry.unless_zero).any())), None)
    if first is None and wanted is None:
        return
    if first is not None and bool(told[first].may.any()) and (wanted is None or first <= wanted):
        return
    raise broken(
        6,
        "states were first changed elsewhere than the plan says",
        expected="nowhere" if wanted is None else place_name(wanted, len(told)),
        found="nowhere" if first is None else place_name(first, len(told)),
        where="the whole batch",
    )


def _require_counts(
    row: int, decision: Decision, acting: Sequence[Intervention], counts: dict[Intervention, int]
) -> None:
    """Require that the doses of a row count what its open interventions name."""
    for dose in decision.doses:
        items = [item for item in acting if item.step == dose.step]
        most = sum(counts[item] for item in items)
        least = sum(counts[item] for item in items if _surely_open(item, items))
        if not least <= dose.positions <= most:
            raise broken(
                6,
                "a decision counts other positions than its interventions name",
                expected=f"{most} positions" if least == most else f"{least} to {most} positions",
                found=f"{dose.positions} positions",
                where=f"row {row}, step `{dose.step}`",
            )


def _surely_open(item: Intervention, among: Sequence[Intervention]) -> bool:
    """Return whether an intervention is open in a row whose decision names its block."""
    if isinstance(item.gate, VerdictGate):
        return True
    return not any(other is not item and (other.step, other.block) == (item.step, item.block) for other in among)


def _columns(schedule: Schedule, numbers: Tensor) -> Tensor:
    """Return where a schedule acts, bool, for position numbers `[rows, columns]`."""
    named = {number: acts_at(schedule, number) for number in set(numbers.flatten().tolist())}
    return torch.tensor([[named[number] for number in row] for row in numbers.tolist()])
