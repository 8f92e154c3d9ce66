import hashlib

import pytest
from pydantic import ValidationError

from steerguard.critics.pinned_files import checked_folder, found_locally, pins_of_folder
from steerguard.critics.text_models import PinnedModel
from steerguard.errors import ArtifactError, ArtifactIntegrityError, ArtifactNotFoundError

REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{ }"}
PINS = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    for name in ("modeling_evil.py", "pytorch_model.bin", "adapter_config.json", "adapter_model.bin"):
        (tmp_path / name).write_bytes(b"not to be read")
    (tmp_path / "onnx").mkdir()
    return tmp_path


def model(place, **changes):
    return PinnedModel(**{"folder": str(place), "files": PINS} | changes)


def test_only_files_that_a_description_may_name_are_pinned(folder):
    assert pins_of_folder(folder) == PINS


def test_a_folder_that_cannot_be_read_is_our_error(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        pins_of_folder(tmp_path / "absent")


def test_what_is_loaded_from_holds_exactly_the_pinned_files_and_is_gone_afterwards(folder):
    with checked_folder(model(folder), found_locally) as staged:
        assert {path.name: path.read_bytes() for path in staged.iterdir()} == FILES
        assert staged != folder
    assert not staged.exists()
    assert (folder / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("name", sorted(FILES))
def test_one_altered_byte_is_refused(folder, name):
    content = bytearray(FILES[name])
    content[0] ^= 1
    (folder / name).write_bytes(content)
    with (
        pytest.raises(ArtifactIntegrityError, match="another digest") as caught,
        checked_folder(model(folder), found_locally),
    ):
        pytest.fail("an altered file was accepted")
    assert caught.value.expected == PINS[name]
    assert caught.value.found == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(ArtifactNotFoundError) as caught, checked_folder(model(folder), found_locally):
        pytest.fail("a missing file was passed over")
    assert caught.value.expected == name


def test_a_snapshot_in_the_cache_is_found_by_its_commit_and_nothing_is_downloaded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    hub = {"repository": "org/judge", "revision": REVISION, "folder": None}
    with pytest.raises(ArtifactNotFoundError, match="not on this machine"):
        found_locally(model(folder, **hub))
    snapshot = tmp_path / "cache" / "models--org--judge" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    assert found_locally(model(folder, **hub)) == snapshot


@pytest.mark.parametrize(
    "changes",
    [
        {"folder": None},
        {"repository": "org/judge", "revision": REVISION},
        {"folder": None, "repository": "org/judge"},
        {"folder": None, "repository": "org/judge", "revision": "main"},
        {"folder": None, "repository": "../judge", "revision": REVISION},
        {"revision": REVISION},
        {"files": PINS | {"modeling_evil.py": "0" * 64}},
        {"files": PINS | {"pytorch_model.bin": "0" * 64}},
        {"files": PINS | {"adapter_config.json": "0" * 64}},
        {"files": PINS | {"../model.safetensors": "0" * 64}},
        {"files": PINS | {"a/model.safetensors": "0" * 64}},
        {"files": PINS | {"config.json": "0" * 63}},
        {"files": {"config.json": PINS["config.json"], "tokenizer.json": PINS["tokenizer.json"]}},
        {"files": {"model.safetensors": PINS["model.safetensors"], "tokenizer.json": PINS["tokenizer.json"]}},
        {"weights": "int8"},
        {"code": "yes"},
    ],
)
def test_a_description_that_is_not_pinned_to_the_bytes_of_safe_files_is_refused(folder, changes):
    with pytest.raises(ValidationError):
        model(folder, **changes)
