"""Base models: device, loading, adapters, and the weights that are trained, saved and loaded."""
