"""Beam search for tests: generate with beams, and compare what comes back."""

from __future__ import annotations

import torch
from tests.guarded_models import Capture, guarded
from transformers import LogitsProcessorList

BEAMS = 3


def beams(model, batch, *, seed=7, **settings):
    """Generate with beams; return the output and the log-probabilities of every step."""
    capture = Capture()
    settings = {"max_new_tokens": 12, "do_sample": False, "num_beams": BEAMS, **settings}
    torch.manual_seed(seed)
    output = model.generate(**batch, logits_processor=LogitsProcessorList([capture]), **settings)
    return output, capture.steps


def filled(rows):
    """Rows of ids without what beam search fills them with: padding, ends or -1."""
    return [_trimmed(ids) for ids in rows.tolist()]


def _trimmed(ids):
    while ids and ids[-1] in {0, 2, -1}:
        ids = ids[:-1]
    return ids


def compare(model, document, batch, **settings):
    plain = beams(model, batch, **settings)
    with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
        found = beams(wrapped, batch, **settings)
        assert wrapped.guard.hooked_blocks == ()
    return plain, found, reports


def require_identical(prompts_to_check, plain, found, width, *, returned):
    """The sequences of some prompts agree, and the log-probabilities of their beams bit by bit."""
    for prompt in prompts_to_check:
        rows = slice(prompt * returned, (prompt + 1) * returned)
        assert filled(plain[0][rows, width:]) == filled(found[0][rows, width:])
        rows_of = slice(prompt * BEAMS, (prompt + 1) * BEAMS)
        for one, other in zip(plain[1], found[1], strict=False):
            assert torch.equal(one[rows_of].view(torch.int32), other[rows_of].view(torch.int32))
