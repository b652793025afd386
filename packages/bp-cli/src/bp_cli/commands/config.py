"""backprop config: what is set, where it comes from, and the settings file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from bp_merge.common import BpError, Sink, output_options

from bp_cli.options import dry_run_option, retired

file_option = click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    default="backprop.toml",
    show_default=True,
    help="The settings file.",
)


@click.group(
    epilog="\b\nExamples:\n  backprop config show --origin\n  backprop config set training.steps=200 lr=1e-4\n"
    "  backprop config unset lr\n"
)
@retired("--show", told="is a command here: backprop config show")
@retired("--set", told="is a command here: backprop config set KEY=VALUE")
@retired("--reset", told="is a command here: backprop config unset --all")
def config() -> None:
    """Show and change the settings that every command starts from."""


@config.command(
    epilog="\b\nExamples:\n  backprop config show\n  backprop config show training.learning_rate --origin\n"
)
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("--changed", is_flag=True, help="Only what is not as by default.")
@file_option
@output_options
def show(sink: Sink, keys: tuple[str, ...], origin: bool, changed: bool, file: Path) -> None:
    """Print the settings as a run would take them: default, file, .env, environment; KEY picks some."""
    from bp_core.settings.config_file import full_name
    from bp_core.settings.resolve import explain, resolve

    from bp_cli.text import table

    wanted = {".".join(full_name(key)) for key in keys}
    rows = [
        row
        for row in explain(resolve(config_file=file if file.is_file() else None))
        if (not wanted or row[0] in wanted) and (not changed or not row[2].startswith("default"))
    ]
    sink.result(
        {"settings": {n: {"value": v, "source": s} for n, v, s in rows}},
        lambda: table(rows if origin else [r[:2] for r in rows]),
        quiet="\n".join(value for _, value, _ in rows),
    )


@config.command(
    "set",
    epilog="\b\nExamples:\n  backprop config set training.steps=200\n  backprop config set lr=1e-4 rank=16\n",
)
@click.argument("pairs", nargs=-1, required=True, metavar="KEY=VALUE...")
@dry_run_option
@file_option
@output_options
def set_(sink: Sink, pairs: tuple[str, ...], dry_run: bool, file: Path) -> None:
    """Write settings into the file; comments stay, and a wrong key or value changes nothing."""
    from bp_core.settings.config_file import set_values

    split = [pair.partition("=") for pair in pairs]
    for key, equals, _ in split:
        if not equals:
            raise click.UsageError(f"{key!r} is no KEY=VALUE; as in: backprop config set training.steps=200")
    told = set_values(file, {key.strip(): value.strip() for key, _, value in split}, write=not dry_run)
    sink.result(
        {"file": file.as_posix(), "set": told, "dry_run": dry_run},
        _set_text(told, file, dry_run),
        quiet=str(file),
    )


def _set_text(told: dict[str, Any], file: Path, dry_run: bool) -> str:
    lines = [f"{name} = {value}" for name, value in told.items()]
    return "\n".join([*lines, f"{'would be written' if dry_run else 'written'} to {file}"])


@config.command(epilog="\b\nExamples:\n  backprop config unset lr\n  backprop config unset --all\n")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option(
    "--all", "everything", is_flag=True, help="Every setting of the file: all is as by default again."
)
@dry_run_option
@file_option
@output_options
def unset(sink: Sink, keys: tuple[str, ...], everything: bool, dry_run: bool, file: Path) -> None:
    """Take settings out of the file, so that they are as by default again."""
    from bp_core.settings.config_file import unset_values
    from bp_core.settings.resolve import resolve

    if everything == bool(keys):
        raise click.UsageError("name the KEYs to unset, or give --all")
    if everything:
        sources = resolve(config_file=file).sources if file.is_file() else {}
        keys = tuple(name for name, source in sources.items() if source == file.name)
    gone = unset_values(file, keys, write=not dry_run)
    sink.result(
        {"file": file.as_posix(), "unset": gone, "dry_run": dry_run},
        f"{'would be unset' if dry_run else 'unset'} in {file}: {', '.join(gone)}"
        if gone
        else f"{file} sets none of these",
        quiet="\n".join(gone),
    )


@config.command(epilog="\b\nExample:\n  backprop config path\n")
@file_option
@output_options
def path(sink: Sink, file: Path) -> None:
    """Print where the settings file is looked for, and whether it is there."""
    whole = file.absolute()
    found = whole.is_file()
    sink.result(
        {"path": whole.as_posix(), "exists": found},
        f"{whole}{'' if found else '  (not there: backprop config init)'}",
        quiet=str(whole),
    )


@config.command(epilog="\b\nExample:\n  backprop config init\n")
@dry_run_option
@file_option
@output_options
def init(sink: Sink, dry_run: bool, file: Path) -> None:
    """Write a settings file in which every setting stands as a comment, with its meaning and default."""
    from bp_core.settings.config_file import template, write_file

    if file.exists():
        raise BpError("INPUT_OUTPUT_EXISTS", f"{file} is there already", "backprop config show --origin")
    text = template()
    if not dry_run:
        write_file(file, text)
    sink.result(
        {"file": file.as_posix(), "dry_run": dry_run},
        f"{text}\nwould be written: {file}" if dry_run else f"written: {file}",
        quiet=str(file),
    )


@config.command(
    "import",
    epilog="\b\nExamples:\n  backprop config import math-reasoning.json --dry-run\n"
    "  backprop config import math-reasoning.json --file math.toml\n",
)
@click.argument("source", metavar="FILE.json", type=click.Path(path_type=Path, dir_okay=False))
@dry_run_option
@file_option
@output_options
def import_(sink: Sink, source: Path, dry_run: bool, file: Path) -> None:
    """Take a configuration of LoRA Craft into the file; what has no place here is told by name."""
    from bp_core.settings.config_file import set_values
    from bp_core.settings.lora_craft import translate

    try:
        config = json.loads(source.read_bytes())
    except FileNotFoundError:
        raise BpError("CONFIG_FILE_UNREADABLE", f"there is no file {source}", f"ls {source.parent}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BpError(
            "CONFIG_FILE_UNREADABLE", f"{source} is no JSON: {error}", f"correct {source}"
        ) from None
    if not isinstance(config, dict):
        raise BpError("CONFIG_FILE_UNREADABLE", f"{source} holds no JSON object", f"correct {source}")
    taken = translate(config)
    told = set_values(file, taken.settings, write=not dry_run)
    for key, why in taken.left.items():
        sink.note(f"not carried: {key}: {why}")
    sink.result(
        {"file": file.as_posix(), "set": told, "left_out": taken.left, "dry_run": dry_run},
        _set_text(told, file, dry_run),
        quiet=str(file),
    )
