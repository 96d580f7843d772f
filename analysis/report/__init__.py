"""The report of one run directory, or of several: one HTML page with its tables and figures beside it."""
