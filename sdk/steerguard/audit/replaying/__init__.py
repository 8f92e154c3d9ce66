"""Deciding again from the readings of a log."""
