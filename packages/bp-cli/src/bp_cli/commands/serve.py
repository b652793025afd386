"""backprop serve."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import click
from bp_core.settings.groups.generation import GenerationSettings, SourceSettings
from bp_merge.common import BpError, Sink, options, output_options

from bp_cli.options import output_option


@click.command(
    epilog="\b\nExamples:\n  backprop serve latest\n  backprop serve RUN --port 8080\n"
    "  KEY=… backprop serve RUN --host 0.0.0.0 --serve-key-env KEY\n"
)
@click.argument("model", default="latest", required=False)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; beyond this machine with a key only.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one."
)
@click.option(
    "--serve-key-env", metavar="NAME", help="Environment variable with the key that requests must carry."
)
@options(source=SourceSettings, settings=GenerationSettings)
@click.option("--run-id", metavar="NAME", help="Name of the job. Default: the time, and six random digits.")
@click.option("--queue", is_flag=True, help="Wait until the jobs that asked for the card before are done.")
@output_option
@output_options
@click.pass_context
def serve(
    ctx: click.Context,
    sink: Sink,
    model: str,
    host: str,
    port: int,
    serve_key_env: str | None,
    source: SourceSettings,
    settings: GenerationSettings,
    run_id: str | None,
    queue: bool,
    output: Path,
) -> None:
    """Answer at an OpenAI-compatible address until Ctrl-C: /v1/models, /v1/chat/completions.

    MODEL as for `generate`; an adapter is also asked as NAME:base, without it. The settings are those of requests that do not say otherwise. The card's lease is held
    meanwhile.
    """
    from bp_core.assessment.sources import find_source

    from bp_cli.shared import set_up_logs

    set_up_logs(ctx.obj or {})
    key = os.environ.get(serve_key_env, "") if serve_key_env else ""
    if serve_key_env and not key:
        raise BpError(
            "CONFIG_ENDPOINT_KEY",
            f"the key is not set: {serve_key_env}",
            f"set the variable {serve_key_env} to the key",
        )
    from bp_core.generation.serve import Server, refuse_open

    refuse_open(host, key)
    found = find_source(model, output, source, sink.note)
    if not found.local and found.kind != "gguf":
        raise click.UsageError(f"{model} is served already", ctx)
    from bp_core.runs.cards import CPU, card_name
    from bp_core.runs.jobs import record_job

    card = card_name(source.backend) if found.local else CPU
    with record_job(
        output,
        "serve",
        card=card,
        tell=sink.note,
        queue=queue,
        config={"serve": {"model": model, "host": host}},
        run_id=run_id,
    ) as run:
        from bp_core.assessment.opening import open_source

        answerer: Any = open_source(found, source)
        try:
            name = found.run.run_id if found.run else Path(found.where).name
            server = Server(
                answerer,
                name=name,
                with_base=found.kind == "adapter",
                host=host,
                port=port,
                key=key,
                defaults=settings,
                log=sink.note,
            )
            _until_stopped(server, run, sink, {"url": server.address, "model": name, "run_id": run.run_id})
        finally:
            answerer.close()


def _until_stopped(server: Any, run: Any, sink: Sink, told: dict[str, Any]) -> None:
    """Serve until a signal or `backprop stop` ends it."""
    asked = threading.Event()
    before = {s: signal.signal(s, lambda *_: asked.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        run.begin(unit="requests")
        sink.result(told, f"{told['model']} answers at {told['url']} (Ctrl-C ends it)", quiet=told["url"])
        while not asked.wait(0.5) and not run.stop_asked():
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        server.stop()
        server.close()
        thread.join(5)
    run.finish("stopped")
