"""backprop prompt-template: list, show, save and remove prompt templates, which `train --prompt-template` takes by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
from bp_merge.common import Sink, output_options

from bp_cli.options import dry_run_option, output_option
from bp_cli.text import table


@click.group(
    "prompt-template",
    epilog="\b\nExamples:\n  backprop prompt-template list\n"
    "  backprop prompt-template save brief --system 'Answer in one word.'\n",
)
def prompt_template() -> None:
    """Prompt templates by name: a system prompt, and the form of prompts and answers."""


@prompt_template.command(
    "list", epilog="\b\nExamples:\n  backprop prompt-template list\n  backprop prompt-template list --json\n"
)
@output_option
@output_options
def list_templates(sink: Sink, output: Path) -> None:
    """List the templates that come along, and those that were saved."""
    from bp_core.rewards.presets import PROMPTS
    from bp_core.rewards.prompt_templates import SavedPrompts

    saved = SavedPrompts(output).list()

    def human() -> str:
        rows = [(n, "comes along") for n in PROMPTS] + [(n, "saved") for n in saved]
        return table(rows, ("template", ""))

    data = {"templates": list(PROMPTS), "saved": saved}
    sink.result(data, human, quiet="\n".join([*PROMPTS, *saved]))


@prompt_template.command(
    epilog="\b\nExamples:\n  backprop prompt-template show working-out\n"
    "  backprop prompt-template show working-out --json\n"
)
@click.argument("name")
@output_option
@output_options
def show(sink: Sink, name: str, output: Path) -> None:
    """Show a template."""
    from bp_core.rewards.prompt_templates import as_rows, template_named

    found = template_named(name, output)

    def human() -> str:
        return "\n\n".join(f"{field}:\n{value}" for field, value in as_rows(found))

    sink.result({"name": name, **dataclasses.asdict(found)}, human, quiet=found.system)


@prompt_template.command(
    epilog="\b\nExamples:\n  backprop prompt-template save brief --system 'Answer in one word.'\n"
    "  backprop prompt-template save tagged --system 'Answer between tags.' --solution '<a>' '</a>' "
    "--response '<a>{solution}</a>'\n"
)
@click.argument("name")
@click.option("--system", default="", help="The system message; none where left out.")
@click.option(
    "--instruction",
    default="{instruction}",
    show_default=True,
    help="How a prompt is put; {instruction} is its place.",
)
@click.option(
    "--response",
    default="{solution}",
    show_default=True,
    help="The form of an answer that is taught; {solution} is its place, {reasoning} that of its reasoning.",
)
@click.option("--reasoning", nargs=2, metavar="OPEN CLOSE", help="The markers around the working out.")
@click.option("--solution", nargs=2, metavar="OPEN CLOSE", help="The markers around the final answer.")
@click.option("--overwrite", is_flag=True, help="Replace a saved template of that name.")
@dry_run_option
@output_option
@output_options
def save(
    sink: Sink,
    name: str,
    system: str,
    instruction: str,
    response: str,
    reasoning: tuple[str, ...] | None,
    solution: tuple[str, ...] | None,
    overwrite: bool,
    dry_run: bool,
    output: Path,
) -> None:
    """Save a template under a name; the UI offers it too."""
    from bp_core.rewards.presets import Prompt
    from bp_core.rewards.prompt_templates import SavedPrompts

    made = Prompt(system, instruction, response, reasoning or (), solution or ())
    path = SavedPrompts(output).save(name, made, overwrite=overwrite, dry_run=dry_run)
    said = "would be saved" if dry_run else "saved"
    told = {"name": name, "path": path.as_posix(), "dry_run": dry_run}
    sink.result(told, f"{said}: --prompt-template {name} ({path})", quiet=str(path))


@prompt_template.command(epilog="\b\nExamples:\n  backprop prompt-template remove brief\n")
@click.argument("name")
@dry_run_option
@output_option
@output_options
def remove(sink: Sink, name: str, dry_run: bool, output: Path) -> None:
    """Remove a saved template; runs that were trained with it keep their own copy."""
    from bp_core.rewards.prompt_templates import SavedPrompts

    saved = SavedPrompts(output)
    if dry_run:
        saved.load(name)
    else:
        saved.remove(name)
    said = "would be removed" if dry_run else "removed"
    sink.result({"name": name, "dry_run": dry_run}, f"{said}: {name}", quiet=name)
