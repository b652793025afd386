"""backprop runs, show-run, diff-runs, stop, export-runs: the record of what was trained. None of it loads torch."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
from pathlib import Path
from typing import Any

import click
from bp_core.runs import rows
from bp_core.runs.store import RunStore, export_jsonl
from bp_merge.common import Exit, Sink, output_options

from bp_cli.options import dry_run_option, output_option
from bp_cli.text import number, table

STATUSES = (*rows.STATUSES, "crashed")


def _when(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def done(record: rows.RunRecord) -> str:
    """How far a job is: `3 of 10 steps`, `40%` of what is counted in bytes."""
    from bp_cli.text import size

    at = record.progress
    amount, total, unit = at.get("done", record.step), at.get("total"), at.get("unit", "")
    if unit == "bytes":
        return f"{amount / total:.0%} of {size(total)}" if total else size(amount)
    return f"{amount} of {total}" if total else str(amount)


@click.group(
    invoke_without_command=True,
    epilog="\b\nExamples:\n  backprop runs\n  backprop runs --status failed --json\n"
    "  backprop runs import old-output/run_history.json\n",
)
@output_option
@click.option("--status", type=click.Choice(STATUSES), help="Only runs that ended, or stand, like this.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Most runs shown.")
@output_options
@click.pass_context
def runs(ctx: click.Context, sink: Sink, output: Path, status: str | None, limit: int) -> None:
    """List recorded runs, newest first."""
    if ctx.invoked_subcommand is not None:
        return
    store = RunStore(output)
    found = store.list(status=status, limit=limit)  # type: ignore[arg-type]

    def human() -> str:
        if not found and status and store.list(limit=1):
            return f"no runs in {output} are {status}; all of them: backprop runs --output {output}"
        if not found:
            return f"no runs in {output}; the first one: backprop quickstart --output {output}"
        lines = [
            (
                r.run_id,
                r.kind,
                r.status,
                _when(r.created_at),
                str(r.base_model.get("ref", "")),
                done(r),
                number(r.result.get("train_loss")),
                number(r.result.get("heldout_loss_after")),
            )
            for r in found
        ]
        more = f"\n(the newest {limit}; --limit shows more)" if len(found) == limit else ""
        return table(lines, ("run", "kind", "status", "made", "model", "done", "loss", "held-out")) + more

    sink.result({"runs": [r.to_dict() for r in found]}, human, quiet="\n".join(r.run_id for r in found))


@runs.command("import", epilog="\b\nExample:\n  backprop runs import old-output/run_history.json\n")
@click.argument("file", type=click.Path(path_type=Path))
@dry_run_option
@output_option
@output_options
@click.pass_context
def import_(ctx: click.Context, sink: Sink, file: Path, dry_run: bool, output: Path) -> None:
    """Take the runs of a Backpropagate 1.x history into the run store; those that are there stay as they are."""
    from bp_core.runs.history import import_history

    found = import_history(RunStore(output), file, write=not dry_run)
    for line in found.passed_over:
        sink.note(f"passed over {line}")
    told = f"{len(found.runs)} {'would be ' if dry_run else ''}taken into {output}"
    if found.there:
        told += f", {len(found.there)} were there already"
    sink.result(
        {
            "imported": found.runs,
            "there": found.there,
            "passed_over": found.passed_over,
            "dry_run": dry_run,
        },
        told,
        quiet="\n".join(found.runs),
    )
    if found.passed_over:
        ctx.exit(Exit.PARTIAL)


@runs.command("rename", epilog="\b\nExample:\n  backprop runs rename 20261121-0734 facts-with-more-rows\n")
@click.argument("run_id")
@click.argument("name")
@dry_run_option
@output_option
@output_options
def rename(sink: Sink, run_id: str, name: str, dry_run: bool, output: Path) -> None:
    """Give a run a name beside its id; an empty one takes it back."""
    found = RunStore(output).rename(run_id, name, write=not dry_run)
    verb = "would be" if dry_run else "is"
    sink.result(
        {"run_id": found, "name": name, "dry_run": dry_run},
        f"{found} {verb} named {name}" if name else f"{found} {verb} without a name",
        quiet=found,
    )


@runs.command("delete", epilog="\b\nExample:\n  backprop runs delete 20261121-0734 20261120-1801 --yes\n")
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Delete without asking; needed where nobody can be asked.")
@dry_run_option
@output_option
@output_options
@click.pass_context
def delete(
    ctx: click.Context, sink: Sink, run_ids: tuple[str, ...], yes: bool, dry_run: bool, output: Path
) -> None:
    """Delete runs that have ended: their rows, and their folders with checkpoints and adapters."""
    store = RunStore(output)
    found = list(dict.fromkeys(store.deletable(run_id).run_id for run_id in run_ids))
    if dry_run:
        folders = [(store.output / run_id).as_posix() for run_id in found]
        sink.result(
            {"deleted": found, "dry_run": True},
            f"would delete {', '.join(folders)}, with checkpoints and adapters",
            quiet="\n".join(found),
        )
        return
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here: add --yes", ctx)
        click.confirm(f"delete {', '.join(found)} for good?", abort=True, err=True)
    done = [store.delete(run_id) for run_id in found]
    sink.result({"deleted": done, "dry_run": False}, f"deleted {', '.join(done)}", quiet="\n".join(done))


@click.command(
    "show-run", epilog="\b\nExamples:\n  backprop show-run 20261121-0734\n  backprop show-run RUN --json\n"
)
@click.argument("run_id")
@output_option
@output_options
def show_run(sink: Sink, run_id: str, output: Path) -> None:
    """Show one run: settings with their sources, data, outcome, events, files. RUN_ID may be a prefix."""
    store = RunStore(output)
    record = store.get(run_id)
    events, artifacts, latest = (
        store.events(record.run_id),
        store.artifacts(record.run_id),
        store.latest(record.run_id),
    )

    def human() -> str:
        from bp_core.runs.remembered import remembered

        result: dict[str, Any] = record.result
        facts = [
            ("run", record.run_id),
            ("status", record.status + (f": {result['error']}" if result.get("error") else "")),
            (
                "started",
                f"{_when(record.started_at)}, took {record.seconds:.0f} s"
                if record.started_at
                else f"not yet: made {_when(record.created_at)}"
                if record.status in rows.LIVE
                else f"never: ended {record.seconds:.0f} s after it was made",
            ),
            ("model", str(record.base_model.get("ref", ""))),
            *(
                [("data", f"{data.get('accepted', 0)} rows used, {data.get('rejected', 0)} rejected")]
                if (data := record.dataset)
                else []
            ),
            ("done", done(record)),
            *((name, f"{number(value)} (step {step})") for name, (step, value) in sorted(latest.items())),
        ]
        settings = [
            (f"{group}.{name}", str(value), source)
            for group, values in record.config.items()
            for name, value in values.items()
            if (source := record.sources.get(f"{group}.{name}", "default")) != "default"
        ]
        told = [(_when(e.time)[11:], str(e.step), e.code, e.message) for e in events]
        files = [(a.kind, str(a.path)) for a in artifacts if a.path.exists()]  # older checkpoints are let go
        parts = [
            table(facts),
            table(
                [
                    (r["run_id"], r["task"], "merged" if r["accepted"] else r["reason"])
                    for r in result.get("runs", ())
                ]
            ),
            remembered(result),
            table(settings, ("setting", "value", "source")),
            table(told, ("time", "step", "event", "")),
            table(files, ("file", "")),
        ]
        return "\n\n".join(part for part in parts if part)

    data = {
        **record.to_dict(),
        "latest": latest,
        "events": [e.to_dict() for e in events],
        "artifacts": [{**a.to_dict(), "exists": a.path.exists()} for a in artifacts],
    }
    sink.result(data, human, quiet=record.status)


@click.command("diff-runs", epilog="\b\nExamples:\n  backprop diff-runs 20261121-07 20261120-18\n")
@click.argument("run_id_a")
@click.argument("run_id_b")
@output_option
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", hidden=True)
@output_options
def diff_runs(sink: Sink, run_id_a: str, run_id_b: str, output: Path, form: str) -> None:
    """Compare two runs: what was set, what went in, what came out."""
    from bp_core.runs.diff import diff

    sink = Sink("json") if form == "json" else sink

    found = diff(RunStore(output), run_id_a, run_id_b)

    def human() -> str:
        a, b = found.runs
        settings = [(key, str(x), str(y)) for key, (x, y) in found.settings.items()]
        outcome = [(key, number(x), number(y)) for key, (x, y) in found.outcome.items()]
        parts = [
            table(settings, ("setting", a, b))
            if settings
            else f"all {found.same_settings} settings are the same",
            "\n".join([*found.inputs, *found.environment]),
            table(outcome, ("outcome", a, b)),
        ]
        return "\n\n".join(part for part in parts if part)

    sink.result(found.to_dict(), human)


@click.command(epilog="\b\nExamples:\n  backprop stop 20261121-0734\n  backprop stop RUN --action pause\n")
@click.argument("run_id")
@click.option(
    "--action",
    type=click.Choice(["stop-and-save", "stop", "pause", "resume"]),
    default="stop-and-save",
    show_default=True,
    help="What the run does after its current step.",
)
@output_option
@output_options
def stop(sink: Sink, run_id: str, action: Any, output: Path) -> None:
    """Ask a live run to stop, pause or go on; it obeys after its current step."""
    found = RunStore(output).request(run_id, action)
    sink.result({"run_id": found, "action": action}, f"{found} was asked to {action}", quiet=found)


@click.command(
    "export-runs",
    epilog="\b\nExamples:\n  backprop export-runs > runs.jsonl\n  backprop export-runs --to runs.jsonl --status completed\n",
)
@output_option
@click.option("--status", type=click.Choice(STATUSES), help="Only runs like this.")
@click.option("--format", type=click.Choice(["jsonl"]), default="jsonl", expose_value=False, hidden=True)
@click.option(
    "--to", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead of stdout."
)
def export_runs(output: Path, status: str | None, to: Path | None) -> None:
    """Write every run as a line of JSON: record, metrics, events, files."""
    lines = export_jsonl(RunStore(output), status=status)
    if to is None:
        for line in lines:
            sys.stdout.write(line + "\n")
        return
    from bp_data.whole_files import whole_files

    with contextlib.suppress(OSError):  # told below, where it is still missing
        to.parent.mkdir(parents=True, exist_ok=True)
    with whole_files(to, overwrite=True) as (file,):
        for line in lines:
            file.write(line.encode() + b"\n")
