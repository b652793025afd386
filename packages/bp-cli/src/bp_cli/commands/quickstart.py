"""backprop quickstart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from bp_merge.common import Sink, output_options

from bp_cli.options import dry_run_option


@click.command(
    epilog="\b\nExamples:\n  backprop quickstart\n  backprop quickstart --json --output /tmp/try\n"
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("quickstart"),
    show_default=True,
    help="Folder for data and runs.",
)
@dry_run_option
@output_options
@click.pass_context
def quickstart(ctx: click.Context, sink: Sink, output: Path, dry_run: bool) -> None:
    """Tune the embedded model on 36 made-up facts, merge it, write a GGUF, and show what changed."""
    from bp_core.runs.rows import refuse_no_folder

    refuse_no_folder(output)  # before torch is loaded
    if dry_run:
        would = [
            f"write a dataset of made-up facts into {output / 'data'}",
            f"train a LoRA adapter of the embedded model on it, on the CPU, as a run of {output}",
            "ask the model before and after",
            "merge the adapter, and write a GGUF file of it, both into the folder of the run",
        ]
        sink.result(
            {"dry_run": True, "output": output.as_posix(), "would": would},
            "would\n" + "\n".join(f"  - {step}" for step in would),
            quiet=str(output),
        )
        return
    from bp_core.quickstart.run import quickstart as run

    from bp_cli.progress import Progress
    from bp_cli.shared import set_up_logs

    set_up_logs(ctx.obj or {})
    made = run(output, callbacks=[Progress(sink)], tell=sink.note)
    sink.result(made, lambda: _text(made), quiet=made["adapter_path"])


def _text(made: dict[str, Any]) -> str:
    from bp_cli.text import table

    def share(value: float) -> str:
        return f"{value:.0%}"

    measured = [
        ("held-out loss", f"{made['heldout_loss_before']:.3f}", f"{made['heldout_loss_after']:.3f}"),
        (
            "right answers, phrasings trained on",
            share(made["exact_match_before"]),
            share(made["exact_match_after"]),
        ),
        (
            "right answers, other phrasings",
            share(made["unseen_match_before"]),
            share(made["unseen_match_after"]),
        ),
        (
            "right answers, facts never taught",
            share(made["untaught_match_before"]),
            share(made["untaught_match_after"]),
        ),
    ]
    verified = "read back and verified" if made["gguf_verified"] else "written, not verified"
    if made["gguf_top1_agreement"] is not None:
        verified += f"; in llama.cpp {made['gguf_top1_agreement']:.0%} of the next tokens agree"
    files = [
        ("adapter", made["adapter_path"]),
        ("merged", made["merged_path"]),
        ("GGUF", f"{made['gguf_path']}  ({verified})"),
        ("report", made["report_path"]),
    ]
    return "\n".join(
        [
            "",
            f"  {made['question']}",
            f"    before  {made['answer_before']}",
            f"    after   {made['answer_after']}",
            "",
            table(measured, ("", "before", "after")),
            "",
            table(files),
            "",
            f"Done in {made['seconds']:.0f} s. Facts that were not taught are not known: tuning does not make them up right.",
            "With your own data and a real model:",
            "  backprop data report my_data.jsonl",
            "  backprop train --data my_data.jsonl --model Qwen/Qwen2.5-7B-Instruct",
            "  backprop export output/RUN/adapter --format gguf --ollama --ollama-name my-model",
        ]
    )
