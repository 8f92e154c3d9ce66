"""The version of this package, in one place: read by the build backend and by `requires.sdk` of artifacts."""

from __future__ import annotations

__version__ = "0.1.0"
