"""The rolling guard: a probe that is read while the answer is written."""
