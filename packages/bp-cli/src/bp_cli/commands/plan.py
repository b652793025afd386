"""backprop plan: a model, a method and settings for a dataset and a card. It loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from bp_core.planning.settings import PlanSettings
from bp_merge.common import Sink, build, options, output_options

from bp_cli.options import output_option
from bp_cli.text import table

EPILOG = """\b
Examples:
  backprop plan train.jsonl --vram-gb 12
  backprop plan train.jsonl --vram-gb 16 --model qwen-2.5-7b --apply
  backprop plan train.jsonl --vram-gb 8 --simulate --json
"""


@click.command(epilog=EPILOG)
@click.argument("data")
@options(PlanSettings)
@click.option("--apply", is_flag=True, help="Write the settings into backprop.toml here.")
@click.option("--simulate", is_flag=True, help="Walk the pipeline without a model; its artifacts say so.")
@output_option
@output_options
def plan(sink: Sink, data: str, apply: bool, simulate: bool, output: Path, **given: Any) -> None:
    """What to train on DATA: base model, method and settings that fit the card, with reasons."""
    from bp_core.planning.plan import plan as make

    made = make(data, build(PlanSettings, given))
    told: dict[str, Any] = {**made.to_dict(), "applied": None, "simulated": None}
    if apply:
        from bp_core.settings.config_file import set_values

        set_values(Path("backprop.toml"), made.settings)
        told["applied"] = "backprop.toml"
    if simulate:
        from bp_core.planning.simulate import simulate as walk

        told["simulated"] = {k: v.as_posix() for k, v in walk(made, output, tell=sink.note).items()}

    def human() -> str:
        facts = [
            (
                "model",
                f"{made.model} ({made.licence or 'licence not known'}, template {made.template or 'not known'})",
            ),
            (
                "memory",
                f"{made.verdict}: {made.total_bytes / 2**30:.1f} of {made.vram_gb:g} GB ({made.device})",
            ),
            ("rows", f"{made.rows.count} used, {made.rows.rejected} rejected"),
            *((name, str(value)) for name, value in made.settings.items() if name not in ("data", "model")),
        ]
        why = table(list(made.reasons.items()), ("because", ""))
        steps = [*made.more, "backprop train" if apply else made.command]
        return "\n\n".join([table(facts), why, "next:\n  " + "\n  ".join(steps)])

    sink.result(told, human, quiet=made.model)
