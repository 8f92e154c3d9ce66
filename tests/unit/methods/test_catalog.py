from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

from steerguard.errors import UnknownMethodError
from steerguard.methods.catalog import METHODS, method_named
from steerguard.methods.spec import SEARCHES


def test_names_are_unique_and_are_the_tags_of_their_specs() -> None:
    assert len({method.name for method in METHODS}) == len(METHODS)
    for method in METHODS:
        assert method.spec.model_json_schema()["properties"]["method"]["const"] == method.name


def test_every_method_has_an_executor() -> None:
    for method in METHODS:
        module, _, function = method.executor.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_a_method_searches_exactly_when_its_spec_says_so() -> None:
    settings = {"artifact": "any@^1", "critic": "any@^1", "threshold": {"value": 0.0}}
    for method in METHODS:
        taken = {name: value for name, value in settings.items() if name in method.spec.model_fields}
        entry = method.spec.model_validate_json(json.dumps({"id": "x", "method": method.name, **taken}))
        parameters = {need.role: {"blocks": [1], "strength": "1.0"} for need in entry.artifact_needs()}
        assert method.searches == (SEARCHES in entry.features()) == (entry.search(parameters) is not None)


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
