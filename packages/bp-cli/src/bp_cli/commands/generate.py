"""backprop generate."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
from bp_core.settings.groups.generation import GenerationSettings, SourceSettings
from bp_merge.common import Sink, options, output_options

from bp_cli.options import output_option


@click.command(
    epilog='\b\nExamples:\n  backprop generate latest "Summarize: the cat sat on the mat."\n'
    '  backprop generate output/RUN/adapter "A haiku" -n 3 --temperature 0.8\n'
    '  backprop generate RUN "Who are you?" --with-base\n'
)
@click.argument("words", nargs=-1, required=True, metavar="[MODEL] PROMPT")
@options(source=SourceSettings, settings=GenerationSettings)
@click.option("--with-base", is_flag=True, help="Also ask the base model, without the adapter.")
@click.option("--stream", is_flag=True, help="Show one answer while it is made.")
@output_option
@output_options
@click.pass_context
def generate(
    ctx: click.Context,
    sink: Sink,
    words: tuple[str, ...],
    source: SourceSettings,
    settings: GenerationSettings,
    with_base: bool,
    stream: bool,
    output: Path,
) -> None:
    """Ask a model one question.

    MODEL is a run id or its beginning, `latest`, an adapter's or a model's folder, a base model, a GGUF file or the
    address of an OpenAI-compatible endpoint; none given is the latest completed run. Of a run that failed or is under
    way its newest complete checkpoint answers.
    """
    if len(words) > 2:
        raise click.UsageError(f"one PROMPT is asked, not {len(words) - 1}: put it in quotes", ctx)
    named, prompt = ("latest", *words)[-2:]
    if stream and (sink.mode != "human" or with_base or settings.num > 1):
        raise click.UsageError(
            "--stream shows one answer: leave --json, --quiet, --num and --with-base out", ctx
        )
    from bp_core.assessment.sources import find_source

    from bp_cli.shared import set_up_logs

    set_up_logs(ctx.obj or {})
    found = find_source(named, output, source, sink.note)  # refused before torch is loaded
    if with_base and found.kind != "adapter":
        raise click.UsageError(f"--with-base is for an adapter, and {named} is none", ctx)
    if settings.num > 1 and settings.temperature == 0:
        sink.note("one answer: at temperature 0 all would be the same")
        settings = dataclasses.replace(settings, num=1)
    from bp_core.assessment.opening import open_source
    from bp_core.generation.prompts import Answer, Prompt

    model: Any = open_source(found, source)
    try:
        asked = Prompt.of(prompt)
        if stream:
            for part in model.stream(asked, settings):
                click.echo("" if isinstance(part, Answer) else part, nl=isinstance(part, Answer))
            return
        (answers,) = model.answer([asked], settings)
        base: list[Answer] = []
        if with_base:
            with model.as_base() as plain:
                (base,) = plain.answer([asked], settings)
    finally:
        model.close()
    texts, base_texts = [a.text for a in answers], [a.text for a in base]
    shown = "\n\n".join(texts)
    if with_base:
        shown = "\n\n".join(f"base   {b}\ntuned  {t}" for b, t in zip(base_texts, texts, strict=True))
    data = {
        "prompt": prompt,
        "answers": texts,
        "finish": [a.finish for a in answers],
        "tokens": [a.tokens for a in answers],
        **({"base_answers": base_texts} if with_base else {}),
        "model": found.name,
        "kind": found.kind,
        "run_id": found.run.run_id if found.run else None,
        **({"adapter_path": Path(found.where).as_posix()} if found.kind == "adapter" else {}),
    }
    sink.result(data, shown, quiet="\n".join(texts))
