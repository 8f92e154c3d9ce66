"""`assert_conforms`: does a guidance method keep the guarantees of the engine on a model?

    from steerguard.testing import assert_conforms, tiny_model

    assert_conforms("inferaligner", tiny_model("llama"))

It needs neither a policy nor a data set: a random probe opens some rows of a batch and leaves others closed, and the
method acts with an artifact of the registry, by default a random one. It knows nothing of any test runner.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerguard.errors import ConformanceError
from steerguard.models.inspect import inspect_model
from steerguard.testing.artifacts import tiny_registry
from steerguard.testing.guarantees import GUARANTEES
from steerguard.testing.guarantees_of_rows import batches_and_caches, neutral_is_identity, verdict_per_row
from steerguard.testing.guarantees_of_runs import no_trace, not_finite_is_refused, told_as_done
from steerguard.testing.tokenizers import tiny_tokenizer
from steerguard.testing.trial import CONTENTS, Trial, catalog_binder, catalog_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from transformers import PreTrainedModel

    from steerguard.methods.spec import GuidanceSpec
    from steerguard.registry.store import ArtifactStore
    from steerguard.testing.trial import Binder

EVERY_GUARANTEE = tuple(GUARANTEES)


def assert_conforms(
    method: str | GuidanceSpec,
    model: PreTrainedModel,
    *,
    tokenizer: Any = None,
    settings: Mapping[str, Any] | None = None,
    bind: Binder | None = None,
    registry: ArtifactStore | None = None,
    contents: Sequence[str] = CONTENTS,
    row_tolerance: float = 0.0,
    guarantees: Collection[int] = EVERY_GUARANTEE,
) -> None:
    """Require that a method keeps the guarantees on a model; on return the model is as it was.

    Args:
        method: name of a catalog method, or an entry of a method of your own with the id `steer`.
        model: a small decoder-only model that is not wrapped, in eval mode; its weights are copied several times.
        tokenizer: its tokenizer, with a chat template; None is `tiny_tokenizer()`.
        settings: settings of the catalog method beside its defaults, for example `{"coefficient": 4.0}`.
        bind: what turns a planned step and its artifacts into interventions; None is the catalog's.
        registry: where the method's artifacts come from; None is a `tiny_registry` of the model.
        contents: user turns of the batch, at least four and of different lengths.
        row_tolerance: how far logits of a closed row may differ from the unguided run; 0.0 is bit by bit. Greater only
            for models whose kernels mix rows, as the default one of a mixture of experts does.
        guarantees: numbers of `GUARANTEES` to prove.

    Raises:
        ConformanceError: names the guarantee, the row or place, and what differed; it is an `AssertionError`.
        UnknownMethodError: no catalog method has that name.
        UnsupportedPlanError: the method searches, or the registry has no artifact of it.
    """
    chosen = tokenizer or tiny_tokenizer()
    binder = bind or catalog_binder(method if isinstance(method, str) else method.method)
    with tempfile.TemporaryDirectory(prefix="steerguard-conformance-") as folder:
        facts = inspect_model(model, chosen)
        reads, steers = _blocks(facts.num_blocks)
        detectors = tiny_registry(Path(folder) / "r", model, chosen, probe_blocks=reads, steered_blocks=steers)
        store = registry or detectors
        spec = catalog_spec(method, settings or {}, store) if isinstance(method, str) else method
        trial = Trial(
            model=model,
            tokenizer=chosen,
            spec=spec,
            bind=binder,
            detectors=detectors,
            registry=store,
            facts=facts,
            contents=tuple(contents),
        )
        threshold = trial.threshold()
        for proof in _proofs(trial, threshold, row_tolerance, guarantees):
            proof()


def _proofs(
    trial: Trial, threshold: float, row_tolerance: float, guarantees: Collection[int]
) -> list[Callable[[], None]]:
    """Return what proves the guarantees asked for, in their order."""
    unknown = sorted(set(guarantees) - set(GUARANTEES))
    if unknown:
        raise ConformanceError(
            "There is no such guarantee to prove.", expected=f"numbers among {sorted(GUARANTEES)}", found=unknown
        )
    proofs: dict[int, Callable[[], None]] = {
        1: lambda: neutral_is_identity(trial, threshold, row_tolerance),
        2: lambda: verdict_per_row(trial, threshold),
        3: lambda: batches_and_caches(trial, threshold),
        4: lambda: no_trace(trial, threshold),
        6: lambda: told_as_done(trial, threshold, row_tolerance),
        7: lambda: told_as_done(trial, threshold, row_tolerance),
        8: lambda: not_finite_is_refused(trial),
    }
    if 6 in guarantees:
        # One run proves both.
        del proofs[7]
    return [proof for number, proof in proofs.items() if number in guarantees]


def _blocks(num_blocks: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return blocks to read and blocks to steer, early ones, so that a change has a way to go."""
    last = num_blocks - 1
    return tuple(sorted({0, min(1, last)})), tuple(sorted({min(1, last), min(2, last)}))
