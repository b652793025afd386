"""backprop batch-test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from bp_core.settings.groups.generation import GenerationSettings, SourceSettings
from bp_merge.common import Sink, options, output_options

from bp_cli.options import dry_run_option, output_option

SUFFIXES = (".csv", ".json", ".jsonl")


@click.command(
    "batch-test",
    epilog="\b\nExamples:\n  backprop batch-test prompts.txt --to answers.csv\n"
    "  backprop batch-test prompts.jsonl --model RUN -n 3 --temperature 0.8 --to answers.json\n"
    "  backprop batch-test heldout.jsonl --with-base --rewards exact_match --to answers.csv\n",
)
@click.argument("prompts", type=click.Path(path_type=Path))
@click.option("--model", "-m", default="latest", show_default=True, help="Model, as for `generate`.")
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write answers to this .csv, .json or .jsonl file.",
)
@click.option("--with-base", is_flag=True, help="Also ask the base model, without the adapter.")
@click.option(
    "--rewards",
    help="Score each answer against its row's own: a reward, a preset or a set's TOML file, as `reward list` names them.",
)
@options(source=SourceSettings, settings=GenerationSettings)
@dry_run_option
@output_option
@output_options
@click.pass_context
def batch_test(
    ctx: click.Context,
    sink: Sink,
    prompts: Path,
    model: str,
    to: Path | None,
    with_base: bool,
    rewards: str | None,
    source: SourceSettings,
    settings: GenerationSettings,
    dry_run: bool,
    output: Path,
) -> None:
    """Ask a model every prompt of a file: one a line of text, or JSON lines with the key prompt."""
    from bp_core.generation.prompts import answer_rows, as_text, read_prompts
    from bp_core.rewards.compose import load_set

    from bp_cli.shared import set_up_logs

    set_up_logs(ctx.obj or {})
    if to is not None and to.suffix not in SUFFIXES:
        raise click.UsageError(f"--to writes {', '.join(SUFFIXES)} files, not {to.name}", ctx)
    if to is not None:
        from bp_data.whole_files import check_outputs

        check_outputs(to, overwrite=True, inputs=[prompts])  # before the model is asked for long
    from bp_core.assessment.sources import find_source

    found = find_source(model, output, source, sink.note)
    if with_base and found.kind != "adapter":
        raise click.UsageError(f"--with-base is for an adapter, and {model} is none", ctx)
    asked = read_prompts(prompts)
    judged = load_set(rewards) if rewards else None
    about = {
        "prompts": len(asked),
        "model": found.name,
        "kind": found.kind,
        "path": str(to) if to else None,
        "dry_run": dry_run,
    }
    if dry_run:
        place = f", and write the answers to {to}" if to else ""
        sink.result(
            {**about, "answers": []},
            f"would ask {found.name} {len(asked)} prompts{place}",
            quiet=str(to or ""),
        )
        return
    from bp_core.assessment.opening import open_source

    answerer: Any = open_source(found, source)
    try:
        rows = answer_rows(asked, answerer.answer(asked, settings))
        if with_base:
            with answerer.as_base() as bare:
                base = answer_rows(asked, bare.answer(asked, settings))
            rows = [{**row, "base_answer": b["answer"]} for row, b in zip(rows, base, strict=True)]
    finally:
        answerer.close()
    if judged is not None:
        rows = scored(judged, asked, rows, settings.num)
    if to is not None:
        from bp_data.whole_files import whole_files

        with whole_files(to, overwrite=True) as (file,):
            file.write(as_text(rows, to.suffix).encode())
        sink.note(f"wrote {to}")
    told: dict[str, Any] = {**about, "answers": rows}
    if judged is not None:
        told["mean_reward"] = sum(r["reward"] for r in rows) / len(rows)
    sink.result(
        told, lambda: _text(rows) if to is None else f"{len(rows)} answers in {to}", quiet=str(to or "")
    )


def scored(judged: Any, asked: Any, rows: list[dict[str, Any]], num: int) -> list[dict[str, Any]]:
    """The rows with `expected` and `reward`, and `base_reward` where the base was asked too; `num` rows a prompt."""
    from bp_core.rewards.sample import Sample

    told = [{**row, "expected": asked[i // num].expected} for i, row in enumerate(rows)]
    for answer, reward in (("answer", "reward"), ("base_answer", "base_reward")):
        if told and answer in told[0]:
            samples = [
                Sample(r[answer], r["expected"], r["prompt"], asked[i // num].meta)
                for i, r in enumerate(told)
            ]
            scores = judged.score(samples)
            told = [{**r, reward: s.total} for r, s in zip(told, scores, strict=True)]
    return told


def _text(rows: list[dict[str, Any]]) -> str:
    parts = []
    for row in rows:
        base = f"\n  base    {row['base_answer']}" if "base_answer" in row else ""
        reward = f"\n  reward  {row['reward']:g}" if "reward" in row else ""
        parts.append(f"> {row['prompt']}{base}\n  answer  {row['answer']}{reward}")
    return "\n\n".join(parts)
