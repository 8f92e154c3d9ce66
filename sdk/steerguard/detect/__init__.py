"""Detectors: what turns hidden states into a score that rules compare."""
