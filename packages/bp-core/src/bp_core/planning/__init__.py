"""The autopilot: from a dataset and a card to a base model, a method and settings that fit, with reasons. No torch."""
