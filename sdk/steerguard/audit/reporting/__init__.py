"""The report on a directory of logs, as figures and as a page."""
