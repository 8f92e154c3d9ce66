"""The package finds its own data as a wheel, as a wheel built from the sdist, and as an editable install.

Nothing is downloaded: builds run without isolation and installs without dependencies.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPPED_PARTS = {"__pycache__"}

USE_CONTENT = """
import pathlib, sys
import steerguard.content as content
from steerguard.artifacts.verify import verify_artifact
from steerguard.registry.local import embedded_registry
site = pathlib.Path(sys.argv[1]).resolve()
for folder in (content.policies_directory(), content.registry_directory()):
    assert folder.is_relative_to(site), (folder, site)
print(*sorted(file.name for file in content.policies_directory().glob("*.yaml")))
registry = embedded_registry()
for family in registry.families():
    for pin in registry.pinned(family):
        verify_artifact(registry.read(pin), pin.digest)
        print(pin.reference)
"""

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    environment = {
        **os.environ,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INDEX": "1",
        "OMP_NUM_THREADS": "1",
    } | environment
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def content_files() -> set[str]:
    """Every shipped data file of the checkout, as the wheel names it."""
    return {
        f"steerguard/_content/{file.relative_to(ROOT).as_posix()}"
        for folder in ("policies", "registry")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and not SKIPPED_PARTS.intersection(file.parts) and not file.name.startswith(".")
    }


def expected_output() -> str:
    from steerguard.registry.local import LocalDirectory

    registry = LocalDirectory(ROOT / "registry")
    names = " ".join(sorted(file.name for file in (ROOT / "policies").glob("*.yaml")))
    references = [pin.reference for family in registry.families() for pin in registry.pinned(family)]
    return "\n".join([names, *references]) + "\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, the wheel built from it, and the wheel built from the checkout."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "sdist", ROOT, cwd=folder)
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder / "direct", ROOT, cwd=folder)
    (sdist,) = (folder / "sdist").glob("*.tar.gz")
    (from_sdist,) = (folder / "sdist").glob("*.whl")
    (direct,) = (folder / "direct").glob("*.whl")
    return {"sdist": sdist, "from_sdist": from_sdist, "direct": direct}


@pytest.mark.parametrize("wheel", ["direct", "from_sdist"])
def test_the_wheel_holds_all_content_and_all_modules(built, wheel):
    with zipfile.ZipFile(built[wheel]) as archive:
        names = set(archive.namelist())
    modules = {file.relative_to(ROOT / "sdk").as_posix() for file in (ROOT / "sdk" / "steerguard").rglob("*.py")}
    assert content_files() <= names
    assert modules <= names
    assert "steerguard/py.typed" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests/")]


def test_the_sdist_holds_content_tests_and_licence(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "registry/index.json"} <= names
    assert {name.removeprefix("steerguard/_content/") for name in content_files()} <= names


@pytest.mark.parametrize("wheel", ["direct", "from_sdist"])
def test_an_installed_wheel_reads_its_own_content(built, wheel, tmp_path):
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, built[wheel], cwd=tmp_path)
    output = run(sys.executable, "-c", USE_CONTENT, site, cwd=tmp_path, PYTHONPATH=str(site))
    assert output == expected_output()


def test_an_editable_install_reads_the_checkout(tmp_path):
    site = tmp_path / "site"
    options = ("--no-deps", "--no-build-isolation", "--target", site)
    run(sys.executable, "-m", "pip", "install", *options, "--editable", ROOT, cwd=tmp_path)
    started = f"import site; site.addsitedir({str(site)!r})\n{USE_CONTENT}"
    assert run(sys.executable, "-c", started, ROOT, cwd=tmp_path, PYTHONPATH="") == expected_output()
