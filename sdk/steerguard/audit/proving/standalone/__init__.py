"""Scripts that are copied next to evidence: they need Python alone, and import nothing of this package."""
