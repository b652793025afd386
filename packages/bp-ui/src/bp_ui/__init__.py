"""The web UI of Backprop (backprop ui)."""
