"""Fitted refusal: vectors found by gradient on wordings of a refusal, added where the verdict opens."""
