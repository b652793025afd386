"""Personal data and secrets: where texts are, what is looked for, what is taken out."""
