"""The set of events is closed in both directions: what it allows is written by some code of the package."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import get_args

import pytest

import steerguard
from steerguard.audit.records.events import BODIES, BudgetExceeded, GuardBypass, LogKeyRotate, PolicyReject, PolicySwap
from steerguard.engine.exceeded import Limit

PACKAGE = Path(steerguard.__file__).parent
DEFINITIONS = {PACKAGE / "audit" / "records" / name for name in ("events.py", "guard_events.py", "log_events.py")}


@functools.cache
def _nodes():
    paths = sorted(set(PACKAGE.rglob("*.py")) - DEFINITIONS)
    return [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def _called():
    functions = [node.func for node in _nodes() if isinstance(node, ast.Call)]
    made = [node.value for node in functions if isinstance(node, ast.Attribute) and node.attr == "model_validate"]
    return {node.id for node in (*functions, *made) if isinstance(node, ast.Name)}


def _values(body, field):
    return set(get_args(body.model_fields[field].annotation))


def _given(name):
    """Texts that some call passes under a name."""
    calls = [node for node in _nodes() if isinstance(node, ast.Call)]
    values = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == name]
    return {value.value for value in values if isinstance(value, ast.Constant)}


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.event_type)
def test_every_event_has_a_writer(body):
    assert body.__name__ in _called()


@pytest.mark.parametrize(("body", "field"), [(LogKeyRotate, "purpose"), (PolicySwap, "scope"), (PolicyReject, "scope")])
def test_every_purpose_and_scope_has_a_writer(body, field):
    assert _values(body, field) <= _given(field)


def test_every_kind_of_bypass_has_a_writer():
    first = [
        node.args[0].value
        for node in _nodes()
        if isinstance(node, ast.Call)
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "bypassed"
    ]
    assert _values(GuardBypass, "kind") == set(first)


def test_the_limits_are_those_that_a_call_can_reach():
    assert _values(BudgetExceeded, "limit") == set(get_args(Limit))
