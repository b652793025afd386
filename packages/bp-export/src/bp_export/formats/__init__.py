"""What an adapter becomes: one job over five formats, planned and laid out."""
