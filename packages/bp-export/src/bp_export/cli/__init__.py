"""The commands of bp-export; click is imported here alone."""
