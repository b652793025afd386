"""Many tasks, one adapter: a session of runs on one loaded model, merged, gated and never lost."""
