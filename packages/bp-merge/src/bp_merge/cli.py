"""The `bp-merge` command: merge, slao, inspect, compare, bake, models.

- Flags are read off the same declarations as the Python arguments; `--param` is checked against the method's signature.
- stdout is the result (`--json`: one object), stderr progress and errors; exit codes are those of `bp_merge.common`.
- numpy is imported when a command runs.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from bp_merge.common import BpError, Sink, output_options, run_command


@click.group(
    epilog="Examples:\n\n  bp-merge merge A B --output merged\n\n  bp-merge compare A B --json",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def cli() -> None:
    """Merge LoRA adapters and checkpoints, without torch."""


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(x) for x in text.split(",")]
    except ValueError:
        raise BpError(
            "INPUT_VALIDATION_FAILED", f"weights are numbers, not {text!r}", "--weights 1,0.5"
        ) from None


def _parameters(pairs: tuple[str, ...], density: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {} if density is None else {"density": density}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise BpError("INPUT_VALIDATION_FAILED", f"{pair!r} is not NAME=VALUE", "--param scale=0.5")
        found[name] = value.lower() == "true" if value.lower() in ("true", "false") else value
    return found


@cli.command(epilog="Example:\n\n  bp-merge merge A B --method ties --density 0.3 --output merged")
@click.argument("adapters", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--method", default="task_arithmetic", show_default=True, help="Name of the method.")
@click.option("--weights", help="One number per adapter, with commas, used as given.")
@click.option("--density", type=float, help="Fraction that sparse methods keep.")
@click.option("--rank", type=int, help="The most rank of the result; what the sum needs unless given.")
@click.option("--energy", type=float, help="Instead: the least rank that keeps this fraction of the energy.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of random masks.")
@click.option("--param", multiple=True, metavar="NAME=VALUE", help="A parameter of the method; repeatable.")
@click.option(
    "--moments", multiple=True, type=click.Path(path_type=Path), help="Input moments, one file per adapter."
)
@click.option("--missing", type=click.Choice(["error", "zero"]), default="error", show_default=True)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--dry-run", is_flag=True, help="Check the inputs and print the plan of memory and disk.")
@output_options
def merge(
    adapters: tuple[Path, ...],
    method: str,
    weights: str | None,
    density: float | None,
    rank: int | None,
    energy: float | None,
    seed: int,
    param: tuple[str, ...],
    moments: tuple[Path, ...],
    missing: str,
    output: Path,
    dry_run: bool,
    sink: Sink,
) -> None:
    """Merge LoRA ADAPTERS of one base model into one adapter."""
    from bp_merge.adapter import Adapter
    from bp_merge.engine import merge as run
    from bp_merge.method import get_method

    parameters = _parameters(param, density)
    get_method(method).check(parameters)
    loaded = [Adapter.load(a) for a in adapters]
    if output.exists():
        raise BpError("INPUT_PATH_EXISTS", f"{output} exists", f"bp-merge merge … --output {output}-2")
    if dry_run:
        plan = {"dry_run": True, "method": method, "output_path": str(output), **_plan(loaded, rank)}
        sink.result(
            plan,
            f"{method}: {plan['modules']} modules of rank ≤ {plan['rank']}, "
            f"memory ≈ {plan['memory_mb']} MB, disk ≈ {plan['disk_mb']} MB at {output}",
        )
        return
    result = run(
        loaded,
        method,
        _numbers(weights),
        rank=rank,
        energy=energy,
        seed=seed,
        moments=moments,
        missing=missing,
        output=output,
        progress=lambda i, n, name: sink.progress(f"{i + 1}/{n} {name}"),
        **parameters,
    )
    if sink.mode == "human" and sys.stderr.isatty():
        sys.stderr.write("\n")
    sink.result(
        result.to_dict(),
        f"{output}: {result.modules} modules, rank {result.rank}, "
        f"{result.discarded_energy:.2%} of the energy discarded, {result.seconds:.1f} s",
        quiet=str(output),
    )


def _plan(adapters: list[Any], rank: int | None) -> dict[str, Any]:
    largest = disk = top = 0
    names = sorted({n for a in adapters for n in a.modules})
    for name in names:
        found = [a.modules[name] for a in adapters if name in a.modules]
        m, n = found[0].shape
        total = min(sum(x.rank for x in found), m, n)
        kept = min(total, rank or total)
        top = max(top, kept)
        largest = max(largest, (m + n) * sum(x.rank for x in found) * 8 * 4)
        disk += (m + n) * kept * 4
    return {
        "modules": len(names),
        "rank": top,
        "memory_mb": math.ceil((largest + 2 * disk) / 1e6) + 60,
        "disk_mb": math.ceil(disk / 1e6),
    }


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@output_options
def inspect(path: Path, sink: Sink) -> None:
    """Show what an adapter holds: modules, ranks, scales, norms."""
    from bp_merge.adapter import Adapter
    from bp_merge.lowrank import LowRank, norm, svd

    adapter = Adapter.load(path)
    rows = []
    for name, m in adapter.modules.items():
        part = LowRank.of(m.b, m.a, m.scale)
        s = svd(part).s
        rows.append(
            {
                "name": name,
                "shape": list(m.shape),
                "rank": m.rank,
                "numerical_rank": len(s),
                "scale": m.scale,
                "norm": norm(part),
                "largest_singular_value": float(s[0]) if len(s) else 0.0,
                "dora": m.magnitude is not None,
                "embedding": m.embedding,
            }
        )
    data = {
        "path": str(path),
        "base_model": adapter.config.get("base_model_name_or_path"),
        "modules": rows,
        "full_tensors": sorted(adapter.full),
        "token_rows": {k: len(v) for k, v in adapter.tokens.items()},
        "norm": math.sqrt(sum(r["norm"] ** 2 for r in rows)),
    }
    lines = [f"{path}: {len(rows)} modules, ‖ΔW‖ {data['norm']:.4g}, base {data['base_model']}"]
    lines += [
        f"  {r['name']}  {r['shape'][0]}×{r['shape'][1]}  r {r['rank']}  s {r['scale']:g}  ‖ΔW‖ {r['norm']:.4g}"
        for r in rows
    ]
    sink.result(data, "\n".join(lines), quiet=str(len(rows)))


@cli.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@output_options
def compare(a: Path, b: Path, sink: Sink) -> None:
    """Compare two adapters: cosine, norms and principal angles, per module and overall."""
    from bp_merge.adapter import Adapter
    from bp_merge.comparison import compare as run

    data = run(Adapter.load(a), Adapter.load(b))
    lines = [f"cosine {data['cosine']:.4f}, norms {data['norm_a']:.4g} and {data['norm_b']:.4g}"]
    lines += [f"  {n}  cosine {r['cosine']:.4f}" for n, r in data["modules"].items()]
    sink.result({"a": str(a), "b": str(b), **data}, "\n".join(lines), quiet=f"{data['cosine']:.6f}")


@cli.command(epilog="Example:\n\n  bp-merge slao --state continual adapter-of-task-3")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option(
    "--state", required=True, type=click.Path(path_type=Path), help="State folder, made by the first task."
)
@click.option("--variant", type=click.Choice(["paper", "delta"]), default="paper", show_default=True)
@click.option("--schedule", default="sqrt", show_default=True, help="sqrt, linear, log or a constant.")
@click.option("--min-cosine", type=float, help="Leave the task out below this cosine to the merged change.")
@click.option(
    "--start", type=click.Path(path_type=Path), help="Also write where the next task's training starts."
)
@click.option("--dry-run", is_flag=True, help="Report what the step would do; write nothing.")
@output_options
def slao(
    adapter: Path,
    state: Path,
    variant: str,
    schedule: str,
    min_cosine: float | None,
    start: Path | None,
    dry_run: bool,
    sink: Sink,
) -> None:
    """Merge the ADAPTER of the next task of a sequence into a state; the merged adapter is STATE/merged."""
    from bp_merge.adapter import Adapter
    from bp_merge.slao import SlaoState, step

    before = SlaoState.load(state) if (state / "slao.json").exists() else None
    if start is not None and start.exists():
        raise BpError("INPUT_PATH_EXISTS", f"{start} exists", f"--start {start}-2")
    done = step(before, Adapter.load(adapter), variant=variant, weight=schedule, min_cosine=min_cosine)
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
        raise click.exceptions.Exit(65)


def main() -> None:
    """Run the command and exit with its code."""
    sys.exit(run_command(cli, prog_name="bp-merge"))
