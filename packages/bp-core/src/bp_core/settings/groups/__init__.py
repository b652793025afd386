"""The settings of a run, one dataclass a file; `bp_core.settings.knobs` gathers them."""
