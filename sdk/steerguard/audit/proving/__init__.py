"""Proofs that a record is in a signed log."""
