"""The commands `backprop push` and `backprop pull`."""

from __future__ import annotations

from pathlib import Path

import click
from bp_merge.common import Sink, output_options

from bp_export.cli.shared import HELP, PATH, bars_on_terminals_only


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
@click.option("--token-file", type=PATH, help="File with a Hub token (mode 0600).")
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
    """Push an adapter, a merged model or GGUF files to the Hub, as one commit, with a model card."""
    bars_on_terminals_only(sink)
    from bp_export.formats.estimate import size
    from bp_export.sharing.push import push

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


@click.command(
    "pull",
    context_settings=HELP,
    no_args_is_help=True,
    epilog=("\b\nExample:\n  backprop pull alice/my-adapter -o my-adapter\n"),
)
@click.argument("repo", metavar="OWNER/NAME[@REVISION]")
@click.option("--output", "-o", type=PATH, help="Folder to make; the repository's name unless given.")
@click.option("--hub-revision", "--revision", "revision", help="Branch, tag or commit.")
@click.option("--token-file", type=PATH, help="File with a Hub token (mode 0600).")
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
    """Fetch an adapter (or a model) from the Hub into a folder."""
    bars_on_terminals_only(sink)
    from bp_export.sharing.pull import pull

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
