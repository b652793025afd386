"""The backprop command."""

__version__ = "0.1.0"  # here too, so that `--version` reads no metadata; a test holds both equal
