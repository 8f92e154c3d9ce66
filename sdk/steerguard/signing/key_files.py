"""Files that hold a secret: readable by their owner only, written whole or not at all, never replaced."""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steerguard.errors import SteerguardError

MAX_KEY_FILE_BYTES: Final = 16 * 1024
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretKind:
    """What a key is for, as messages say it."""

    purpose: str
    """For example `signing`: messages speak of the key file for it."""
    error: type[SteerguardError]
    """What is raised."""
    make_one: str
    """The next step where there is no key."""
    if_exposed: str = ""
    """What to do besides closing a file that others could read."""


def read_secret(path: Path, kind: SecretKind) -> bytes:
    """Return the content of a key file.

    Raises:
        SteerguardError: of the kind's class; missing, unreadable, a symbolic link, not a regular file, too large, or open to other users.
    """
    try:
        with open(os.open(path, _OPEN_FLAGS), "rb") as file:  # noqa: PTH123 - the open descriptor is what gets checked
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_KEY_FILE_BYTES + 1) if stat.S_ISREG(mode) else None
    except (OSError, ValueError) as error:
        raise kind.error(
            f"The key file for {kind.purpose} cannot be read.",
            where=path,
            expected="a regular file that is no symbolic link",
            found=getattr(error, "strerror", None) or type(error).__name__,
            next_step=kind.make_one,
        ) from error
    if content is None or len(content) > MAX_KEY_FILE_BYTES:
        raise kind.error(
            f"This is not a key file for {kind.purpose}.",
            where=path,
            expected=f"a regular file of at most {MAX_KEY_FILE_BYTES} bytes",
            next_step=kind.make_one,
        )
    if stat.S_IMODE(mode) & 0o077:
        raise kind.error(
            f"The key file for {kind.purpose} is open to other users.",
            where=path,
            expected="0600 or stricter",
            found=f"{stat.S_IMODE(mode):04o}",
            next_step=f"chmod 600 {path}{kind.if_exposed}",
        )
    return content


def write_secret(path: Path, content: bytes, kind: SecretKind) -> None:
    """Write a key file that must not exist yet, mode 0600, all of it or nothing, and flush it to the device.

    Raises:
        SteerguardError: of the kind's class; the file exists or cannot be written.
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
        raise kind.error(
            f"The key file for {kind.purpose} cannot be made.",
            where=path,
            found=error.strerror,
            next_step="Choose a path that does not exist yet, in a folder that exists and can be written.",
        ) from error
