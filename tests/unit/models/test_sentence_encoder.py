"""The packaged sentence encoder, and what is said where it is not installed."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import pytest

from steerguard.errors import ContentError
from steerguard.models.sentence_encoder import INSTALL_LINE, packaged_encoder


def test_without_the_distribution_the_error_has_the_line_that_installs_it(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(ContentError, match="not installed") as caught:
        packaged_encoder()
    assert INSTALL_LINE in str(caught.value)


def test_a_distribution_without_a_model_is_told_from_one_that_is_absent(monkeypatch):
    class Empty:
        files = ()

    monkeypatch.setattr(metadata, "distribution", lambda _: Empty())
    with pytest.raises(ContentError, match="without a model"):
        packaged_encoder()


def test_texts_become_unit_vectors_that_tell_topics_apart_and_do_not_depend_on_neighbours():
    encoder = packaged_encoder()
    texts = ["Bake the bread for an hour.", "Put the loaf into the oven and bake it.", "The train leaves at noon."]
    found = encoder.encode(texts)
    assert found.shape == (3, 384)
    assert found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert found[0] @ found[1] > found[0] @ found[2] + 0.2
    assert encoder.encode(texts[2:])[0] == pytest.approx(found[2], abs=1e-5)
    assert encoder.identity.startswith("all-MiniLM-L6-v2 sha256:")
