"""Files that hold a secret: readable by their owner only, written whole or not at all, never replaced."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from steerguard.errors import SigningKeyError

MAX_KEY_FILE_BYTES: Final = 16 * 1024
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NEW_KEY: Final = "Make one with `steerguard keys new PATH`."


def read_secret(path: Path) -> bytes:
    """Return the content of a key file.

    Raises:
        SigningKeyError: missing, unreadable, a symbolic link, not a regular file, too large, or open to other users.
    """
    try:
        with open(os.open(path, _OPEN_FLAGS), "rb") as file:  # noqa: PTH123 - the open descriptor is what gets checked
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_KEY_FILE_BYTES + 1) if stat.S_ISREG(mode) else None
    except (OSError, ValueError) as error:
        raise SigningKeyError(
            "The key file for signing cannot be read.",
            where=path,
            expected="a regular file that is no symbolic link",
            found=getattr(error, "strerror", None) or type(error).__name__,
            next_step=_NEW_KEY,
        ) from error
    if content is None or len(content) > MAX_KEY_FILE_BYTES:
        raise SigningKeyError(
            "This is not a key file for signing.",
            where=path,
            expected=f"a regular file of at most {MAX_KEY_FILE_BYTES} bytes",
            next_step=_NEW_KEY,
        )
    if stat.S_IMODE(mode) & 0o077:
        raise SigningKeyError(
            "The key file for signing is open to other users.",
            where=path,
            expected="0600 or stricter",
            found=f"{stat.S_IMODE(mode):04o}",
            next_step=f"chmod 600 {path}; if others could read it, revoke the key and make a new one.",
        )
    return content


def write_secret(path: Path, content: bytes) -> None:
    """Write a key file that must not exist yet, mode 0600, all of it or nothing, and flush it to the device.

    Raises:
        SigningKeyError: the file exists or cannot be written.
    """
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - made with its final mode
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # A hard link appears whole or not at all, and fails where a rename would replace an existing key.
            os.link(staged, path)
        finally:
            staged.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SigningKeyError(
            "The key file for signing cannot be made.",
            where=path,
            found=error.strerror,
            next_step="Choose a writable path that does not exist yet.",
        ) from error
