from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.artifact_samples import digest_of, sample_files, write_folder
from typer.testing import CliRunner

import steerguard
from steerguard.cli.registry import app
from steerguard.registry.local import create_registry


@pytest.fixture
def registry(tmp_path):
    registry = create_registry(tmp_path / "registry")
    for version in ("1.0.0", "1.1.0"):
        registry.add(write_folder(tmp_path / version, sample_files(version=version)))
    return registry


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


def test_list_names_every_artifact(registry):
    result = run("list", "--registry", registry.root)
    assert result.exit_code == 0
    assert "inferaligner/tiny@1.0.0" in result.output
    assert "inferaligner/tiny@1.1.0" in result.output


def test_list_of_an_empty_registry_says_so(tmp_path):
    assert "No artifacts" in run("list", "--registry", create_registry(tmp_path / "empty").root).output


def test_show_as_json_is_the_manifest_with_its_digest(registry):
    result = run("show", "inferaligner/tiny@1.0.0", "--json", "--registry", registry.root)
    files = sample_files(version="1.0.0")
    expected = [{"digest": digest_of(files), "manifest": json.loads(files["manifest.json"])}]
    assert json.loads(result.stdout) == expected


def test_show_describes_the_highest_version_first(registry):
    output = run("show", "inferaligner@^1", "--registry", registry.root).output
    assert 0 < output.index("1.1.0") < output.index("1.0.0")
    assert "blocks of width 8" in output


def test_show_of_an_unknown_family_fails_with_help(registry):
    result = run("show", "inferalign", "--registry", registry.root)
    assert result.exit_code == 1
    assert "Did you mean 'inferaligner'" in result.stderr


def test_verify_accepts_a_sound_registry(registry):
    result = run("verify", registry.root)
    assert result.exit_code == 0
    assert "2 of 2 artifacts verified" in result.output


def test_verify_names_the_damaged_file_and_goes_on(registry):
    (registry.root / "inferaligner" / "tiny" / "1.0.0" / "README.md").write_text("other")
    result = run("verify", registry.root)
    assert result.exit_code == 1
    assert "where: inferaligner/tiny@1.0.0/README.md" in result.output
    assert "1 of 2 artifacts verified" in result.output


@pytest.mark.parametrize("damage", ["edited", "absent"])
def test_verify_names_a_bad_manifest_and_checks_the_others(registry, damage):
    manifest = registry.root / "inferaligner" / "tiny" / "1.1.0" / "manifest.json"
    if damage == "edited":
        manifest.write_bytes(manifest.read_bytes() + b" ")
    else:
        manifest.unlink()
    result = run("verify", registry.root)
    assert result.exit_code == 1
    assert "ok       inferaligner/tiny@1.0.0" in result.output
    assert "refused  inferaligner/tiny@1.1.0" in result.output
    assert "tiny" in result.output.split("where: ")[1]
    assert "1 of 2 artifacts verified" in result.output


def test_verify_of_one_folder_says_that_nothing_pins_it(tmp_path):
    result = run("verify", write_folder(tmp_path / "artifact", sample_files()))
    assert result.exit_code == 0
    assert "no index pins" in result.output


@pytest.mark.parametrize("arguments", [("verify", "absent"), ("list", "--registry", "absent"), ("show", "A B")])
def test_wrong_arguments_fail_without_a_traceback(arguments):
    result = run(*arguments)
    assert result.exit_code == 1
    assert "Error: " in result.stderr
    assert "Traceback" not in result.output


def test_the_embedded_registry_verifies():
    assert run("verify").exit_code == 0


def test_listing_imports_no_torch():
    code = (
        "import sys; from steerguard.cli.registry import app; app(['list'], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'}.intersection(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(steerguard.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
