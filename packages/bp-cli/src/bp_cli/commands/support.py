"""backprop support-bundle."""

from __future__ import annotations

from pathlib import Path

import click
from bp_core.runs.store import RunStore
from bp_merge.common import Sink, output_options

from bp_cli.options import dry_run_option, output_option


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
@dry_run_option
@output_options
def support_bundle(sink: Sink, run_id: str | None, output: Path, to: Path | None, dry_run: bool) -> None:
    """Zip what explains a run (the newest unless RUN_ID is given): settings, events, metrics, log, environment.

    No weights, no rows of data, and every secret hidden; look into it before you send it.
    """
    from bp_core.runs.bundle import gather

    from bp_cli.text import size, table

    made = gather(RunStore(output), run_id, to)
    files = {name: len(text.encode()) for name, text in sorted(made.files.items())}
    length = sum(files.values()) if dry_run else made.write()

    def human() -> str:
        if not dry_run:
            return f"written: {made.path} ({size(length)})"
        rows = [(f"  {name}", size(n)) for name, n in files.items()]
        return f"would write {made.path}, of\n{table(rows)}"

    told = {"path": made.path.as_posix(), "bytes": length, "files": files, "dry_run": dry_run}
    sink.result(told, human, quiet=str(made.path))
