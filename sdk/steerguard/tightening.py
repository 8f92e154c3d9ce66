"""The policy of one request: compiled once, checked to tighten the policy in force, and kept for the next request."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from steerguard.errors import LooserPolicyError, SteerguardError, WrapError
from steerguard.policy.document import Policy
from steerguard.policy.load import load_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from steerguard.engine.loop import Engine

KEPT = 32
"""How many policies of requests stay compiled; the one used longest ago is forgotten first."""


class RequestPolicies:
    """The engines of a wrapped model: the one in force, and those of stricter policies for single requests.

    Args:
        in_force: the engine of the policy that the model was wrapped with.
        compiled: returns the engine of a stricter policy; raises where it is not stricter.
        refused: records that a policy is refused; called with the document, None where it could not be read.
    """

    def __init__(
        self,
        in_force: Engine,
        compiled: Callable[[Policy], Engine],
        refused: Callable[[SteerguardError, Policy | None], None],
    ) -> None:
        self._in_force = in_force
        self._compiled = compiled
        self._refused = refused
        self._kept: OrderedDict[str, Engine] = OrderedDict()
        self._lock = threading.Lock()

    def engine_for(self, policy: str | Path | Policy | None) -> Engine:
        """Return the engine that a request runs on.

        Args:
            policy: shipped name, path, `file://` reference or `Policy` of this request; None for the policy in force.

        Raises:
            PolicyError: the document is wrong, or a loosening in it has expired.
            LooserPolicyError: it does not tighten the policy in force.
            PlanError: it does not fit the model.
            ArtifactError, TrustError, LockError: an artifact that it names is missing, or could not be verified.
        """
        if policy is None:
            return self._in_force
        if not isinstance(policy, (str, Path, Policy)):
            raise WrapError(
                "`policy` has the wrong type.",
                expected="a name, a path or a Policy",
                found=type(policy).__name__,
                where="generate",
            )
        document: Policy | None = None
        try:
            # Loaded for every request: a file may have changed, and a loosening may have expired.
            document = load_policy(policy)
            return self._engine_of(document)
        except SteerguardError as error:
            self._refused(error, document)
            raise

    def _engine_of(self, document: Policy) -> Engine:
        key = document.digest
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        self._require_same_mode(document)
        engine = self._compiled(document)
        with self._lock:
            self._kept[key] = engine
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return engine

    def _require_same_mode(self, document: Policy) -> None:
        """Refuse a document that asks for monitoring where the guard acts; the mode in force is never changed."""
        if document.mode == "monitor" and self._in_force.mode == "enforce":
            raise LooserPolicyError(
                "A policy for one request cannot switch the guard to monitoring.",
                expected="`mode: enforce`",
                found="`mode: monitor`",
                where=f"policy `{document.metadata.name}`: mode",
                next_step="Remove `mode` from the policy of the request.",
            )
