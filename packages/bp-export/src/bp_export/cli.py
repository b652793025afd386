"""The commands: `bp-export …` alone, mounted as `backprop export|ollama|push|pull` by bp-cli.

- The flags of `export` are the fields of `ExportSettings`; nothing is declared twice.
- stdout is the result (one JSON object with `--json`, the path with `-q`), stderr is everything else.
- Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from bp_merge.common import Sink, options, output_options, run_command

from .errors import BpError
from .settings import ExportSettings

_PATH = click.Path(path_type=Path)
_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _progress(sink: Sink) -> Any:
    """A status line with a rate and what is left, at most ten times a second."""
    from .plan import size

    began, last = time.monotonic(), [0.0]

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        if now - last[0] < 0.1 and done < total:
            return
        last[0] = now
        rate = done / max(now - began, 1e-6)
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        sink.progress(
            f"{size(done)} of {size(total)} ({size(int(rate))}/s{left})" + ("\n" if done >= total else "")
        )

    return show


@click.command("export", context_settings=_HELP, no_args_is_help=True)
@click.argument("adapters", nargs=-1, type=_PATH, required=True, metavar="ADAPTER...")
@options(ExportSettings)
@click.option(
    "--hub-token", metavar="TOKEN", help="Hub token; visible to other users: prefer --hub-token-file."
)
@output_options
def export_command(adapters: Sequence[Path], sink: Sink, hub_token: str | None, **given: Any) -> None:
    r"""Export an adapter (several of one base, a whole model), or check a GGUF file with --verify.

    \b
    Examples:
      backprop export output/lora --format gguf --quantization q4_k_m --ollama --ollama-name my-model
      backprop export output/lora -f merged -o merged --verify
      backprop export output/lora -f ollama-adapter --base-model llama3.2 --adapter-tag law
      backprop export output/lora -f gguf --dry-run --json
      backprop export model.gguf --verify
    """
    given = {k: v for k, v in given.items() if v is not None and v != ()}
    if len(adapters) == 1 and adapters[0].suffix == ".gguf" and adapters[0].is_file():
        _verify_file(adapters[0], sink, given)
        return
    from .export import run
    from .settings import settings_from
    from .tokens import ARGV_WARNING

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
        progress=_progress(sink),
    )
    sink.result(result.to_dict(), lambda: _shown(result), quiet=str(result.path))


def _shown(result: Any) -> str:
    from .plan import size

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

    from .memory import peak_rss_mb
    from .verify import verify
    from .verify_lora import is_adapter, verify_lora

    began, base = time.perf_counter(), given.get("base_model")
    lora = is_adapter(path)
    if lora:
        if base and not Path(base).expanduser().is_file():
            raise BpError(
                "INPUT_VALIDATION_FAILED",
                f"{path} is an adapter; {base} is no GGUF file",
                f"backprop export {path} --verify --base-model BASE.gguf",
            )
        result = verify_lora(path, Path(base).expanduser() if base else None)
    else:
        from .base import resolve_base

        result = verify(path, tokenizer_dir=resolve_base(base, weights=False).path if base else None)

    def human() -> str:
        lines = [
            f"{path}: {'ok' if result.verified else 'WRONG'}, {result.architecture}, {result.quantization}"
        ]
        lines += [f"  problem: {p}" for p in result.problems]
        lines += [f"  not checked: {name} ({why})" for name, why in result.unchecked.items()]
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


# ------------------------------------------------------------------------------------------------ ollama


_HOST = click.option("--host", help="Address of the server; OLLAMA_HOST unless given.")


def _client(host: str | None) -> Any:
    from .ollama import Ollama

    return Ollama(host)


@click.group("ollama", context_settings=_HELP)
def ollama_group() -> None:
    r"""Register, list, show and remove Ollama models; the shelf of adapters of one base.

    \b
    Examples:
      backprop ollama register output/lora/gguf --name my-model
      backprop ollama shelf llama3.2
      backprop ollama rm my-model
    """


@ollama_group.command("register")
@click.argument("path", type=_PATH)
@click.option("--name", help="Name of the model; made from the file's unless given.")
@click.option("--modelfile", type=_PATH, help="Your own Modelfile: its values win over the derived ones.")
@click.option("--base-model", help="For a GGUF adapter: an Ollama model, or a base GGUF file.")
@click.option("--system", help="System prompt stored with the model.")
@click.option("--no-overwrite", is_flag=True, help="Refuse where a model of that name exists.")
@click.option("--smoke/--no-smoke", default=True, help="Ask for one short answer afterwards.")
@_HOST
@output_options
def register_command(
    path: Path,
    sink: Sink,
    name: str | None,
    modelfile: Path | None,
    base_model: str | None,
    system: str | None,
    no_overwrite: bool,
    smoke: bool,
    host: str | None,
) -> None:
    """Create an Ollama model from a GGUF file, a folder with one, or an adapter directory (exported to q4_k_m first)."""
    from .ollama_register import register

    if (path / "adapter_config.json").is_file():
        from .export import export

        result = export(
            path,
            format="gguf",
            ollama=True,
            ollama_name=name,
            ollama_host=host,
            modelfile=modelfile,
            system=system,
            overwrite=not no_overwrite,
            smoke=smoke,
            base_model=base_model,
            note=sink.note,
            progress=_progress(sink),
        )
        data = result.ollama or {}
    else:
        with _client(host) as client:
            data = register(
                path,
                name,
                client=client,
                base=base_model,
                modelfile=modelfile,
                system=system,
                no_overwrite=no_overwrite,
                smoke=smoke,
                progress=sink.progress,
            ).to_dict()
        for text in data["notes"]:
            sink.note(text)
    sink.result(data, f"ollama run {data['name']}", quiet=str(data["name"]))


def _table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _listed(sink: Sink, models: list[dict[str, Any]], empty: str) -> None:
    from .plan import size

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
def list_command(sink: Sink, host: str | None) -> None:
    """List the models of the server."""
    with _client(host) as client:
        _listed(sink, client.models(), "no models")


@ollama_group.command("ps")
@_HOST
@output_options
def ps_command(sink: Sink, host: str | None) -> None:
    """List the models that are loaded now."""
    with _client(host) as client:
        _listed(sink, client.running(), "no model is loaded")


@ollama_group.command("show")
@click.argument("name")
@_HOST
@output_options
def show_command(name: str, sink: Sink, host: str | None) -> None:
    """Show a model's Modelfile and what the server knows of it."""
    with _client(host) as client:
        data = client.show(name)
    sink.result(data, str(data.get("modelfile") or ""), quiet=str(data.get("modelfile") or ""))


