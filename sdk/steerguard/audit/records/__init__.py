"""What a record may hold: fields, events, their closed models and the canonical line."""
