"""The rewards of the catalogue, one idea per file; `bp_core.rewards.reward` knows them by name."""
