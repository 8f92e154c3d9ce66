"""Signatures: Ed25519 keys, DSSE envelopes and in-toto statements. Nothing here knows what an artifact is."""
