"""backprop data: the commands of bp-data, and `synthesize`, which asks a model. No torch."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import click
from bp_core.settings.groups.synthesis import SynthesisSettings
from bp_data.cli import cli, input_options
from bp_data.sources.base import Limits
from bp_merge.common import Exit, Sink, options, output_options

from bp_cli.options import dry_run_option

data = copy.copy(cli)
data.commands = dict(cli.commands)

EPILOG = """\b
Examples:
  backprop data synthesize train.jsonl --url http://localhost:11434/v1 --model qwen3:8b -n 200
  backprop data synthesize train.jsonl --url URL --model NAME --key-env KEY --about "more on tides" --dry-run
"""


@data.command("synthesize", epilog=EPILOG)
@click.argument("dataset")
@options(settings=SynthesisSettings)
@input_options
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="JSONL file to write.  [default: <stem>.synthetic.jsonl]",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@dry_run_option
@output_options
@click.pass_context
def synthesize(
    ctx: click.Context,
    sink: Sink,
    dataset: str,
    settings: SynthesisSettings,
    format_name: str,
    mapping: str | None,
    drop_keys: str,
    force: bool,
    limits: Limits,
    output: Path | None,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Have a model that you name write rows like those of DATASET, each checked, marked, and unlike all others.

    Answers are kept beside the output: the same command goes on where it was stopped.
    """
    from bp_core.synthesis import Synthesizer

    maker = Synthesizer(
        dataset, output or Path(f"{Path(dataset).stem or 'dataset'}.synthetic.jsonl"), settings, overwrite=overwrite,
        tell=sink.note, format=format_name, mapping=mapping, drop_keys=drop_keys, force=force, limits=limits,
    )  # fmt: skip
    if dry_run:
        body, _ = maker.question(0)
        told = {
            "dry_run": True,
            "output": maker.output.as_posix(),
            "endpoint": maker.account.url,
            "model": maker.account.model,
            "requests": maker.requests,
            "shown_from": len(maker.shown),
            "first": body["messages"],
        }
        texts = "\n\n".join(message["content"] for message in body["messages"])
        would = f"would ask {maker.account.model} at {maker.account.url} {maker.requests} times or more, for {maker.output}"
        sink.result(told, f"{would}; the first time:\n\n{texts}", quiet=str(maker.output))
        return
    try:
        made = maker.make()
    except KeyboardInterrupt:
        sink.note(f"what was answered is in {maker.cache}: the same command goes on from there")
        raise
    sink.result({"dry_run": False, **dataclasses.asdict(made)}, lambda: _text(made), quiet=made.output)
    if made.stopped:
        ctx.exit(Exit.PARTIAL)


def _text(made: Any) -> str:
    from bp_cli.text import table

    refused = sum(made.rejections.values())
    why = ", ".join(
        f"{count} {reason}" for reason, count in sorted(made.rejections.items(), key=lambda r: -r[1])
    )
    rows = [
        ("rows", f"{made.rows} of {made.requested}" + (f": {made.stopped}" if made.stopped else "")),
        (
            "answers",
            f"{made.answers}, {made.cached} from the cache; {made.calls} requests, {made.tokens:,} tokens",
        ),
        (
            "left out",
            f"{made.like_the_dataset} like a row of the dataset, {made.like_another} like another new one",
        ),
        ("refused", f"{refused}: {why}" if refused else "0"),
        *([("unreadable", f"{made.unreadable} answers without a row")] if made.unreadable else []),
        ("written", made.output),
        ("answers kept", made.cache),
    ]
    return table(rows)
