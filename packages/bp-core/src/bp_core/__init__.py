"""Training, safety monitors, runs and evaluation for one person with one GPU."""
