"""How the tensors of two artifacts differ: cosine and norm per block, weights and bias per part of a probe.

Cosines and norms are computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from steerguard.artifacts.difference import Difference
from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.artifacts.probe_params import probe_parts
from steerguard.artifacts.verify import VerifiedArtifact


def tensor_changes(a: VerifiedArtifact, b: VerifiedArtifact) -> Iterator[Difference]:
    """Yield what differs between the tensors of two artifacts, by file and tensor name."""
    for path in sorted({*a.tensors, *b.tensors}):
        old, new = a.tensors.get(path, {}), b.tensors.get(path, {})
        for name in sorted({*old, *new}):
            for text in _tensor(a, b, old.get(name), new.get(name)):
                yield Difference(about=f"{path}: {name}", text=text)


def _tensor(a: VerifiedArtifact, b: VerifiedArtifact, old: Tensor | None, new: Tensor | None) -> Iterator[str]:
    if old is None or new is None:
        present = old if new is None else new
        assert present is not None
        yield f"tensor {'removed' if new is None else 'added'}, {_form(present)}."
        return
    if old.dtype != new.dtype or old.shape != new.shape:
        yield f"form: {_form(old)} → {_form(new)}."
    if old.shape != new.shape:
        return
    rows_a, rows_b = _row_names(a.manifest, old), _row_names(b.manifest, new)
    if rows_a is not None and rows_a == rows_b:
        yield from _rows(rows_a, old.double(), new.double())
    elif not torch.equal(old.double(), new.double()):
        yield f"{_change(old.double().flatten(), new.double().flatten())}."


def _rows(names: tuple[str, ...], old: Tensor, new: Tensor) -> Iterator[str]:
    changed = [index for index in range(len(names)) if not torch.equal(old[index], new[index])]
    for index in changed:
        yield f"{names[index]}: {_change(old[index].flatten(), new[index].flatten())}."
    if changed and len(changed) < len(names):
        yield f"the other {len(names) - len(changed)} of {len(names)} rows are the same."


def _change(old: Tensor, new: Tensor) -> str:
    if old.numel() == 1:
        return f"{float(old):.6g} → {float(new):.6g}"
    before, after = float(old.norm()), float(new.norm())
    norms = f"norm {before:.4g} → {after:.4g}"
    if before == 0.0 or after == 0.0:
        return f"{norms}, no cosine with a zero vector"
    # Divided first: the product of two large norms may overflow.
    cosine = float((old / before) @ (new / after))
    return f"cosine {max(-1.0, min(1.0, cosine)):.6f}, {norms}"


def _row_names(manifest: ArtifactManifest, tensor: Tensor) -> tuple[str, ...] | None:
    """Return what the rows of a tensor are: parts of a probe, or decoder blocks; None for any other tensor."""
    if manifest.type == "probe":
        parts = probe_parts(manifest)
        if tensor.shape[0] == len(parts):
            return tuple(f"part {index} (block {block}, {over})" for index, (block, over) in enumerate(parts))
    if tensor.shape[0] == manifest.base.num_blocks:
        return tuple(f"block {block}" for block in range(manifest.base.num_blocks))
    return None


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
