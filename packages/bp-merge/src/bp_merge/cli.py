"""The `bp-merge` command: merge, slao, models, bake, methods, inspect, compare.

- A method's parameters are its function's signature: `--param` is checked against it, `--density` is short for one.
- `--dry-run` makes every check of the inputs and prints what would be needed.
- stdout is the result (`--json`: one object), stderr progress and errors; exit codes are those of `bp_merge.common`.
- numpy is imported when a command runs.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bp_merge.common import BpError, Exit, Sink, options, output_options, run_command
from bp_merge.settings import BakeSettings, MergeSettings, ModelsSettings, SlaoSettings


@click.group(
    epilog="Examples:\n\n  bp-merge merge A B --output merged\n\n  bp-merge bake BASE merged --output model\n\n  bp-merge compare A B --json",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def cli() -> None:
    """Merge LoRA adapters and checkpoints, without torch."""


_FOLDER = click.Path(path_type=Path)


def _parameters(pairs: tuple[str, ...], density: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {} if density is None else {"density": density}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise BpError("INPUT_VALIDATION_FAILED", f"{pair!r} is not NAME=VALUE", "use --param scale=0.5")
        if name in found:
            raise BpError("INPUT_VALIDATION_FAILED", f"{name} is given twice", f"use --param {pair}")
        found[name] = value
    return found


def _fields(settings: MergeSettings | ModelsSettings) -> dict[str, Any]:
    return {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}


def _progress(sink: Sink) -> Callable[[int, int], None]:
    return lambda done, total: sink.progress(f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB")


def _end_line(sink: Sink) -> None:
    if sink.mode == "human" and sys.stderr.isatty():
        sys.stderr.write("\n")


def _show_plan(sink: Sink, plan: dict[str, Any]) -> None:
    rest = ", ".join(f"{k} {v}" for k, v in plan.items() if isinstance(v, (int, float)))
    sink.result({"dry_run": True, **plan}, f"would write {plan['output_path']}: {rest}")


_OUTPUT = click.option(
    "--output", "-o", required=True, type=_FOLDER, help="Folder to write; it must not exist."
)
_PLAN = click.option(
    "--dry-run", is_flag=True, help="Check the inputs and print the plan of memory and disk."
)
_DENSITY = click.option("--density", metavar="FLOAT", help="Fraction that sparse methods keep.")
_PARAM = click.option(
    "--param", multiple=True, metavar="NAME=VALUE", help="A parameter of the method; repeatable."
)


@cli.command(epilog="Example:\n\n  bp-merge merge A B --method ties --density 0.3 --output merged")
@click.argument("adapters", nargs=-1, required=True, type=_FOLDER)
@options(settings=MergeSettings)
@_DENSITY
@_PARAM
@_OUTPUT
@_PLAN
@output_options
def merge(
    adapters: tuple[Path, ...],
    density: str | None,
    param: tuple[str, ...],
    output: Path,
    dry_run: bool,
    sink: Sink,
    settings: MergeSettings,
) -> None:
    """Merge LoRA ADAPTERS of one base model into one adapter."""
    from bp_merge import engine
    from bp_merge.adapter import Adapter

    given = {**_fields(settings), "output": output, **_parameters(param, density)}
    loaded = [Adapter.load(a) for a in adapters]
    if dry_run:
        _show_plan(sink, engine.plan_merge(loaded, **given))
        return
    result = engine.merge(
        loaded,
        progress=lambda i, n, name: sink.progress(f"{i + 1}/{n} {name}"),
        **given,
    )
    _end_line(sink)
    for text in result.warnings:
        sink.note(text)
    sink.result(
        result.to_dict(),
        f"{output}: {result.modules} modules, rank {result.rank}, "
        f"{result.discarded_energy:.2%} of the energy discarded, {result.seconds:.1f} s",
        quiet=str(output),
    )


@cli.command(epilog="Example:\n\n  bp-merge models BASE A B --method ties --density 0.2 --output merged")
@click.argument("base", type=_FOLDER)
@click.argument("models", nargs=-1, required=True, type=_FOLDER)
@options(settings=ModelsSettings)
@_DENSITY
@_PARAM
@_OUTPUT
@_PLAN
@output_options
def models(
    base: Path,
    models: tuple[Path, ...],
    density: str | None,
    param: tuple[str, ...],
    output: Path,
    dry_run: bool,
    sink: Sink,
    settings: ModelsSettings,
) -> None:
    """Merge full MODELS that were tuned from one BASE; the same command goes on after a kill."""
    from bp_merge import models as full

    given = {**_fields(settings), "output": output, **_parameters(param, density)}
    if dry_run:
        plan = full.plan_models(base, models, **given)
        _show_plan(sink, plan.to_dict())
        return
    result = full.merge_models(base, models, progress=_progress(sink), **given)
    _end_line(sink)
    sink.result(
        result.to_dict(),
        f"{output}: {settings.method} of {len(models)} models, {result.tensors} tensors, "
        f"{result.nbytes / 1e6:,.1f} MB, {result.seconds:.1f} s",
        quiet=str(output),
    )


@cli.command(epilog="Example:\n\n  bp-merge bake BASE ADAPTER --output merged-model --dtype bf16")
@click.argument("base", type=_FOLDER)
@click.argument("adapters", nargs=-1, required=True, type=_FOLDER)
@options(settings=BakeSettings)
@_OUTPUT
@_PLAN
@output_options
def bake(
    base: Path,
    adapters: tuple[Path, ...],
    output: Path,
    dry_run: bool,
    sink: Sink,
    settings: BakeSettings,
) -> None:
    """Write the BASE model with ADAPTERS added to its weights; the same command goes on after a kill."""
    from bp_merge import bake as baking
    from bp_merge.adapter import Adapter

    numbers = settings.weights or (1.0,) * len(adapters)
    if len(numbers) != len(adapters):
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{len(adapters)} adapters need {len(adapters)} weights, not {len(numbers)}",
            f"use --weights {','.join(['1'] * len(adapters))}",
        )
    loaded = [(Adapter.load(a), w) for a, w in zip(adapters, numbers, strict=True)]
    if dry_run:
        plan = baking.plan_bake(base, loaded, output, dtype=settings.dtype, untie=settings.untie)
        _show_plan(sink, plan.to_dict())
        return
    result = baking.bake(
        base, loaded, output, dtype=settings.dtype, untie=settings.untie, progress=_progress(sink)
    )
    _end_line(sink)
    for text in (*result.notes, *result.warnings):
        sink.note(text)
    arrived = result.survival.coefficient
    sink.result(
        result.to_dict(),
        f"{output}: {result.touched} of {result.tensors} tensors changed, {result.nbytes / 1e6:,.1f} MB, "
        + (f"{arrived:.1%} of the change arrived, " if arrived is not None else "")
        + f"{result.seconds:.1f} s",
        quiet=str(output),
    )


@cli.command()
@click.argument("names", nargs=-1)
@output_options
def methods(names: tuple[str, ...], sink: Sink) -> None:
    """List the merge methods, or those NAMES, with their parameters."""
    from bp_merge.method import get_method, method_names

    found = [get_method(n).describe() for n in names or method_names()]
    lines = []
    for m in found:
        lines.append(f"{m['name']}: {m['formula']}  ({m['reference']})")
        lines += [
            f"  --param {n}={'' if p['default'] is None else p['default']}  {p['values']}"
            for n, p in m["parameters"].items()
        ]
    sink.result({"methods": found}, "\n".join(lines), quiet="\n".join(m["name"] for m in found))


@cli.command()
@click.argument("path", type=_FOLDER)
@output_options
def inspect(path: Path, sink: Sink) -> None:
    """Show what an adapter or a checkpoint holds."""
    from bp_merge.adapter_place import refuse_no_folder

    if not path.is_file():
        refuse_no_folder(path)  # before numpy is loaded
    from bp_merge.inspection import describe
    from bp_merge.inspection import inspect as run

    data = run(path)
    sink.result(data, lambda: describe(data), quiet=str(len(data.get("modules", data.get("tensors", ())))))


@cli.command()
@click.argument("a", type=_FOLDER)
@click.argument("b", type=_FOLDER)
@output_options
def compare(a: Path, b: Path, sink: Sink) -> None:
    """Compare two adapters: cosine, norms and principal angles, per module and overall."""
    from bp_merge.adapter_place import refuse_no_folder

    refuse_no_folder(a)
    refuse_no_folder(b)
    from bp_merge.adapter import Adapter
    from bp_merge.comparison import compare as run

    data = run(Adapter.load(a), Adapter.load(b))
    lines = [f"cosine {data['cosine']:.4f}, norms {data['norm_a']:.4g} and {data['norm_b']:.4g}"]
    lines += [f"  {n}  cosine {r['cosine']:.4f}" for n, r in data["modules"].items()]
    sink.result({"a": str(a), "b": str(b), **data}, "\n".join(lines), quiet=f"{data['cosine']:.6f}")


@cli.command(epilog="Example:\n\n  bp-merge slao --state continual adapter-of-task-3")
@click.argument("adapter", type=_FOLDER)
@click.option("--state", required=True, type=_FOLDER, help="State folder, made by the first task.")
@options(settings=SlaoSettings)
@click.option("--start", type=_FOLDER, help="Also write where the next task's training starts.")
@click.option("--dry-run", is_flag=True, help="Report what the step would do; write nothing.")
@output_options
def slao(
    adapter: Path,
    state: Path,
    start: Path | None,
    dry_run: bool,
    sink: Sink,
    settings: SlaoSettings,
) -> None:
    """Merge the ADAPTER of the next task of a sequence into a state; the merged adapter is STATE/merged."""
    from bp_merge.adapter import Adapter
    from bp_merge.slao import SlaoState, step

    before = SlaoState.load(state) if (state / "slao.json").exists() else None
    if start is not None and start.exists():
        raise BpError("INPUT_PATH_EXISTS", f"{start} exists", f"use --start {start}-2")
    done = step(
        before,
        Adapter.load(adapter),
        variant=settings.variant,
        weight=settings.schedule,
        min_cosine=settings.min_cosine,
    )
    if not dry_run and done.accepted:
        done.state.save(state)
        if start is not None:
            done.state.start().save(start)
    data = {"state": str(state), "output_path": str(state / "merged"), "dry_run": dry_run, **done.to_dict()}
    sink.result(
        data,
        f"{data['decision']}: task {done.state.count}, λ {done.weight:.3f}, "
        f"cosine {'–' if done.cosine is None else format(done.cosine, '.4f')}; {state / 'merged'}",
        quiet=str(data["decision"]),
    )
    if not done.accepted:
        raise click.exceptions.Exit(int(Exit.GATE))


def main() -> None:
    """Run the command and exit with its code."""
    sys.exit(run_command(cli, prog_name="bp-merge"))
