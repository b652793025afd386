"""Log lines for people and for programs, each with its run's id, none with a secret.

- Only a program calls `configure` (the command line does); bp-core used as a library logs through `logging` like
  any other and takes over nothing.
- Console lines go to stderr: stdout carries data. `json` gives one object per line; the file is always JSON.
- The run id is process-wide, not a context variable: a monitor thread's lines belong to the run too.
- Other libraries' records (transformers, torch, warnings) pass the same formatters; below WARNING they are left out
  unless the level is DEBUG.
- structlog is loaded with the first line: most commands say none, and it costs several times what click does.
- A log file that cannot be written (full disk) is told once on stderr and never stops the program.

    log = logs.get("bp_core.trainer")
    log.info("checkpoint_saved", step=100, seconds=0.4)
    → 07:34:55 info  checkpoint_saved  run=20261121-073455-a1b2c3 step=100 seconds=0.4
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from bp_core.errors import BpError
from bp_core.support.files import dumps, plain
from bp_core.support.redact import environment_secrets, redact, redact_text

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
FORMATS = ("console", "json")
_OURS = ("bp_core", "bp_data", "bp_merge", "bp_export", "bp_cli", "bp_ui", "backprop")

_run_id: str | None = None
_handlers: list[logging.Handler] = []
_secrets: tuple[str, ...] = ()
_settings: dict[str, Any] = {"level": "WARNING", "format": "console", "file": None, "has_handler": False}


def get(name: str = "bp_core") -> Any:
    """A structlog logger: `log.info("event", key=value)`."""
    import structlog

    return structlog.wrap_logger(
        logging.getLogger(name),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            _hand_over,
        ],
    )


def _hand_over(_: Any, __: str, line: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """One logging record: a message that any program's handlers can print, and the parts for our formatters."""
    rest = {k: line.pop(k) for k in ("exc_info", "stack_info", "stacklevel") if k in line}
    parts = redact(plain(dict(line)))
    pairs = (f"{k}={_value(v)}" for k, v in parts.items() if k != "event")
    return (" ".join([str(parts.get("event", "")), *pairs]),), {"extra": {"bp_parts": parts}, **rest}


