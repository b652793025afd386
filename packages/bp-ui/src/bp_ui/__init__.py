"""The web UI of Backprop: pages, a REST API and a stream over one service layer, behind one guard, on one port.

- Nothing is computed here: a long action is a process of the command line, recorded in the run store; the pages watch it.
- The pages are compiled when the package is built. Who runs it needs no Node.
- The modules that the pages are made from import nothing of Backprop but in a function: the build has Reflex alone.
"""

from __future__ import annotations

__all__: list[str] = []
