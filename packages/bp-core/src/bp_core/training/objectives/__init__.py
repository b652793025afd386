"""The training methods, a file each; what one is stands in `base`."""
