"""How a log is verified, from its files to a report."""
