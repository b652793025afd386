"""Commands: one sink for what they print, and one way to run them.

- stdout carries data, stderr carries everything else. NO_COLOR is honoured because nothing here colours.
- No error reaches the user as a traceback unless it is asked for.
- Importing this file loads the standard library only; click is imported inside the functions that need it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import (
    SCHEMA_VERSION,
    BpError,
    Exit,
    as_json_text,
    finite,
    hidden,
    is_coded,
    printable,
    render_error,
)

HEARD = "bp.heard"  # in a Click context's `meta`: `Sink.heard` of the commands that run in it


class Sink:
    """Where a command writes: one JSON object or human text on stdout, notes and progress on stderr.

    Args:
        mode: `human`, `json` (one object, nothing else on stdout) or `quiet` (only what a script needs).
        heard: called with the data of the result, and with None at each sign of progress; what it raises ends the work.
    """

    def __init__(
        self, mode: str = "human", heard: Callable[[Mapping[str, Any] | None], None] = lambda _: None
    ) -> None:
        self.mode, self.heard = mode, heard

    def result(self, data: Mapping[str, Any], human: str | Callable[[], str] = "", quiet: str = "") -> None:
        """Print the result of a command, once."""
        self.heard(data)
        if self.mode == "json":
            told = finite({"schema_version": SCHEMA_VERSION, **data})
            text = as_json_text(told)
        elif self.mode == "quiet":
            text = quiet
        else:
            text = human() if callable(human) else human
        clear_status()
        if text:
            sys.stdout.write(text.rstrip("\n") + "\n")
            sys.stdout.flush()

    def note(self, text: str) -> None:
        """Tell the user something that is not the result (stderr, silent in quiet mode)."""
        clear_status()
        if self.mode != "quiet":
            sys.stderr.write(printable(text) + "\n")
            sys.stderr.flush()

    def progress(self, text: str) -> None:
        """Overwrite one status line on a terminal; nothing where stderr is none or output is for programs."""
        self.heard(None)
        if self.mode == "human" and sys.stderr.isatty() and not os.environ.get("BP_NO_PROGRESS"):
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()
            _status[:] = [sys.stderr]


_status: list[Any] = []  # the streams on which a status line stands


def clear_status() -> None:
    """Take the status line off the terminal, so that nothing runs into it."""
    while _status:
        with contextlib.suppress(ValueError):  # closed meanwhile
            stream = _status.pop()
            stream.write("\r\033[K")
            stream.flush()


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json` and `-q/--quiet` to a command, which then receives `sink: Sink`.

    What stands under `HEARD` in the context's `meta` hears what the sink is told.
    """
    import functools

    import click

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
    @click.option("--quiet", "-q", is_flag=True, help="Print only what a script needs.")
    @functools.wraps(function)
    def wrapper(*args: Any, as_json: bool, quiet: bool, **kwargs: Any) -> Any:
        sink = Sink("json" if as_json else "quiet" if quiet else "human")
        sink.heard = click.get_current_context().meta.get(HEARD, sink.heard)
        return function(*args, sink=sink, **kwargs)

    return wrapper


def run_command(
    command: Any,
    argv: Sequence[str] | None = None,
    *,
    prog_name: str | None = None,
    secrets: Callable[[], Sequence[str]] = tuple,
) -> int:
    """Run a Click command as a program and return its exit code; no error reaches the user as a traceback.

    With `--verbose` or `-v` among the arguments, or BACKPROPAGATE_DEBUG=1, the traceback is printed too. Usage
    errors exit 1, an interrupt 130, out of memory 137. Where the arguments ask for `--json`, an error goes to
    stdout as one JSON object with the key `error` (`INPUT_USAGE` for a usage error), and its rendering to stderr.
    URL credentials, tokens of a known shape and the literal `secrets` (asked for when something fails) are shown as `***`.
    """
    import click

    def told(error: Any) -> None:
        literal = secrets()
        if as_json:
            with contextlib.suppress(OSError):  # it may be standard output that fails
                sys.stdout.write(render_error(error, as_json=True, secrets=literal) + "\n")
                sys.stdout.flush()
        sys.stderr.write(render_error(error, secrets=literal) + "\n")

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before we began
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # a name that is no UTF-8, a terminal that is none: escaped
            stream.reconfigure(errors="backslashreplace")
    args = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in args
    verbose = "--verbose" in args or "-v" in args or os.environ.get("BACKPROPAGATE_DEBUG") == "1"
    try:
        code = command.main(args=args, prog_name=prog_name, standalone_mode=False)
        return code if isinstance(code, int) else Exit.OK
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        context = getattr(error, "ctx", None)
        if as_json:
            path = context.command_path if context else prog_name or "backprop"
            coded = BpError("INPUT_USAGE", error.format_message(), f"{path} --help")
            sys.stdout.write(render_error(coded, as_json=True, secrets=secrets()) + "\n")
        sys.stderr.write(hidden(shown.getvalue(), secrets()))
        return Exit.USER
    except (KeyboardInterrupt, click.Abort):
        clear_status()
        sys.stderr.write("interrupted\n")
        return Exit.INTERRUPTED
    except SystemExit:  # Click's own end where the reader of stdout went away: there is nothing more to say
        if type(sys.stdout) is not click.utils.PacifyFlushWrapper:
            raise
        return Exit.OK
    except MemoryError:
        lost = BpError("RUNTIME_OUT_OF_MEMORY", "the process ran out of memory")
        told(lost)
        return lost.exit_code
    except Exception as error:  # noqa: BLE001 - the last line: every error is told, with its exit code
        clear_status()
        if verbose:
            import traceback

            sys.stderr.write(hidden(traceback.format_exc(), secrets()))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = error.filename or "what was to be written"
            error = BpError(
                "RUNTIME_DISK_FULL", f"no room left on the disk for {what}", "df -h", retryable=True
            )
        elif isinstance(error, OSError) and isinstance(error.filename, str):  # a name that the system refuses
            name = error.filename if len(error.filename) <= 80 else f"{error.filename[:60]}…"
            hint = f"ls -ld {_quoted(name)}"
            error = BpError("INPUT_PATH_UNUSABLE", f"{name}: {error.strerror or error}", hint)
        elif not is_coded(error):
            error = BpError(
                "RUNTIME_UNEXPECTED",
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
                "run the same command with --verbose to see where, and report it",
            )
        told(error)
        return int(getattr(error, "exit_code", Exit.RUNTIME))


def _quoted(name: str) -> str:
    import shlex

    return shlex.quote(name)
