"""Measuring what guidance does: refusal readings, gate rates and their intervals."""
