"""Recipes: from contrast prompts to an artifact folder."""
