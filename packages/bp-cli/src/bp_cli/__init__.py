"""The backprop command."""
