"""The `backprop` command: its verbs.

- Nothing heavy is imported before a command runs; `--help` and completion need Click alone.
- stdout is data, stderr everything else; the exit codes are `bp_merge.common.Exit`.
"""

from __future__ import annotations

import copy

import click

from bp_cli.adapter_names import with_names
from bp_cli.lazy import LazyGroup
from bp_cli.recorded import with_record
from bp_cli.root_flags import given, logs_are_named, root_options, with_root_flags

COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": (
        "bp_cli.commands.quickstart:quickstart",
        "The whole path in a minute: embedded model, CPU, no network.",
    ),
    "train": ("bp_cli.commands.train:train", "Fine-tune a model on a dataset."),
    "plan": ("bp_cli.commands.plan:plan", "What to train on a dataset, for a card: model, method, settings."),
    "estimate-vram": (
        "bp_cli.commands.memory:estimate_vram",
        "Will it fit? The memory that a training takes.",
    ),
    "multi-run": ("bp_cli.commands.multi_run:multi_run", "Train many runs, or many tasks, into one adapter."),
    "resume": ("bp_cli.commands.train:resume", "Continue a stopped or killed run."),
    "reward": ("bp_cli.commands.reward:reward", "List, propose, compose and test rewards."),
    "prompt-template": (
        "bp_cli.commands.prompt_template:prompt_template",
        "List, show, save and remove prompt templates.",
    ),
    "eval": ("bp_cli.commands.eval:eval_command", "Evaluate a model: loss, answers, metrics, gates."),
    "generate": ("bp_cli.commands.generate:generate", "Ask a model one question."),
    "chat": ("bp_cli.commands.chat:chat", "Talk to a model in the terminal."),
    "batch-test": ("bp_cli.commands.batch_test:batch_test", "Ask a model every prompt of a file."),
    "serve": ("bp_cli.commands.serve:serve", "Answer at an OpenAI-compatible address."),
    "export": ("bp_cli.commands.export:export", "Export an adapter: merged weights, GGUF, Ollama."),
    "push": ("bp_export.cli.main:push_command", "Push an adapter or model to the Hub."),
    "pull": ("bp_export.cli.main:pull_command", "Fetch an adapter from the Hub."),
    "ollama": ("bp_export.cli.main:ollama_group", "List, show, register and remove Ollama models."),
    "data": ("bp_cli.commands.data:data", "Report on, validate, map, clean, split and extend datasets."),
    "validate": ("bp_data.cli:validate", "Check every row of a dataset."),
    "merge": ("bp_merge.cli:cli", "Merge adapters and models, bake, inspect, compare."),
    "runs": ("bp_cli.commands.runs:runs", "List recorded runs."),
    "show-run": ("bp_cli.commands.runs:show_run", "Show one run."),
    "diff-runs": ("bp_cli.commands.runs:diff_runs", "Compare two runs."),
    "replay": ("bp_cli.commands.train:replay", "Train again with a run's settings."),
    "stop": ("bp_cli.commands.runs:stop", "Ask a live run to pause, resume or stop."),
    "export-runs": ("bp_cli.commands.runs:export_runs", "Write all runs as JSON lines."),
    "config": ("bp_cli.commands.config:config", "Show and change the settings of backprop.toml."),
    "support-bundle": (
        "bp_cli.commands.support:support_bundle",
        "Zip what explains a run, without weights, data or secrets.",
    ),
    "doctor": ("bp_cli.commands.doctor:doctor", "Find what would stop a run here, and what mends it."),
    "info": ("bp_cli.commands.info:info", "Versions, hardware, and what works here."),
    "ui": ("bp_cli.commands.ui:ui", "The web UI: everything in a browser."),
    "completion": ("bp_cli.commands.completion:completion", "Print a shell completion script."),
}

ALIASES = {"list-runs": "runs"}
# Verbs whose flags and JSON may still change; all others are as PROMISES.md says.
EXPERIMENTAL: frozenset[str] = frozenset()

EPILOG = """\b
Examples:
  backprop quickstart
  backprop train --data my_data.jsonl --model Qwen/Qwen2.5-7B-Instruct --steps 100
  backprop export output/RUN/adapter --format gguf --quantization q4_k_m
"""


def _mounted(command: click.Command, path: str) -> click.Command:
    """A command of any package as it stands under `backprop`: it takes names of runs, is recorded, takes the root's flags."""
    if isinstance(command, click.Group):
        group = copy.copy(command)
        group.commands = {n: _mounted(c, f"{path} {n}") for n, c in command.commands.items()}
        return with_root_flags(group)
    return with_root_flags(with_record(with_names(command, path), path))


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    aliases=ALIASES,
    mounted=_mounted,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """From a dataset to a fine-tuned model that runs in Ollama, on one consumer GPU."""
    told = given(ctx)  # made here, so that the verb's context holds the same
    if logs_are_named() and not told:
        from bp_cli.shared import set_up_logs

        set_up_logs(told)


cli.params = [*root_options(), *cli.params]
