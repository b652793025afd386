"""backprop generate."""

from __future__ import annotations

from pathlib import Path

import click
from bp_merge.common import Sink, output_options


@click.command(
    epilog='\b\nExamples:\n  backprop generate output/RUN/adapter "Summarize: the cat sat on the mat."\n'
    '  backprop generate output/RUN/adapter "A haiku" -n 3 --temperature 0.8\n'
)
@click.argument("adapter_path", type=click.Path(path_type=Path))
@click.argument("prompt")
@click.option("--base", help="Base model; as the adapter says unless given.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1), default=128, show_default=True, help="Longest answer."
)
@click.option("--num", "-n", type=click.IntRange(1), default=1, show_default=True, help="Number of answers.")
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="0 takes the most likely token.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of sampling.")
@output_options
@click.pass_context
def generate(
    ctx: click.Context,
    sink: Sink,
    adapter_path: Path,
    prompt: str,
    base: str | None,
    max_new_tokens: int,
    num: int,
    temperature: float,
    seed: int,
) -> None:
    """Ask a tuned model one question."""
    from bp_export.adapter.directory import AdapterInfo

    from bp_cli.shared import set_up_logs

    set_up_logs(ctx.obj or {})
    AdapterInfo.read(adapter_path)  # refused before torch is loaded
    from bp_core.generation.load import Tuned

    model = Tuned.load(adapter_path, base=base)
    texts = [
        model.answer(prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed + i)
        for i in range(num if temperature > 0 else 1)
    ]
    if num > 1 and temperature == 0:
        sink.note("one answer: at temperature 0 all would be the same")
    sink.result(
        {"prompt": prompt, "answers": texts, "adapter_path": adapter_path.as_posix()},
        "\n\n".join(texts),
        quiet="\n".join(texts),
    )
