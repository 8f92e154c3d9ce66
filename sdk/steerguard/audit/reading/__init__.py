"""Reading what verified: selection, totals, the newest records, other formats."""
