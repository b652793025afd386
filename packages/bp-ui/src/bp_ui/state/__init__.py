"""What the pages show and do: one small state a page, thin over the services. Nothing of Backprop is imported but in a function."""
