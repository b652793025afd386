"""The commands `backprop push` and `backprop pull`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
from bp_merge.common import Sink, options, output_options

from bp_export.cli.shared import DRY_RUN, HELP, PATH, bars_on_terminals_only
from bp_export.hub.settings import PullSettings, PushSettings

_TOKEN = click.option("--token", help="Hub token; visible to other users: prefer --token-file or HF_TOKEN.")


def _token(token: str | None, sink: Sink) -> str | None:
    from bp_export.hub.token import ARGV_WARNING

    if token:
        sink.note(f"warning: {ARGV_WARNING}")
    return token


@click.command(
    "push",
    context_settings=HELP,
    no_args_is_help=True,
    epilog=(
        "\b\n"
        "Examples:\n"
        "  backprop push output/RUN/adapter --repo alice/my-adapter --private\n"
        "  backprop push output/RUN/exports/gguf --repo alice/my-model-GGUF --dry-run\n"
    ),
)
@click.argument("path", type=PATH)
@click.option(
    "--repo", required=True, metavar="OWNER/NAME", help="Target repository; made where it does not exist."
)
@options(settings=PushSettings)
@_TOKEN
@output_options
def push_command(
    path: Path,
    sink: Sink,
    repo: str,
    token: str | None,
    settings: PushSettings,
) -> None:
    """Push an adapter, a merged model or GGUF files to the Hub, as one commit, with a model card."""
    bars_on_terminals_only(sink)
    from bp_export.formats.estimate import size
    from bp_export.sharing.push import push

    result = push(
        path,
        repo,
        token=_token(token, sink),
        note=sink.note,
        **dataclasses.asdict(settings),
    )
    dry_run = settings.dry_run

    def human() -> str:
        total = sum(n for _, n in result.files)
        head = f"would push to {result.repo_id}" if dry_run else str(result.url)
        rows = [f"  {name}  {size(n)}" for name, n in result.files] if dry_run else []
        return "\n".join([f"{head} ({len(result.files)} files, {size(total)})", *rows])

    quiet = "\n".join(n for n, _ in result.files) if dry_run else str(result.url)
    sink.result(result.to_dict(), human, quiet=quiet)


@click.command(
    "pull",
    context_settings=HELP,
    no_args_is_help=True,
    epilog=("\b\nExample:\n  backprop pull alice/my-adapter -o my-adapter\n"),
)
@click.argument("repo", metavar="OWNER/NAME[@REVISION]")
@options(settings=PullSettings)
@DRY_RUN
@_TOKEN
@output_options
def pull_command(
    repo: str,
    sink: Sink,
    token: str | None,
    dry_run: bool,
    settings: PullSettings,
) -> None:
    """Fetch an adapter (or a model) from the Hub into a folder."""
    bars_on_terminals_only(sink)
    from bp_export.sharing.pull import pull, pullable

    if dry_run:
        from bp_export.formats.estimate import size

        path, files = pullable(repo, settings, token=_token(token, sink), note=sink.note)
        rows = [f"  {name}  {size(n)}" for name, n in files.items()]
        head = f"would fetch {repo} into {path} ({len(files)} files, {size(sum(files.values()))})"
        told = {"path": str(path), "repo_id": repo, "files": files, "dry_run": True}
        sink.result(told, "\n".join([head, *rows]), quiet=str(path))
        return
    path = pull(repo, token=_token(token, sink), note=sink.note, **dataclasses.asdict(settings))
    sink.result({"path": str(path), "repo_id": repo, "dry_run": False}, str(path), quiet=str(path))
