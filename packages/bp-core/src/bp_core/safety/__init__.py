"""What looks after loss, disk and card: pure guards, sensors, the monitor. No torch."""
