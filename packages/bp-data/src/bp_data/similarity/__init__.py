"""What is alike: shingles, candidate pairs, near-duplicates, contamination."""
