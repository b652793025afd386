"""backprop multi-run: a session of many runs whose adapters become one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
from bp_core.runs.store import RunStore
from bp_core.settings.knobs import GROUPS, Settings
from bp_merge.common import Exit, Sink, options, output_options

from bp_cli.grouped import Grouped, queue_option, show_config_option, show_settings
from bp_cli.options import dry_run_option

EPILOG = """\b
Examples:
  backprop multi-run --data my_data.jsonl --runs 5 --steps 100
  backprop multi-run -d week1.jsonl -d week2.jsonl -d week3.jsonl --eval-gate
  backprop multi-run -m tiny -d a.jsonl -d b.jsonl --merge-strategy ties --ties-trim 0.2
  backprop multi-run --resume 20261121-0734
  backprop multi-run --remerge running_mean --resume 20261121-0734
"""


@click.command("multi-run", cls=Grouped, epilog=EPILOG)
@options(*GROUPS.values())
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file instead of backprop.toml.",
)
@click.option(
    "--run-id", metavar="NAME", help="Name of the session. Default: the time, and six random digits."
)
@click.option(
    "--resume", "resumed", metavar="RUN", help="Go on with this session; its settings are as recorded."
)
@click.option(
    "--fresh", is_flag=True, help="Start anew, also where an unfinished session could be continued."
)
@click.option(
    "--remerge",
    metavar="STRATEGY",
    help="Merge the stored adapters of a session (--resume, else the newest) anew; train nothing.",
)
@queue_option
@dry_run_option
@show_config_option
@output_options
@click.pass_context
def multi_run(
    ctx: click.Context,
    sink: Sink,
    config_file: Path | None,
    run_id: str | None,
    resumed: str | None,
    fresh: bool,
    remerge: str | None,
    queue: bool,
    dry_run: bool,
    show_config: bool,
    **given: Any,
) -> None:
    """Train many runs, one after the other, into one adapter that remembers.

    Each --data is a task, learnt in one run; a single dataset is cut into --runs parts. --steps and --samples (1000
    unless given) are those of one run. After each run its adapter is merged with those before, on a model that is
    loaded once. An unfinished session with the same settings and data is continued.
    """
    from bp_core.settings.resolve import resolve

    from bp_cli.shared import set_up_logs

    settings = resolve(given, config_file=config_file)
    set_up_logs(ctx.obj or {}, settings)
    if show_config:
        show_settings(sink, settings, GROUPS)
        return
    if fresh and resumed:
        raise click.UsageError("--fresh starts anew, --resume goes on: give one of them", ctx)
    if dry_run and (queue or resumed or remerge):
        raise click.UsageError(
            "--dry-run shows what a new session would do: leave out --queue, --resume and --remerge"
        )
    store = RunStore(settings.tracking.output)
    if remerge is not None:
        _remerge(sink, store, resumed, remerge)
        return
    if resumed:
        resume_session(ctx, sink, store.output, resumed)
        return
    from bp_core.continual.refusals import refuse

    settings, _ = refuse(settings, None, sink.note)  # before torch is loaded
    if run_id is not None:
        store.check_new(run_id)
    if dry_run:
        show_plan(sink, settings)
        return
    from bp_core.continual.start import run_session

    from bp_cli.progress import Progress

    trained = run_session(
        settings,
        callbacks=[Progress(sink)],
        tell=sink.note,
        run_id=run_id,
        resume_from="off" if fresh else None,
        queue=queue,
    )
    show(ctx, sink, trained)


def resume_session(ctx: click.Context, sink: Sink, output: Path, run_id: str) -> None:
    """Go on with a session and print its result."""
    RunStore(output).resumable(run_id, kind="multi-run")  # refused before torch is loaded
    from bp_core.continual.start import resume_session as go_on

    from bp_cli.progress import Progress

    show(ctx, sink, go_on(output, run_id, callbacks=[Progress(sink)], tell=sink.note))


def _remerge(sink: Sink, store: RunStore, run_id: str | None, strategy: str) -> None:
    from bp_core.continual.remerge import remerge

    found = run_id or next((r.run_id for r in store.list(kind="multi-run", limit=1)), "")
    record, path, facts = remerge(store.output, found, strategy, tell=sink.note)
    question = f'backprop generate {shlex.quote(str(path))} "your question"'
    sink.result(
        {"run_id": record.run_id, "strategy": strategy, "adapter_path": path.as_posix(), "facts": facts},
        f"{path}\n\nnext: {question}",
        quiet=str(path),
    )


def show_plan(sink: Sink, settings: Settings, *, now: Any = None, **more: Any) -> None:
    """What a session with these settings would do, read from the data of its tasks."""
    from bp_core.continual.start import plan_session

    from bp_cli.run_plan import plan_text
    from bp_cli.text import table

    plan = plan_session(settings, tell=sink.note, now=now)

    def human() -> str:
        runs = plan["runs"]
        rows = [
            (f"  {number}", run["task"], f"{run['steps']} steps", f"{run['tokens']:,} tokens")
            for number, run in enumerate(runs, 1)
        ]
        parts = [f"{len(runs)} runs, merged by {plan['strategy']}:\n{table(rows)}", "the first of them:"]
        return "\n\n".join([*parts, plan_text(runs[0])])

    sink.result({"dry_run": True, **more, **plan}, human)


def show(ctx: click.Context, sink: Sink, trained: Any) -> None:
    """Print what a session gave, and end with its exit code."""
    result = trained.result

    def human() -> str:
        from bp_core.runs.remembered import remembered

        from bp_cli.text import table

        merged = len(result.runs) - len(result.left_out)
        rows = [
            ("session", result.run_id + ("" if result.status == "completed" else f" ({result.status})")),
            ("runs", f"{merged} of {len(result.runs)} merged by {result.strategy}"),
            *(("left out", f"{r['run_id']}: {r['reason']}") for r in result.runs if not r["accepted"]),
            (
                "steps",
                f"{result.steps} of {result.steps_requested}, {result.tokens_per_second:,.0f} tokens/s",
            ),
            ("rows", f"{result.rows_accepted} used, {result.rows_rejected} rejected"),
            ("adapter", str(result.adapter_path)),
            ("report", str(result.path / "report.html")),
        ]
        parts = [table(rows), remembered(result.to_dict())]
        if result.status == "completed":
            parts.append(f'next: backprop generate {shlex.quote(str(result.adapter_path))} "your question"')
        else:
            parts.append(f"next: backprop resume {result.run_id}{RunStore(result.path.parent).flag}")
        return "\n\n".join(part for part in parts if part)

    sink.result(
        {**result.to_dict(), "report_path": (result.path / "report.html").as_posix()},
        human,
        quiet=str(result.adapter_path),
    )
    if result.status == "interrupted":
        ctx.exit(Exit.INTERRUPTED)
    if result.left_out:
        ctx.exit(Exit.PARTIAL)
