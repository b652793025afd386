"""Is the written file what was meant: read back, run, compared."""
