"""Entry point of `backprop` and of `python -m bp_cli`.

- `--version` alone is answered before Click is loaded; all else is the command of `bp_cli.root`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args in (["--version"], ["-V"]):
        from bp_cli import __version__

        try:
            if sys.stdout is not None:  # closed before we began
                sys.stdout.write(f"backprop {__version__}\n")
                sys.stdout.flush()
        except OSError:  # nobody reads, or the disk is full
            return 2
        return 0
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch loads: idle threads sleep, not spin
    from bp_merge.common import run_command

    from bp_cli.root import cli

    return run_command(cli, args, prog_name="backprop", secrets=_secrets)


def _secrets() -> Sequence[str]:
    """The secrets in this process's environment, which no error may show; asked for only when there is an error."""
    from bp_core.support.redact import environment_secrets

    return environment_secrets()
