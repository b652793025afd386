"""backprop support-bundle."""

from __future__ import annotations

from pathlib import Path

import click
from bp_core.runs.store import RunStore
from bp_merge.common import Sink, output_options

from bp_cli.options import output_option


@click.command(
    "support-bundle",
    epilog="\b\nExamples:\n  backprop support-bundle\n  backprop support-bundle 20261121-0734 --to bundle.zip\n",
)
@click.argument("run_id", required=False)
@output_option
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The zip to write.  [default: support-RUN.zip here]",
)
@output_options
def support_bundle(sink: Sink, run_id: str | None, output: Path, to: Path | None) -> None:
    """Zip what explains a run (the newest unless RUN_ID is given): settings, events, metrics, log, environment.

    No weights, no rows of data, and every secret hidden; look into it before you send it.
    """
    from bp_core.runs.bundle import support_bundle as write

    from bp_cli.text import size

    made = write(RunStore(output), run_id, to)
    length = made.stat().st_size
    sink.result(
        {"path": made.as_posix(), "bytes": length}, f"written: {made} ({size(length)})", quiet=str(made)
    )
