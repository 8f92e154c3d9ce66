"""Reading and hashing a file in one go, small and large."""

from __future__ import annotations

import hashlib
import io
import os

import pytest
from tests.artifact_samples import digest_of, sample_files, write_folder

from steerguard.artifacts.contents import ReadFiles
from steerguard.errors import ArtifactError, ArtifactFormatError
from steerguard.registry import folder as folder_module
from steerguard.registry.folder import read_file, read_folder
from steerguard.registry.reading import read_and_hash

CONTENT = os.urandom(3 * 2**20 + 17)


class Dribble(io.RawIOBase):
    """A stream that hands out a few bytes at a time, as pipes and slow disks may."""

    def __init__(self, content: bytes, step: int) -> None:
        super().__init__()
        self.content, self.step, self.position = content, step, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        part = self.content[self.position : self.position + min(self.step, len(buffer))]
        buffer[: len(part)] = part
        self.position += len(part)
        return len(part)


@pytest.mark.parametrize("large", [1, len(CONTENT) + 1], ids=["large", "small"])
@pytest.mark.parametrize("step", [2**30, 100_003])
def test_content_and_digest_are_those_of_the_stream(large, step):
    with Dribble(CONTENT, step) as stream:
        read = read_and_hash(stream, len(CONTENT), large=large)
    assert read.content == CONTENT
    assert read.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert isinstance(read.content, bytes) == (large > len(CONTENT))


@pytest.mark.parametrize("large", [1, 2**30], ids=["large", "small"])
def test_a_stream_that_ends_early_yields_what_there_was(large):
    with Dribble(CONTENT[:1000], 2**30) as stream:
        read = read_and_hash(stream, 5000, large=large)
    assert read.content == CONTENT[:1000]
    assert read.sha256 == hashlib.sha256(CONTENT[:1000]).hexdigest()


def test_no_more_is_read_than_was_asked_for():
    with Dribble(CONTENT, 2**30) as stream:
        assert read_and_hash(stream, 1000, large=1).content == CONTENT[:1000]


def test_large_content_cannot_be_written_through_the_view_that_is_handed_out():
    with Dribble(CONTENT, 2**30) as stream:
        read = read_and_hash(stream, len(CONTENT), large=1)
    with pytest.raises(TypeError, match="read-only"):
        read.content[0] = 1


def test_an_empty_file_is_read(tmp_path):
    (tmp_path / "empty").touch()
    assert read_file(tmp_path / "empty", max_bytes=10) == b""


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "shrinking"
    file.write_bytes(CONTENT)
    sizes = os.fstat

    def before_the_cut(descriptor):
        found = sizes(descriptor)
        os.truncate(file, 100)
        return found

    monkeypatch.setattr(folder_module.os, "fstat", before_the_cut)
    with pytest.raises(ArtifactError, match="cut off") as caught:
        read_file(file, max_bytes=len(CONTENT))
    assert not isinstance(caught.value, ArtifactFormatError)


def test_a_folder_is_a_mapping_of_plain_bytes(tmp_path):
    files = sample_files()
    found = read_folder(write_folder(tmp_path / "artifact", files))
    assert isinstance(found, ReadFiles)
    assert found == files
    assert {type(content) for content in found.values()} == {bytes}
    assert "absent" not in found
    assert digest_of(found | {"README.md": b"other"}) == digest_of(files)
