"""Registries: where artifacts are found. Stores return bytes and pins; `steerguard.artifacts` judges the bytes."""