@ollama_group.command("rm")
@click.argument("name")
@_HOST
@output_options
def rm_command(name: str, sink: Sink, host: str | None) -> None:
    """Remove a model from the server."""
    with _client(host) as client:
        client.delete(name)
    sink.result({"removed": name}, f"removed {name}", quiet=name)


@ollama_group.command("shelf")
@click.argument("base_model")
@_HOST
@output_options
def shelf_command(base_model: str, sink: Sink, host: str | None) -> None:
    """List the adapters that are registered on one base, by tag."""
    from .ollama_register import shelf

    with _client(host) as client:
        _listed(sink, shelf(client, base_model), f"no adapters on {base_model}")


# ------------------------------------------------------------------------------------------------ hub


def _token(token: str | None, sink: Sink) -> str | None:
    from .tokens import ARGV_WARNING

    if token:
        sink.note(f"warning: {ARGV_WARNING}")
    return token


@click.command("push", context_settings=_HELP, no_args_is_help=True)
@click.argument("path", type=_PATH)
@click.option(
    "--repo", required=True, metavar="OWNER/NAME", help="Target repository; made where it does not exist."
)
@click.option("--private", is_flag=True, help="Create the repository as private.")
@click.option(
    "--hub-revision", "--revision", "revision", help="Branch to push to; made where it does not exist."
)
@click.option(
    "--hub-commit-message",
    "--commit-message",
    "message",
    default="Upload model",
    show_default=True,
    help="Subject.",
)
@click.option("--token-file", type=_PATH, help="File with a Hub token (mode 0600).")
@click.option("--token", help="Hub token; visible to other users: prefer --token-file or HF_TOKEN.")
@click.option("--include-base", is_flag=True, help="Of an adapter, push the merged model.")
@click.option(
    "--base-model", metavar="OWNER/NAME", help="Hub id of the base, where a local path was recorded."
)
@click.option("--card/--no-card", default=True, help="Write the model card (your own README.md is kept).")
@click.option("--dry-run", "-n", is_flag=True, help="List what would be pushed; no network.")
@output_options
def push_command(
    path: Path,
    sink: Sink,
    repo: str,
    private: bool,
    revision: str | None,
    message: str,
    token_file: Path | None,
    token: str | None,
    include_base: bool,
    base_model: str | None,
    card: bool,
    dry_run: bool,
) -> None:
    r"""Push an adapter, a merged model or GGUF files to the Hub, as one commit, with a model card.

    \b
    Examples:
      backprop push output/lora --repo alice/my-adapter --private
      backprop push output/lora/gguf --repo alice/my-model-GGUF --dry-run
    """
    from .hub import push
    from .plan import size

    result = push(
        path,
        repo,
        private=private,
        revision=revision,
        commit_message=message,
        token=_token(token, sink),
        token_file=token_file,
        include_base=include_base,
        base_model=base_model,
        card=card,
        dry_run=dry_run,
        note=sink.note,
    )

    def human() -> str:
        total = sum(n for _, n in result.files)
        head = f"would push to {result.repo_id}" if dry_run else str(result.url)
        rows = [f"  {name}  {size(n)}" for name, n in result.files] if dry_run else []
        return "\n".join([f"{head} ({len(result.files)} files, {size(total)})", *rows])

    quiet = "\n".join(n for n, _ in result.files) if dry_run else str(result.url)
    sink.result(result.to_dict(), human, quiet=quiet)


