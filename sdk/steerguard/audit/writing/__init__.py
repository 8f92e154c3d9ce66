"""How a log is written: pipeline, chain, segments, checkpoints, recovery."""
