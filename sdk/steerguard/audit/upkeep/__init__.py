"""What is done to a directory of logs: retention, legal hold, erasure, key rotation."""
