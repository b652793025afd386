"""Settings: every knob declared once, and resolved from its sources. No torch."""
