"""backprop estimate-vram. It loads no torch but to measure a card."""

from __future__ import annotations

from typing import Any

import click
from bp_core.memory.settings import EstimateSettings
from bp_merge.common import Sink, build, options, output_options

from bp_cli.text import size, table

EPILOG = """\b
Examples:
  backprop estimate-vram
  backprop estimate-vram Qwen/Qwen2.5-7B-Instruct --vram-gb 16
  backprop estimate-vram llama-3.2-3b --vram-gb 24 --mode full
  backprop estimate-vram ./my-model --vram-gb 12 --method dpo --batch-size 2 --json
"""


@click.command("estimate-vram", epilog=EPILOG)
@click.argument("model", required=False)
@click.option("--revision", help="Commit, tag or branch of a Hub model.")
@click.option(
    "--calibrate", is_flag=True, help="First measure what the card here takes beside tensors, and keep that."
)
@options(EstimateSettings)
@output_options
def estimate_vram(sink: Sink, model: str | None, revision: str | None, calibrate: bool, **given: Any) -> None:
    """Will it fit? The memory that training MODEL takes, by component, before anything is fetched.

    What is left out is chosen so that it fits: preset, 4-bit or not, checkpointing, examples per pass.
    """
    from bp_core.memory.machine import machine
    from bp_core.memory.report import answer
    from bp_core.memory.source import known
    from bp_core.settings.tables import DEFAULT_MODEL

    asked = build(EstimateSettings, given)
    if calibrate:
        if asked.vram_gb is not None:
            raise click.UsageError("--calibrate measures the card that is here, --vram-gb names another")
        from bp_core.models.calibrate import calibrate as measure

        card, taken = measure()
        click.echo(
            f"{card} takes {taken.fixed / 1e9:.2f} GB, and {taken.share:.0%} of what comes and goes", err=True
        )
    told = answer(known(model or DEFAULT_MODEL, revision), asked, machine(asked.vram_gb))
    data = told.to_dict(asked.keep_last + asked.keep_best)
    sink.result(data, lambda: _text(data), quiet=data["verdict"])


def _text(data: dict[str, Any]) -> str:
    settings = data["settings"]
    facts = [
        ("model", f"{data['model']}, {data['parameters']:,} parameters" + (f", {data['licence']}" if data["licence"] else "")),
        ("memory", f"{data['device']}: {data['vram_gb']:g} GB"),
        ("verdict", f"{data['verdict']}: {_gb(data['total_bytes'])} of {data['vram_gb']:g} GB at the peak ({data['peak_at']})"),
        ("with", _shown(settings)),
        ("longest", f"{data['longest']:,} tokens with one example a pass" if data["longest"] else "no usual length"),
        ("disk", f"{size(data['disk']['needed_bytes'])}: download {size(data['disk']['download_bytes'])}, "
                 f"a checkpoint {size(data['disk']['checkpoint_bytes'])}"),
    ]  # fmt: skip
    parts = [
        table(facts),
        table([(name, _gb(n)) for name, n in data["components"].items()], ("component", "GB")),
    ]
    if data["changes"]:
        parts.append(
            "what would do:\n"
            + table([(f"  {c['flags']}", _gb(c["total_bytes"]), c["verdict"]) for c in data["changes"]])
        )
    elif data["verdict"] == "too large":
        parts.append("no setting makes it fit: choose a smaller model")
    if data["recommended"]:
        rows: list[tuple[Any, ...]] = [
            (
                f"{row['vram_gb']:g} GB",
                *(
                    (
                        _gb(row["total_bytes"]),
                        row.get("preset") or "as given",
                        {"none": "16-bit"}.get(row.get("quantization", "none"), row.get("quantization", "")),
                        "on" if row["gradient_checkpointing"] else "off",
                        f"{row['batch_size']} x {row['gradient_accumulation']}",
                        f"{row['longest']:,}",
                    )
                    if row["verdict"] == "fits"
                    else ("too large", "", "", "", "", "")
                ),
            )
            for row in data["recommended"]
        ]
        parts.append(
            table(rows, ("card", "needs GB", "preset", "weights", "checkpointing", "batch", "longest"))
        )
    return "\n\n".join(parts)


def _gb(value: int) -> str:
    return f"{value / 2**30:.1f}"


def _shown(settings: dict[str, Any]) -> str:
    parts = [settings["mode"], settings["method"]]
    if settings["mode"] == "lora":
        parts.append(
            (f"preset {settings['preset']}, " if settings["preset"] else "") + f"rank {settings['rank']}"
        )
        parts.append({"none": "weights as they are"}.get(settings["quantization"], settings["quantization"]))
    parts.append("checkpointing" if settings["gradient_checkpointing"] else "no checkpointing")
    parts.append(
        f"batch {settings['batch_size']} x {settings['gradient_accumulation']} of {settings['max_seq_length']:,} tokens"
    )
    return ", ".join(parts)
