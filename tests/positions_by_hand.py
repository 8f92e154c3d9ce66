"""What position rules must do, in plain numpy: states that went into a block's successor, told from those that came."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
from tests.guarded_models import FAMILIES, blocks_of, registry_for, shared_model

from steerguard.artifacts.verify import verify_artifact
from steerguard.guidance.vector_schedules import VECTORS_FILE

STRENGTH, COEFFICIENT = 0.75, 3.0
STEERED = (1, 2)


def registry(schedule="constant", model=None):
    return registry_for(model or shared_model(), schedule=schedule, steps=3, strength=str(STRENGTH))


def settings_with(more):
    return f"coefficient: {COEFFICIENT}, {more}"


def vectors_of(method, registry):
    (pin,) = registry.pinned(FAMILIES[method])
    tensors = verify_artifact(registry.read(pin), pin.digest).tensors[VECTORS_FILE]
    scale = np.float32(STRENGTH * COEFFICIENT)
    return {name: tensor.numpy() * scale for name, tensor in tensors.items() if name.startswith("theta")}


@contextmanager
def watched(model, steered=STEERED):
    """Yield what each steered block put out and what the next block got, per forward pass."""
    seen = {block: ([], []) for block in steered}
    handles = []
    for block, (before, after) in seen.items():

        def out(_module, _args, output, kept=before):
            kept.append((output[0] if isinstance(output, tuple) else output).detach().numpy().copy())

        def into(_module, args, kwargs, kept=after):
            kept.append((args[0] if args else kwargs["hidden_states"]).detach().numpy().copy())

        handles.append(blocks_of(model)[block].register_forward_hook(out))
        handles.append(blocks_of(model)[block + 1].register_forward_pre_hook(into, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def assert_equals_numpy(seen, part, opened, first_of):
    """Every state that goes on equals the one that came, plus `part(block, row, column)` in open rows; count them."""
    changed = [0] * len(opened)
    for block, (before, after) in seen.items():
        for index, (plain, steered) in enumerate(zip(before, after, strict=True)):
            wanted, first = plain.copy(), first_of(index)
            for row in range(len(opened)):
                for column in range(plain.shape[1]):
                    added = part(block, row, first + column)
                    if opened[row] and added is not None:
                        wanted[row, column] += added
                        changed[row] += first > 0 or index == len(before) - 1 or first_of(index + 1) > 0
            np.testing.assert_array_equal(wanted, steered)
            assert np.array_equal(wanted[~np.array(opened)].view(np.int32), steered[~np.array(opened)].view(np.int32))
    return changed
