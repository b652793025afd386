"""The commands: `bp-export …` alone, mounted as `backprop export|ollama|push|pull` by bp-cli.

- The flags of `export` are the fields of `ExportSettings`; nothing is declared twice.
- stdout is the result (one JSON object with `--json`, the path with `--quiet`), stderr is everything else.
- Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from bp_merge.common import Sink, expanded, options, output_options, run_command

from bp_export.cli.hub import pull_command, push_command
from bp_export.cli.ollama import ollama_group
from bp_export.cli.shared import HELP, PATH, bars_on_terminals_only, progress_line
from bp_export.errors import BpError
from bp_export.formats.settings import ExportSettings


@click.command(
    "export",
    context_settings=HELP,
    no_args_is_help=True,
    epilog=(
        "\b\n"
        "Examples:\n"
        "  backprop export output/RUN/adapter --format gguf --quantization q4_k_m --ollama --ollama-name my-model\n"
        "  backprop export output/RUN/adapter -f merged -o merged --verify\n"
        "  backprop export output/RUN/adapter -f ollama-adapter --base-model llama3.2 --adapter-tag law\n"
        "  backprop export output/RUN/adapter -f gguf --dry-run --json\n"
        "  backprop export model.gguf --verify --base-model output/RUN/adapter\n"
        "  backprop export adapter.gguf --verify --base-model base.gguf\n"
    ),
)
@click.argument("adapters", nargs=-1, type=PATH, required=True, metavar="ADAPTER...")
@options(ExportSettings)
@click.option(
    "--hub-token", metavar="TOKEN", help="Hub token; visible to other users: prefer --hub-token-file."
)
@output_options
def export_command(adapters: Sequence[Path], sink: Sink, hub_token: str | None, **given: Any) -> Any:
    """Export an adapter (several of one base, a whole model), or check a GGUF file with --verify."""
    bars_on_terminals_only(sink)
    given = {k: v for k, v in given.items() if v is not None and v != ()}
    if len(adapters) == 1 and adapters[0].suffix == ".gguf" and adapters[0].is_file():
        _verify_file(adapters[0], sink, given)
        return None
    from bp_export.formats.job import run
    from bp_export.formats.settings import settings_from
    from bp_export.hub.token import ARGV_WARNING

    settings = settings_from(given)
    if hub_token:
        if settings.hub_token_file:
            raise BpError(
                "INPUT_VALIDATION_FAILED",
                "--hub-token and --hub-token-file were given",
                "give --hub-token-file alone",
            )
        sink.note(f"warning: {ARGV_WARNING.replace('--token-file', '--hub-token-file')}")
    result = run(
        list(adapters) if len(adapters) > 1 else adapters[0],
        settings,
        token=hub_token,
        note=sink.note,
        progress=progress_line(sink),
    )
    sink.result(result.to_dict(), lambda: _shown(result), quiet=str(result.path))
    return result  # for a program that mounts the command


def _shown(result: Any) -> str:
    from bp_export.formats.estimate import size

    if result.dry_run:
        plan = result.plan
        lines = [
            f"would write {result.path} ({result.format}, {size(plan.output_bytes)}, {plan.tensors} tensors)",
            *(f"  - {step}" for step in plan.steps),
            f"  disk: {size(plan.disk_needed_bytes)} needed, {size(plan.disk_free_bytes)} free",
            f"  memory: about {plan.ram_estimate_mb:.0f} MB; time: about {plan.seconds_estimate:.0f} s (estimates)",
        ]
        return "\n".join(lines)
    kind = f", {result.quantization}" if result.quantization else ""
    lines = [
        f"{result.path}",
        f"  {result.format}{kind}, {size(result.size_bytes)}, {result.tensors} tensors",
    ]
    peak = f", peak memory {result.peak_rss_mb:.0f} MB" if result.peak_rss_mb else ""
    lines.append(f"  {result.seconds:.1f} s{peak}")
    figures = [
        ("structure and values", result.verified, "as they should be"),
        ("token ids", result.token_ids_equal, "equal to the tokenizer's"),
    ]
    lines += [f"  {name}: {text if value else 'WRONG'}" for name, value, text in figures if value is not None]
    if result.kl is not None:
        lines.append(
            f"  against {result.reference}: top-1 {result.top1_agreement:.1%}, KL {result.kl:.2g} nats"
        )
    for reason in dict.fromkeys(result.unchecked.values()):
        names = ", ".join(k for k, v in result.unchecked.items() if v == reason)
        lines.append(f"  not checked: {names} ({reason})")
    if result.delta:
        lines.append(f"  of the fine-tune, {result.delta['share']:.0%} is left after rounding")
    if result.ollama:
        lines.append(f"  in Ollama as {result.ollama['name']}; it said: {result.ollama['smoke']!r}")
    lines += [f"  {program}: {command}" for program, command in result.commands.items()]
    return "\n".join(lines)


def _verify_file(path: Path, sink: Sink, given: dict[str, Any]) -> None:
    """`export FILE.gguf --verify`: any file, with the tokenizer of --base-model where it is given."""
    extra = sorted(set(given) - {"verify", "base_model"})
    if not given.get("verify") or extra:
        told = (
            f"--{extra[0].replace('_', '-')} does nothing for it"
            if extra
            else "a GGUF file can only be checked"
        )
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{path} is a finished file; {told}",
            f"backprop export {path} --verify; to register it: backprop ollama register {path}",
        )
    import time

    from bp_export.memory import peak_rss_mb
    from bp_export.verify.gguf import verify
    from bp_export.verify.gguf_lora import is_adapter, verify_lora

    began, base = time.perf_counter(), given.get("base_model")
    lora = is_adapter(path)
    if lora:
        if base and not expanded(base).is_file():
            raise BpError(
                "INPUT_VALIDATION_FAILED",
                f"{path} is an adapter; {base} is no GGUF file",
                f"backprop export {path} --verify --base-model BASE.gguf",
            )
        result = verify_lora(path, expanded(base) if base else None)
    else:
        from bp_export.adapter.base import resolve_base

        folder = expanded(base) if base else None  # an adapter's, whose tokenizer was exported, or a base
        if folder is not None and not (folder / "tokenizer.json").is_file():
            folder = resolve_base(str(base), weights=False).path
        result = verify(path, tokenizer_dir=folder)

    def human() -> str:
        lines = [
            f"{path}: {'ok' if result.verified else 'WRONG'}, {result.architecture}, {result.quantization}"
        ]
        figures = [
            ("every number", result.finite, "finite"),
            ("vocabulary", result.vocabulary_equal, "equal to the tokenizer's"),
            ("chat template", result.template_equal, "equal to the tokenizer's"),
            ("token ids", result.token_ids_equal, "equal to the tokenizer's"),
            ("llama.cpp", (lora and result.runtime is not None) or None, "applies it to the base"),
        ]
        lines += [f"  {name}: {text}" for name, right, text in figures if right]
        lines += [f"  problem: {p}" for p in result.problems]
        for reason in dict.fromkeys(result.unchecked.values()):
            missed = ", ".join(k for k, v in result.unchecked.items() if v == reason)
            lines.append(f"  not checked: {missed} ({reason})")
        return "\n".join(lines)

    data = {
        **result.to_dict(),
        "format": "gguf-lora" if lora else "gguf",
        "size_bytes": path.stat().st_size,
        "seconds": round(time.perf_counter() - began, 3),
        "peak_rss_mb": peak_rss_mb(),
    }
    sink.result(data, human, quiet="ok" if result.verified else "wrong")
    result.require()


for _option in export_command.params:  # here -q is --quantization, as people type it
    if _option.name == "quiet":
        _option.opts = ["--quiet"]


@click.group(context_settings=HELP)
@click.option("--verbose", "-v", is_flag=True, help="Show tracebacks.")
def cli(verbose: bool) -> None:
    """From an adapter to what runs it: merged weights, GGUF, Ollama, the Hub."""


for _command in (export_command, ollama_group, push_command, pull_command):
    cli.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `bp-export` and return its exit code."""
    return run_command(cli, argv, prog_name="bp-export")
