"""How each method guides: pure functions, and one executor per method that declares interventions as data."""
