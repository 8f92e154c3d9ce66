"""Content of prompts and answers: keyed hashes, redaction and encryption."""
