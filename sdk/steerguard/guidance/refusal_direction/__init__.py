"""Refusal direction (arXiv 2406.11717): the direction that mediates refusal, added or projected out."""
