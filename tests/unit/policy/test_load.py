from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest

from steerguard.content import policies_directory
from steerguard.errors import PolicyError, PolicyNotFoundError, PolicySyntaxError, PolicyValidationError
from steerguard.policy.load import load_policy, parse_policy, shipped_policies

FULL = Path(__file__).parents[2] / "documents" / "full.yaml"


def test_name_path_text_path_and_file_reference_load_the_same_policy() -> None:
    path = policies_directory() / "harmlessness.yaml"
    policy = load_policy("harmlessness")
    assert load_policy(path) == load_policy(str(path)) == load_policy(path.as_uri()) == policy
    assert load_policy(policy) is policy


def test_a_path_with_spaces_loads_from_its_file_reference(tmp_path: Path) -> None:
    path = tmp_path / "my policy #1.yaml"
    path.write_bytes(FULL.read_bytes())
    assert load_policy(path.as_uri()).metadata.name == "full"


def test_json_and_yaml_forms_load_to_equal_policies(tmp_path: Path) -> None:
    policy = load_policy(FULL)
    path = tmp_path / "full.json"
    path.write_text(json.dumps(policy.document(), indent="\t"), encoding="utf-8")
    assert load_policy(path) == policy
    assert load_policy(path).digest == policy.digest


def test_unknown_name_lists_the_shipped_names_and_the_nearest() -> None:
    with pytest.raises(PolicyNotFoundError) as caught:
        load_policy("harmlesness")
    assert all(name in str(caught.value) for name in shipped_policies())
    assert caught.value.next_step == "Write `harmlessness`, or give a path."


@pytest.mark.parametrize("source", ["hf://org/policy", "https://example.org/policy.yaml", "s3://x/y.yaml"])
def test_remote_references_are_refused_by_name(source: str) -> None:
    with pytest.raises(PolicyError, match="Remote policies are not supported in this version"):
        load_policy(source)


@pytest.mark.parametrize("source", ["file://host/policy.yaml", "file://", "file:///a.yaml?x=1"])
def test_file_references_must_be_local(source: str) -> None:
    with pytest.raises(PolicyNotFoundError, match="not a reference to a local file"):
        load_policy(source)


@pytest.mark.parametrize("source", ["absent.yaml", "absent/policy", "nul\0byte.yaml", Path("absent")])
def test_missing_file_is_not_found(source: str | Path) -> None:
    with pytest.raises(PolicyNotFoundError, match="cannot be read"):
        load_policy(source)


def test_directory_is_not_a_policy(tmp_path: Path) -> None:
    with pytest.raises(PolicyNotFoundError, match="directory"):
        load_policy(tmp_path)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("owner: Zoë".encode("latin-1"))
    with pytest.raises(PolicySyntaxError, match="not UTF-8") as caught:
        load_policy(path)
    assert "0xeb at offset 9" in str(caught.value)


def test_file_over_the_size_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * (256 * 1024 + 1))
    with pytest.raises(PolicySyntaxError, match="too large"):
        load_policy(path)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "12", "null"])
def test_top_level_must_be_a_mapping(text: str) -> None:
    with pytest.raises(PolicyValidationError, match="A policy is a mapping"):
        parse_policy(text, file="x.yaml")


def test_expired_loosening_is_refused_for_a_policy_object_too() -> None:
    policy = load_policy(FULL, today=date(2099, 1, 31))
    with pytest.raises(PolicyValidationError, match="2 problems"):
        load_policy(policy, today=date(2099, 2, 1))


def test_reading_a_policy_is_quick_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from steerguard.policy.load import load_policy\n"
        "load_policy('harmlessness')\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'safetensors', 'rich', 'typer', 'structlog'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": _package_root()})


def test_a_warm_process_reads_a_policy_in_under_50_ms() -> None:
    load_policy("harmlessness")
    durations = []
    for _ in range(5):
        start = time.perf_counter()
        load_policy("harmlessness")
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.05


def _package_root() -> str:
    return str(policies_directory().parent / "sdk")
