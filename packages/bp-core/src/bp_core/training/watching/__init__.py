"""What looks after a run between its steps: parts that stand alone, and the watch that asks them in a fixed order."""
