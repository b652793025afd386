"""The pages: layout alone, no logic."""
