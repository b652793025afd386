"""Memory before the run: what a training needs, by component, from a model's configuration alone; verdicts and advice."""
