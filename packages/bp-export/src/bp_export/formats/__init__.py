"""What an adapter becomes: one job over the formats, a file each: decided first, then written, read back and named."""
