"""Rewards: what a completion is worth, as functions that can be listed, composed and tested before any training. No torch.

- `reward` says what a reward is and knows the catalogue by name; `catalogue/` holds the rewards, one idea per file.
- `compose` makes a weighted set from TOML or Python; `own` loads the user's functions; `presets` are sets by name.
- `suggest` proposes a set for a dataset; `coverage` says whether a set gives any signal on sampled completions.
- Nothing here runs code of a model unless `run_code` is given, and nothing asks a service unless one is named.
"""