def _take_over(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    line.update(getattr(line["_record"], "bp_parts", {}))
    return line


def bind_run(run_id: str | None) -> None:
    """Put this run's id on every line from now on; None takes it off."""
    global _run_id
    _run_id = run_id


def configure(
    level: str = "INFO",
    fmt: str = "console",
    file: str | Path | None = None,
    *,
    stream: IO[str] | None = None,
) -> None:
    """Set up logging for this process, replacing what an earlier call set up.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        fmt: `console` (readable, coloured on a terminal unless NO_COLOR is set) or `json`.
        file: also append JSON lines to this file; its folder is made.
        stream: instead of stderr.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` for an unknown level or format, `STATE_LOG_UNWRITABLE` for the file.
    """
    global _secrets
    level = level.upper()
    for value, allowed, name in ((level, LEVELS, "log level"), (fmt, FORMATS, "log format")):
        if value not in allowed:
            raise BpError(
                "CONFIG_INVALID_SETTING",
                f"{name} must be one of {', '.join(allowed)}, not {value!r}",
                f"put --{name.replace(' ', '-')} {allowed[1]} before the name of the command",
            )
    sink = logging.StreamHandler(stream or sys.stderr)
    sink.setFormatter(_Formatter(fmt, colours=fmt == "console" and _coloured(sink.stream)))
    wanted: list[logging.Handler] = [sink]
    if file is not None:
        wanted.append(_file_handler(Path(file)))
    _secrets = environment_secrets()
    reset()
    root = logging.getLogger()
    for handler in wanted:
        handler.addFilter(_Keep(getattr(logging, level)))
        root.addHandler(handler)
        _handlers.append(handler)
    root.setLevel(getattr(logging, level))
    logging.captureWarnings(True)
    _settings.update(level=level, format=fmt, file=str(file) if file else None, has_handler=True)


def reset() -> None:
    """Take away what `configure` set up."""
    root = logging.getLogger()
    for handler in _handlers:
        root.removeHandler(handler)
        handler.close()
    _handlers.clear()
    logging.captureWarnings(False)
    root.setLevel(logging.WARNING)
    _settings.update(level="WARNING", format="console", file=None, has_handler=False)


def settings() -> dict[str, Any]:
    """What is set up now: level, format, file, has_handler (for `backprop info`)."""
    return dict(_settings)


@contextmanager
def run_log(run_id: str, folder: Path) -> Iterator[Path]:
    """For the time of a run: its id on every line, and all lines as JSON in `<folder>/run.log`.

    The file has INFO and above, whatever the console shows; where bp-core is used as a library, the level of the
    program that uses it.

    Raises:
        BpError: `STATE_LOG_UNWRITABLE`.
    """
    path = folder / "run.log"
    handler = _file_handler(path)
    handler.addFilter(_Keep(logging.INFO))
    root, before = logging.getLogger(), _run_id
    level = root.level
    bind_run(run_id)
    root.addHandler(handler)
    if _handlers:  # ours: they keep to the level of `configure` by their own filter
        root.setLevel(min(level, logging.INFO))
    try:
        yield path
    finally:
        root.removeHandler(handler)
        handler.close()
        root.setLevel(level)
        bind_run(before)


class _Keep(logging.Filter):
    """Ours from `level` on; others' from WARNING on, unless all is asked for."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    def filter(self, record: logging.LogRecord) -> bool:
        ours = record.name.split(".", 1)[0] in _OURS
        limit = self.level if ours or self.level <= logging.DEBUG else max(self.level, logging.WARNING)
        return record.levelno >= limit


class _FileHandler(logging.FileHandler):
    """A log file that cannot be written is told once and never stops the program."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not self.told:
            self.told = True
            error = sys.exc_info()[1]
            sys.stderr.write(f"log file {self.baseFilename} cannot be written: {error}\n")

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk refuses the last buffer too, and that was told
            super().close()


def _file_handler(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise BpError(
            "STATE_LOG_UNWRITABLE", f"cannot write {path}: {error.strerror or error}", f"ls -ld {path.parent}"
        ) from error
    handler.setFormatter(_Formatter("json", colours=False))
    return handler


class _Formatter(logging.Formatter):
    """structlog's formatter, made for the first line."""

    def __init__(self, fmt: str, *, colours: bool) -> None:
        super().__init__()
        self._how = (fmt, colours)

    @functools.cached_property
    def _made(self) -> logging.Formatter:
        return _formatter(*self._how)

    def format(self, record: logging.LogRecord) -> str:
        return self._made.format(record)


def _formatter(fmt: str, colours: bool) -> logging.Formatter:
    import structlog

    last: list[Any] = [_json] if fmt == "json" else [_console(colours)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, _take_over],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _complete,
            *last,
        ],
    )


def _complete(_: Any, __: str, line: MutableMapping[str, Any]) -> dict[str, Any]:
    """Add time and run id and hide secrets: every line of every format passes here."""
    head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    head["level"] = str(line.pop("level", "info"))
    head["logger"] = str(line.pop("logger", ""))
    head["event"] = redact_text(str(line.pop("event", "")), _secrets)
    if _run_id is not None:
        head["run_id"] = _run_id
    return {**head, **redact(plain(dict(line)), _secrets)}


def _json(_: Any, __: str, line: MutableMapping[str, Any]) -> str:
    return dumps(line)


_COLOURS = {
    "debug": "\033[2m",
    "info": "\033[32m",
    "warning": "\033[33m",
    "error": "\033[31m",
    "critical": "\033[31m",
}


def _console(colours: bool) -> Any:
    def render(_: Any, __: str, line: MutableMapping[str, Any]) -> str:
        level, run = line.pop("level"), line.pop("run_id", None)
        clock = datetime.fromisoformat(line.pop("time")).astimezone().strftime("%H:%M:%S")
        trace, stack = line.pop("exception", None), line.pop("stack", None)
        event, logger = line.pop("event"), line.pop("logger")
        if logger.split(".", 1)[0] not in _OURS:
            event = f"{logger}: {event}"
        pairs = [f"{k}={_value(v)}" for k, v in ({"run": run} if run else {}).items()]
        pairs += [f"{k}={_value(v)}" for k, v in line.items()]
        shown = f"{level:<7}"
        if colours:
            shown = f"{_COLOURS.get(level, '')}{shown}\033[0m"
        text = f"{clock} {shown} {event}" + (f"  {' '.join(pairs)}" if pairs else "")
        return "\n".join([text, *(t for t in (stack, trace) if t)])

    return render


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return (
            value if value and not any(c in value for c in ' "=\n') else json.dumps(value, ensure_ascii=False)
        )
    return dumps(value)


def _coloured(stream: Any) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)()) and not os.environ.get("NO_COLOR")
