"""The commands `backprop ollama …`: register, list, show, ps, rm, shelf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from bp_merge.common import Sink, options, output_options

from bp_export.cli.shared import DRY_RUN, HELP, PATH, progress_line
from bp_export.ollama.settings import RegisterSettings, ServerSettings

_HOST = options(server=ServerSettings)


def _client(server: ServerSettings) -> Any:
    from bp_export.ollama.client import Ollama

    return Ollama(server.host)


@click.group(
    "ollama",
    context_settings=HELP,
    epilog=(
        "\b\n"
        "Examples:\n"
        "  backprop ollama register output/RUN/exports/gguf --name my-model\n"
        "  backprop ollama shelf llama3.2\n"
        "  backprop ollama rm my-model\n"
    ),
)
def ollama_group() -> None:
    """Register, list, show and remove Ollama models; the shelf of adapters of one base."""


@ollama_group.command("register")
@click.argument("path", type=PATH)
@options(settings=RegisterSettings)
@DRY_RUN
@_HOST
@output_options
def register_command(
    path: Path,
    sink: Sink,
    dry_run: bool,
    settings: RegisterSettings,
    server: ServerSettings,
) -> None:
    """Create an Ollama model from a GGUF file, a folder with one, or an adapter directory (exported to q4_k_m first)."""
    if (path / "adapter_config.json").is_file():
        from bp_export.formats.job import export

        result = export(
            path,
            format="gguf",
            ollama=True,
            ollama_name=settings.name,
            ollama_host=server.host,
            modelfile=settings.modelfile,
            system=settings.system,
            overwrite=not settings.no_overwrite,
            smoke=settings.smoke,
            base_model=settings.base_model,
            dry_run=dry_run,
            note=sink.note,
            progress=progress_line(sink),
        )
        if dry_run:
            data = {
                "dry_run": True,
                "path": str(result.path),
                "steps": list(result.plan.steps) if result.plan else [],
            }
            sink.result(data, "would\n" + "\n".join(f"  - {s}" for s in data["steps"]), quiet=data["path"])
            return
        data = result.ollama or {}
    else:
        from bp_export.ollama.gguf_file import find_gguf

        file = find_gguf(path)  # refused before the client is loaded
        from bp_export.ollama.register import register

        with _client(server) as client:
            data = register(
                file,
                settings.name,
                client=client,
                base=settings.base_model,
                modelfile=settings.modelfile,
                system=settings.system,
                no_overwrite=settings.no_overwrite,
                smoke=settings.smoke,
                dry_run=dry_run,
                progress=sink.progress,
            ).to_dict()
        for text in data["notes"]:
            sink.note(text)
        if dry_run:
            would = (
                f"would send {file.name} to {server.host or 'the Ollama server'} and create {data['name']}:"
            )
            sink.result(data, f"{would}\n{data['modelfile']}", quiet=str(data["name"]))
            return
    sink.result(data, f"ollama run {data['name']}", quiet=str(data["name"]))


def _table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _listed(sink: Sink, models: list[dict[str, Any]], empty: str) -> None:
    from bp_export.formats.estimate import size

    def human() -> str:
        if not models:
            return empty
        rows = [
            (
                str(m["name"]),
                size(int(m.get("size") or 0)),
                str((m.get("details") or {}).get("quantization_level") or ""),
            )
            for m in models
        ]
        return _table([("NAME", "SIZE", "TYPE"), *rows])

    sink.result({"models": models}, human, quiet="\n".join(str(m["name"]) for m in models))


@ollama_group.command("list")
@_HOST
@output_options
def list_command(sink: Sink, server: ServerSettings) -> None:
    """List the models of the server."""
    with _client(server) as client:
        _listed(sink, client.models(), "no models")


@ollama_group.command("ps")
@_HOST
@output_options
def ps_command(sink: Sink, server: ServerSettings) -> None:
    """List the models that are loaded now."""
    with _client(server) as client:
        _listed(sink, client.running(), "no model is loaded")


@ollama_group.command("show")
@click.argument("name")
@_HOST
@output_options
def show_command(name: str, sink: Sink, server: ServerSettings) -> None:
    """Show a model's Modelfile and what the server knows of it."""
    with _client(server) as client:
        data = client.show(name)
    sink.result(data, str(data.get("modelfile") or ""), quiet=str(data.get("modelfile") or ""))


@ollama_group.command("rm")
@click.argument("name")
@DRY_RUN
@_HOST
@output_options
def rm_command(name: str, sink: Sink, dry_run: bool, server: ServerSettings) -> None:
    """Remove a model from the server."""
    with _client(server) as client:
        if dry_run:
            client.show(name)  # refused where it is not there
        else:
            client.delete(name)
    verb = "would remove" if dry_run else "removed"
    sink.result({"removed": name, "dry_run": dry_run}, f"{verb} {name}", quiet=name)


@ollama_group.command("shelf")
@click.argument("base_model")
@_HOST
@output_options
def shelf_command(base_model: str, sink: Sink, server: ServerSettings) -> None:
    """List the adapters that are registered on one base, by tag."""
    from bp_export.ollama.register import shelf

    with _client(server) as client:
        _listed(sink, shelf(client, base_model), f"no adapters on {base_model}")
