"""One training run: prepare, open, fit, watch, deliver; and the one step that every method trains with."""
