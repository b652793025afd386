"""backprop train, resume, replay."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from bp_core.runs.jobs import record_training
from bp_core.runs.store import RunStore
from bp_core.settings.knobs import RUN_GROUPS, Settings
from bp_core.support.launch import launch
from bp_merge.common import BpError, Exit, Sink, options, output_options

from bp_cli.grouped import Grouped, queue_option, show_config_option, show_settings
from bp_cli.options import dry_run_option, output_option, retired

EPILOG = """\b
Examples:
  backprop train --data my_data.jsonl --steps 100
  backprop train -m tiny -d my_data.jsonl --epochs 3 --lr 5e-3
  backprop train -d chat.jsonl=0.7 -d code.jsonl=0.3 --lora-preset quality
  backprop train -d train.jsonl --map question=prompt,answer=completion --dry-run
"""


NOTHING_QUEUED = "--dry-run trains nothing, so that there is nothing to --queue"


@click.command(cls=Grouped, epilog=EPILOG)
@options(*RUN_GROUPS.values())
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file instead of backprop.toml.",
)
@retired("--no-unsloth", told="is not needed: there is one training loop; leave it out")
@click.option(
    "--resume",
    "resumed",
    metavar="RUN",
    help="Continue this run instead, as `backprop resume RUN` does; no setting may differ from its record.",
)
@click.option("--run-id", metavar="NAME", help="Name of the run. Default: the time, and six random digits.")
@queue_option
@click.option("--dry-run", is_flag=True, help="Read the data and show what would be done; train nothing.")
@show_config_option
@output_options
@click.pass_context
def train(
    ctx: click.Context,
    sink: Sink,
    config_file: Path | None,
    resumed: str | None,
    run_id: str | None,
    queue: bool,
    dry_run: bool,
    show_config: bool,
    **given: Any,
) -> None:
    """Fine-tune a model on a dataset: an adapter (LoRA), or the whole model (--mode full).

    Settings come from backprop.toml, .env, BACKPROPAGATE_… variables and these flags, the later the stronger.
    """
    from bp_core.settings.resolve import resolve

    settings = resolve(given, config_file=config_file)
    from bp_cli.shared import set_up_logs

    set_up_logs(ctx.obj or {}, settings)
    if not launch().first:
        return None if dry_run or show_config else _follow(ctx)
    if show_config:
        show_settings(sink, settings, RUN_GROUPS)
        return
    if resumed is not None:
        if run_id is not None or dry_run or queue or config_file is not None:
            raise click.UsageError(
                "--resume goes on with a recorded run: --run-id, --queue, --dry-run and --config have no meaning beside it"
            )
        store = RunStore(settings.tracking.output)
        _refuse_changes(store, resumed, given)
        _resume(ctx, sink, store, resumed)
        return
    from bp_core.training.refusals import refuse_early

    settings, base = refuse_early(settings, sink.note)  # before torch is loaded
    if run_id is not None:
        RunStore(settings.tracking.output).check_new(run_id)
    if dry_run:
        if queue:
            raise click.UsageError(NOTHING_QUEUED)
        _show_plan(sink, settings, base)
        return
    with record_training(settings, tell=sink.note, queue=queue, run_id=run_id) as run:
        from bp_core.run import run_training

        from bp_cli.progress import Progress

        trained = run_training(settings, callbacks=[Progress(sink)], tell=sink.note, base=base, run=run)
    _print(ctx, sink, trained)


@click.command(
    epilog="\b\nExamples:\n  backprop resume 20261121-0734\n  backprop resume RUN --output ./output --json\n"
)
@click.argument("run_id")
@output_option
@output_options
@click.pass_context
def resume(ctx: click.Context, sink: Sink, run_id: str, output: Path) -> None:
    """Continue a stopped or killed run, or session, from its newest complete checkpoint."""
    from bp_cli.shared import set_up_logs

    set_up_logs(ctx.obj or {})
    if not launch().first:
        return _follow(ctx)
    _resume(ctx, sink, RunStore(output), run_id)


def _resume(ctx: click.Context, sink: Sink, store: RunStore, run_id: str) -> None:
    record = store.trained(run_id)
    run_id = record.run_id
    if record.kind == "multi-run":
        from bp_cli.commands.multi_run import resume_session

        resume_session(ctx, sink, store.output, run_id)
        return
    store.resumable(run_id)  # refused before torch is loaded
    from bp_core.run import resume_training

    from bp_cli.progress import Progress

    _print(ctx, sink, resume_training(store.output, run_id, callbacks=[Progress(sink)], tell=sink.note))


def _refuse_changes(store: RunStore, run_id: str, given: Mapping[str, Any]) -> None:
    """A resumed run goes on as it began: a setting that is given must be the recorded one."""
    from bp_core.settings.resolve import from_record

    record = store.trained(run_id)
    old, new = from_record(record.config).to_dict(), from_record(record.config, given).to_dict()
    changed = [
        f"{group}.{name}"
        for group, values in new.items()
        for name, value in values.items()
        if value != old[group][name]
    ]
    changed = [name for name in changed if name != "tracking.output"]
    if changed:
        raise BpError(
            "CONFIG_CONFLICT",
            f"run {record.run_id} was begun with another {', '.join(changed)}: it is resumed as it began",
            f"backprop replay {record.run_id}{store.flag} --override {changed[0].partition('.')[2]}=VALUE",
        )


@click.command(
    epilog="\b\nExamples:\n  backprop replay 20261121-0734 --override seed=7\n  backprop replay other/manifest.json\n"
)
@click.argument("run")
@output_option
@click.option("--override", multiple=True, metavar="KEY=VALUE", help="Change one setting; repeat it.")
@click.option(
    "--run-id", metavar="NAME", help="Name of the new run. Default: the time, and six random digits."
)
@queue_option
@dry_run_option
@output_options
@click.pass_context
def replay(
    ctx: click.Context,
    sink: Sink,
    run: str,
    output: Path,
    override: tuple[str, ...],
    run_id: str | None,
    queue: bool,
    dry_run: bool,
) -> None:
    """Train again with the settings of a run (an id, or its manifest.json from another machine)."""
    from bp_core.runs.replay import parse_overrides
    from bp_core.runs.replay import replay as plan_replay
    from bp_core.training.refusals import refuse_early

    from bp_cli.shared import set_up_logs

    set_up_logs(ctx.obj or {})
    if not launch().first:
        return None if dry_run else _follow(ctx)
    if dry_run and queue:
        raise click.UsageError(NOTHING_QUEUED)
    plan = plan_replay(run, output=output, overrides=parse_overrides(override))
    for name, (old, new) in plan.overrides.items():
        sink.note(f"{name}: {old} → {new}")
    for line in plan.differences:
        sink.note(f"differs from the recorded run: {line}")
    if plan.kind == "multi-run":
        from bp_core.continual.refusals import refuse
        from bp_core.continual.start import run_session

        from bp_cli.commands.multi_run import show, show_plan
        from bp_cli.progress import Progress

        settings, _ = refuse(plan.settings, None, sink.note)
        if dry_run:
            show_plan(sink, settings, now=plan.now, replay_of=plan.parent)
            return
        callbacks = [Progress(sink)]
        show(
            ctx,
            sink,
            run_session(
                plan.settings,
                callbacks=callbacks,
                tell=sink.note,
                queue=queue,
                parent=plan.parent,
                run_id=run_id,
                now=plan.now,
            ),
        )
        return
    settings, base = refuse_early(plan.settings, sink.note)  # before torch is loaded
    if run_id is not None:
        RunStore(settings.tracking.output).check_new(run_id)
    if dry_run:
        _show_plan(sink, settings, base, now=plan.now, replay_of=plan.parent)
        return
    with record_training(settings, tell=sink.note, queue=queue, parent=plan.parent, run_id=run_id) as job:
        from bp_core.run import run_training

        from bp_cli.progress import Progress

        trained = run_training(
            settings, callbacks=[Progress(sink)], tell=sink.note, base=base, run=job, now=plan.now
        )
    more = {"replay_of": plan.parent, "overrides": plan.overrides, "config": settings.to_dict()}
    _print(ctx, sink, trained, **more)


def _follow(ctx: click.Context) -> None:
    """What every process but the first does: train the run that the first one opens, and say nothing."""
    from bp_core.run import follow_training

    if follow_training().result.status == "interrupted":
        ctx.exit(Exit.INTERRUPTED)


def _print(ctx: click.Context, sink: Sink, trained: Any, **more: Any) -> None:
    result = trained.result
    resume = f"backprop resume {result.run_id}{RunStore(result.path.parent).flag}"

    def human() -> str:
        from bp_cli.text import table

        loss = result.heldout_loss_after
        rows = [
            ("run", result.run_id + ("" if result.status == "completed" else f" ({result.status})")),
            (
                "steps",
                f"{result.steps} of {result.steps_requested}, {result.epochs:g} epochs, {result.tokens_per_second:,.0f} tokens/s",
            ),
            ("rows", f"{result.rows_accepted} used, {result.rows_rejected} rejected"),
            (
                "loss",
                f"{result.train_loss:.4f}"
                + ("" if loss is None else f", held-out {result.heldout_loss_before:.4f} → {loss:.4f}"),
            ),
            (result.adapter_path.name, str(result.adapter_path)),
            ("report", str(result.path / "report.html")),
        ]
        question = f'backprop generate {shlex.quote(str(result.adapter_path))} "your question"'
        return f"{table(rows)}\n\nnext: {question if result.status == 'completed' else resume}"

    sink.result(
        {**result.to_dict(), **more, "report_path": (result.path / "report.html").as_posix()},
        human,
        quiet=str(result.adapter_path),
    )
    if result.status == "interrupted":
        ctx.exit(Exit.INTERRUPTED)


def _show_plan(sink: Sink, settings: Settings, base: Any, *, now: Any = None, **more: Any) -> None:
    """What a run with these settings would do, read from its data."""
    from bp_core.models.device import choose_device
    from bp_core.training.inputs import read_inputs

    from bp_cli.run_plan import plan_text

    plan = read_inputs(settings, base, choose_device(settings), tell=sink.note, now=now).plan()
    sink.result({"dry_run": True, **more, **plan}, lambda: plan_text(plan))
