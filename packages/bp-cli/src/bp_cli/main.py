"""The `backprop` command.

- Nothing heavy is imported before a command runs; `--help` and completion need Click alone.
- stdout is data, stderr everything else; the exit codes are `bp_merge.common.Exit`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
from bp_merge.common import run_command

from bp_cli.adapter_names import with_names
from bp_cli.lazy import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": (
        "bp_cli.commands.quickstart:quickstart",
        "The whole path in a minute: embedded model, CPU, no network.",
    ),
    "train": ("bp_cli.commands.train:train", "Fine-tune a model on a dataset."),
    "resume": ("bp_cli.commands.train:resume", "Continue a stopped or killed run."),
    "reward": ("bp_cli.commands.reward:reward", "List, propose, compose and test rewards."),
    "generate": ("bp_cli.commands.generate:generate", "Ask a tuned model."),
    "export": ("bp_cli.commands.export:export", "Export an adapter: merged weights, GGUF, Ollama."),
    "push": ("bp_export.cli.main:push_command", "Push an adapter or model to the Hub."),
    "pull": ("bp_export.cli.main:pull_command", "Fetch an adapter from the Hub."),
    "ollama": ("bp_export.cli.main:ollama_group", "List, show, register and remove Ollama models."),
    "data": ("bp_data.cli:cli", "Report on, validate, map, clean and split datasets."),
    "validate": ("bp_data.cli:validate", "Check every row of a dataset."),
    "merge": ("bp_merge.cli:cli", "Merge adapters and models, bake, inspect, compare."),
    "runs": ("bp_cli.commands.runs:runs", "List recorded runs."),
    "show-run": ("bp_cli.commands.runs:show_run", "Show one run."),
    "diff-runs": ("bp_cli.commands.runs:diff_runs", "Compare two runs."),
    "replay": ("bp_cli.commands.train:replay", "Train again with a run's settings."),
    "stop": ("bp_cli.commands.runs:stop", "Ask a live run to pause, resume or stop."),
    "export-runs": ("bp_cli.commands.runs:export_runs", "Write all runs as JSON lines."),
    "info": ("bp_cli.commands.info:info", "Versions, hardware, and what works here."),
    "ui": ("bp_ui.cli:ui", "The web UI."),
    "completion": ("bp_cli.commands.completion:completion", "Print a shell completion script."),
}

EPILOG = """\b
Examples:
  backprop quickstart
  backprop train --data my_data.jsonl --model Qwen/Qwen2.5-7B-Instruct --steps 100
  backprop export output/RUN/adapter --format gguf --quantization q4_k_m
"""


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"backprop {version('bp-cli')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    aliases={"list-runs": "runs"},
    mounted=with_names,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.option("--verbose", "-v", is_flag=True, help="Show tracebacks and debug logs.")
@click.option(
    "--version",
    "-V",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Print the version.",
)
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="Lowest level that is logged.",
)
@click.option("--log-format", type=click.Choice(["console", "json"]), help="How log lines look.")
@click.option("--log-file", type=click.Path(path_type=Path, dir_okay=False), help="Also log to this file.")
@click.pass_context
def cli(
    ctx: click.Context, verbose: bool, log_level: str | None, log_format: str | None, log_file: Path | None
) -> None:
    """From a dataset to a fine-tuned model that runs in Ollama, on one consumer GPU."""
    ctx.obj = {"verbose": verbose, "log_level": log_level, "log_format": log_format, "log_file": log_file}
    named = any(
        k.upper().startswith(("BACKPROPAGATE_LOG_", "BACKPROPAGATE_TRACKING__LOG_")) for k in os.environ
    )
    if named or log_level or log_format or log_file:  # else a command that logs sets it up itself
        from bp_cli.shared import set_up_logs

        set_up_logs(ctx.obj)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch loads: idle threads sleep, not spin
    return run_command(cli, argv, prog_name="backprop", secrets=_secrets)


def _secrets() -> Sequence[str]:
    """The secrets in this process's environment, which no error may show; asked for only when there is an error."""
    from bp_core.support.redact import environment_secrets

    return environment_secrets()