@click.command("pull", context_settings=_HELP, no_args_is_help=True)
@click.argument("repo", metavar="OWNER/NAME[@REVISION]")
@click.option("--output", "-o", type=_PATH, help="Folder to make; the repository's name unless given.")
@click.option("--hub-revision", "--revision", "revision", help="Branch, tag or commit.")
@click.option("--token-file", type=_PATH, help="File with a Hub token (mode 0600).")
@click.option("--token", help="Hub token; visible to other users: prefer --token-file or HF_TOKEN.")
@click.option("--no-overwrite", is_flag=True, help="Refuse where the folder exists.")
@output_options
def pull_command(
    repo: str,
    sink: Sink,
    output: Path | None,
    revision: str | None,
    token_file: Path | None,
    token: str | None,
    no_overwrite: bool,
) -> None:
    r"""Fetch an adapter (or a model) from the Hub into a folder.

    \b
    Example:
      backprop pull alice/my-adapter -o my-adapter
    """
    from .hub import pull

    out = output or Path(repo.partition("@")[0].rsplit("/", 1)[-1])
    path = pull(
        repo,
        out,
        revision=revision,
        token=_token(token, sink),
        token_file=token_file,
        no_overwrite=no_overwrite,
        note=sink.note,
    )
    sink.result({"path": str(path), "repo_id": repo}, str(path), quiet=str(path))


@click.group(context_settings=_HELP)
@click.option("--verbose", "-v", is_flag=True, help="Show tracebacks.")
def cli(verbose: bool) -> None:
    """From an adapter to what runs it: merged weights, GGUF, Ollama, the Hub."""


for _command in (export_command, ollama_group, push_command, pull_command):
    cli.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `bp-export` and return its exit code."""
    return run_command(cli, argv, prog_name="bp-export")
