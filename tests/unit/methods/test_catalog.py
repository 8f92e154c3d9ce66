from __future__ import annotations

import subprocess
import sys

import pytest

from steerguard.errors import UnknownMethodError
from steerguard.methods.catalog import METHODS, method_named


def test_names_are_unique_and_are_the_tags_of_their_specs() -> None:
    assert len({method.name for method in METHODS}) == len(METHODS)
    for method in METHODS:
        assert method.spec.model_json_schema()["properties"]["method"]["const"] == method.name


def test_available_methods_and_only_those_have_an_executor() -> None:
    for method in METHODS:
        assert (method.executor is not None) == (method.status == "available")


def test_each_spec_tells_idea_cost_limits_and_source() -> None:
    for method in METHODS:
        text = method.spec.__doc__ or ""
        assert all(word in text for word in ("Idea:", "Formula", "Cost", "Fails when:", "Reference:"))


def test_method_is_found_by_name() -> None:
    assert method_named("inferaligner").executor == "steerguard.guidance.inferaligner.bind:bind"


def test_unknown_method_lists_the_names_and_the_nearest() -> None:
    with pytest.raises(UnknownMethodError) as caught:
        method_named("infer_aligner")
    assert "inference_guard" in str(caught.value)
    assert caught.value.next_step == "Write `inferaligner`."


def test_catalog_imports_no_tensor_library() -> None:
    program = (
        "import sys; import steerguard.methods.catalog\n"
        "sys.exit(','.join({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)})
