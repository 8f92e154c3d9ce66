"""InferAligner (arXiv 2401.11206): the safety direction of an aligned sibling, behind a gate on the target."""
