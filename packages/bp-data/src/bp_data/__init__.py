"""Read, detect, map, validate, report, deduplicate and split training data."""
