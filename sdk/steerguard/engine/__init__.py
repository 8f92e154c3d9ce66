"""The engine on transformers: the only hooks, and the only caller of the original `generate`."""
