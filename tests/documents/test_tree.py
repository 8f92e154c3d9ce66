"""Rules on the shape of the tree: small files, named for their idea, and every method in the catalog."""

import os
import subprocess
import sys
from pathlib import Path

import steerguard
from steerguard.methods.catalog import METHODS, SEARCH_EXECUTOR

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sdk" / "steerguard"
MOST_LINES = 400
DRAWERS = {"utils", "helpers", "common", "misc", "base"}


def python_files():
    return [path for folder in ("sdk", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]


def python(code):
    """Run code in a fresh interpreter that finds this checkout's package."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)


def test_no_file_is_longer_than_the_rule_allows():
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}


def test_no_module_is_a_drawer():
    assert [path for path in PACKAGE.rglob("*.py") if path.stem in DRAWERS] == []


def test_every_guidance_folder_is_a_method_or_the_search_and_the_reverse():
    folders = {path.name for path in (PACKAGE / "guidance").iterdir() if (path / "__init__.py").is_file()}
    assert folders == {"search" if method.searches else method.name for method in METHODS}
    assert all(method.executor == SEARCH_EXECUTOR for method in METHODS if method.searches)


def test_every_public_name_resolves_and_is_what_the_package_says():
    assert sorted(steerguard.__all__) == steerguard.__all__
    for name in steerguard.__all__:
        assert getattr(steerguard, name) is not None
    assert callable(steerguard.wrap)
    assert callable(steerguard.unwrap)


def test_wrap_is_a_function_whatever_was_imported_first():
    code = "import steerguard.wrapping, steerguard; assert callable(steerguard.wrap), steerguard.wrap"
    python(code)


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, steerguard; heavy = {'torch', 'transformers', 'huggingface_hub', 'rich', 'structlog'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = python(code)
    assert found.stdout.strip() == "[]"


def test_the_import_test_can_fail():
    code = "import sys, steerguard; steerguard.wrap; print('torch' in sys.modules)"
    found = python(code)
    assert found.stdout.strip() == "True"
