"""The commands, a file each; imported when they run."""
