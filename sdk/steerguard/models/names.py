"""Names of models that commands and messages share. No torch here, so that `--help` stays quick."""

from __future__ import annotations

PACKAGED = "packaged:smollm2"
"""What commands call the demo model."""
