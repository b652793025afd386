"""The adapter directory and its base model: found, read, checked, described."""
