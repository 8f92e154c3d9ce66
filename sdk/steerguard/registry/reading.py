"""Reading one file into memory and hashing it on the way.

Small files become bytes. A large file goes into private memory of this process: it is not mapped, because the bytes that
were hashed must be the bytes that are used. One thread reads while another hashes what was read just before.
"""

from __future__ import annotations

import hashlib
import mmap
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import RawIOBase

from steerguard.artifacts.contents import ReadFile
from steerguard.canonical import sha256_hex

LARGE_BYTES = 8 * 1024 * 1024
"""From this size on a file is hashed while it is read and kept without a copy."""

_CHUNK_BYTES = 2 * 1024 * 1024


def read_and_hash(stream: RawIOBase, size: int, *, large: int = LARGE_BYTES) -> ReadFile:
    """Return the next `size` bytes of a stream with their digest; fewer when the stream ends before.

    Args:
        stream: unbuffered, at the first byte.
        size: how many bytes the file has, from 0 on.
        large: from this many bytes on the content is memory rather than `bytes`.

    Raises:
        OSError: the operating system refuses.
        MemoryError: there is no room for the file.
    """
    if size < large:
        content = _read_small(stream, size)
        return ReadFile(content=content, sha256=sha256_hex(content))
    memory = memoryview(_private_memory(size))
    digest = hashlib.sha256()
    position = 0
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="steerguard-hash") as hashing:
        pending = []
        while position < size:
            count = stream.readinto(memory[position : position + _CHUNK_BYTES])
            if not count:
                break
            pending.append(hashing.submit(digest.update, memory[position : position + count]))
            position += count
        for done in pending:
            done.result()
    return ReadFile(content=memory[:position].toreadonly(), sha256=digest.hexdigest())


def _read_small(stream: RawIOBase, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        part = stream.read(size - len(content))
        if not part:
            break
        content += part
    return bytes(content)


def _private_memory(size: int) -> mmap.mmap:
    """Return anonymous memory, in large pages where the system has them: first use of small ones is slower than sha256."""
    memory = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Advice: a kernel without large pages says no, and the memory works all the same.
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
