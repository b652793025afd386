"""The web UI of Backprop.

- This release holds its place only: `backprop ui` answers with a coded error that says what to use.
- It will read `bp_core.runs.store` and start training as a process of the command line, so that closing a browser touches
  no run.
"""

from __future__ import annotations

__all__: list[str] = []
