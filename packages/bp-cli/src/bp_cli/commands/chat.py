"""backprop chat."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from bp_core.settings.groups.generation import GenerationSettings, SourceSettings
from bp_merge.common import BpError, expanded, options

from bp_cli.options import output_option

HELP = "/reset begins anew · /system TEXT sets the system prompt · /save FILE writes the conversation · /exit ends"


@click.command(
    epilog='\b\nExamples:\n  backprop chat\n  backprop chat RUN --temperature 0.7 --system "Be brief."\n'
)
@click.argument("model", default="latest", required=False)
@options(source=SourceSettings, settings=GenerationSettings)
@output_option
@click.pass_context
def chat(
    ctx: click.Context, model: str, source: SourceSettings, settings: GenerationSettings, output: Path
) -> None:
    """Talk to a model in the terminal.

    MODEL as for `generate`. Ctrl-C ends an answer, Ctrl-D the conversation. In it: /reset, /system TEXT, /save FILE,
    /exit.
    """
    from bp_core.assessment.sources import find_source

    from bp_cli.shared import set_up_logs

    set_up_logs(ctx.obj or {})
    found = find_source(model, output, source, lambda text: click.echo(text, err=True))
    if settings.num > 1:
        raise click.UsageError("a conversation has one answer: leave --num out", ctx)
    from bp_core.assessment.opening import open_source

    answerer: Any = open_source(found, source)
    try:
        _Conversation(answerer, settings, found.name).run()
    finally:
        answerer.close()


class _Conversation:
    """Turns and what is typed about them."""

    def __init__(self, model: Any, settings: GenerationSettings, name: str) -> None:
        self.model, self.settings, self.name = model, settings, name
        self.system = settings.system
        self.turns: list[Any] = []

    def run(self) -> None:
        """Until /exit or the end of the input."""
        moving = sys.stdin.isatty()
        if moving:
            import contextlib

            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - history and editing of what is typed, where the platform has it
            click.echo(f"{self.name}: {HELP}", err=True)
        while True:
            try:
                line = input("> " if moving else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                click.echo("", err=True)
                return
            if line == "/exit":
                return
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._answer(line)

    def _command(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "/reset":
            self.turns = []
            click.echo("begun anew", err=True)
        elif word == "/system":
            self.system, self.turns = rest.strip() or None, []
            click.echo(
                "system prompt set, begun anew" if self.system else "no system prompt, begun anew", err=True
            )
        elif word == "/save" and rest.strip():
            self._save(expanded(rest.strip()))
        else:
            click.echo(HELP, err=True)

    def _save(self, path: Path) -> None:
        from bp_core.support.files import dumps, write_atomic

        system = [{"role": "system", "content": self.system}] if self.system else []
        row = {"messages": [*system, *(turn.to_message() for turn in self.turns)]}
        try:
            write_atomic(path, dumps(row) + "\n")
        except OSError as error:
            click.echo(f"not saved: {error.strerror or error}", err=True)
            return
        click.echo(f"saved {path}", err=True)

    def _answer(self, line: str) -> None:
        import dataclasses

        from bp_core.generation.prompts import Answer, Prompt
        from bp_data.example import Turn

        asked = [*self.turns, Turn("user", line)]
        settings = dataclasses.replace(self.settings, system=self.system)
        going = self.model.stream(Prompt.of(asked), settings)
        said = ""
        try:
            for part in going:
                if isinstance(part, Answer):
                    said = part.text
                else:
                    said += part
                    sys.stdout.write(part)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            going.close()
            click.echo(" (ended)", err=True)
        except BpError as error:
            click.echo(f"[{error.code}] {error.message}", err=True)
            return
        click.echo("")
        self.turns = [*asked, Turn("assistant", said)]
