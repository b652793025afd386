"""backprop generate."""

from __future__ import annotations

import click
from bp_core.settings.groups.generation import GenerationSettings
from bp_merge.common import Sink, options, output_options

from bp_cli.adapter_names import AdapterName


@click.command(
    epilog='\b\nExamples:\n  backprop generate latest "Summarize: the cat sat on the mat."\n'
    '  backprop generate output/RUN/adapter "A haiku" -n 3 --temperature 0.8\n'
)
@click.argument("words", nargs=-1, required=True, metavar="[ADAPTER] PROMPT")
@click.option("--base", help="Base model; as the adapter says unless given.")
@options(settings=GenerationSettings)
@click.option("--num", "-n", type=click.IntRange(1), default=1, show_default=True, help="Number of answers.")
@output_options
@click.pass_context
def generate(
    ctx: click.Context,
    sink: Sink,
    words: tuple[str, ...],
    base: str | None,
    num: int,
    settings: GenerationSettings,
) -> None:
    """Ask a tuned model one question.

    ADAPTER is a folder, a run id or its beginning, or `latest`; none given is the latest completed run's.
    """
    if len(words) > 2:
        raise click.UsageError(f"one PROMPT is asked, not {len(words) - 1}: put it in quotes", ctx)
    named, prompt = ("latest", *words)[-2:]
    from bp_export.adapter.base import resolve_base
    from bp_export.adapter.directory import AdapterInfo

    from bp_cli.shared import set_up_logs

    set_up_logs(ctx.obj or {})
    adapter_path = AdapterName().convert(named, None, ctx)
    info = AdapterInfo.read(adapter_path)  # here and below: refused before torch is loaded
    if ref := base or info.base_ref:
        resolve_base(ref, revision=None if base else info.base_revision, weights=False)
    from bp_core.generation.load import Tuned

    model = Tuned.load(adapter_path, base=base)
    texts = [
        model.answer(
            prompt,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed + i,
        )
        for i in range(num if settings.temperature > 0 else 1)
    ]
    if num > 1 and settings.temperature == 0:
        sink.note("one answer: at temperature 0 all would be the same")
    sink.result(
        {"prompt": prompt, "answers": texts, "adapter_path": adapter_path.as_posix()},
        "\n\n".join(texts),
        quiet="\n".join(texts),
    )
