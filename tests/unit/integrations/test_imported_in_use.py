"""An imported control vector under a guard adds what llama.cpp would add."""

from __future__ import annotations

import gguf
import numpy as np
import torch
from tests.artifact_samples import write_folder
from tests.guarded_models import ALWAYS, fresh_model, guarded, policy, prompts, tokenizer

from steerguard.integrations.control_vectors import ImportedName, import_control_vector
from steerguard.integrations.gguf_vectors import read_control_vector
from steerguard.models.blocks import decoder_blocks
from steerguard.testing import tiny_registry

SCALE = 2.0


def vector_file(file, directions):
    writer = gguf.GGUFWriter(file, "controlvector")
    for block, values in directions.items():
        writer.add_tensor(f"direction.{block}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def by_hand(model, directions, batch):
    """Logits with `direction.N` times the scale on the output of block N, at every position."""
    handles = []
    for block, values in directions.items():
        added = SCALE * torch.from_numpy(values)
        handles.append(decoder_blocks(model)[block].register_forward_hook(lambda _m, _i, out, added=added: out + added))
    try:
        with torch.no_grad():
            return model(**batch).logits[:, -1]
    finally:
        for handle in handles:
            handle.remove()


def first_logits(model, batch):
    settings = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    return model.generate(**batch, **settings).logits[0]


def test_a_guard_adds_each_direction_to_the_output_of_its_block(tmp_path):
    model, generator = fresh_model(), np.random.default_rng(3)
    directions = {block: generator.standard_normal(32).astype(np.float32) for block in (1, 2, 3)}
    registry = tiny_registry(tmp_path / "registry", model, tokenizer())
    name = ImportedName(
        family="refusal-vectors",
        variant="imported",
        version="1.9.0",
        license="mit",
        base_repo="example/tiny",
        source="v.gguf",
        created="2026-11-22T00:00:00Z",
    )
    vector = read_control_vector(vector_file(tmp_path / "v.gguf", directions))
    files = import_control_vector(vector, model, tokenizer(), name, weights=("float32",))
    registry.add(write_folder(tmp_path / "artifact", files))
    batch = prompts(2)
    plain, expected = by_hand(model, {}, batch), by_hand(model, directions, batch)
    document = policy(method="fitted_refusal", settings=f"coefficient: {SCALE}", rules=ALWAYS, detector=False)
    with guarded(model, document, registry=registry) as wrapped:
        found = first_logits(wrapped, batch)
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-1)
