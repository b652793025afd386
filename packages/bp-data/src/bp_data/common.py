"""What every package of the workspace shares: coded errors, knobs, and one command-line sink.

- One idea, one text. bp-merge and bp-data know nobody, so each carries this file and a test holds the two
  byte-identical; bp-export, bp-core, bp-cli and bp-ui import bp-merge's.
- An error has a stable code, a one-line cause and a hint that can be pasted into a shell. The shape is a
  protocol (`is_coded`), so an error of any package is rendered the same way.
- A knob is one field of a frozen dataclass. Its keyword, flag, environment name and docs row are read from it.
- stdout carries data, stderr carries everything else. NO_COLOR is honoured because nothing here colours.
- Import cost: standard library only; click is imported inside the functions that need it.

    Exception
    └── BpError            code, message, hint, retryable, details, exit_code
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1


class Exit(enum.IntEnum):
    """Exit codes of every command of the workspace."""

    OK = 0
    USER = 1  # a wrong argument, a wrong file, a missing dependency
    RUNTIME = 2  # the work itself failed
    PARTIAL = 3  # ran to the end, some units failed
    GATE = 65  # a gate tripped, or bad data
    SERVICE = 69  # an outside service failed (Hub, Ollama)
    INTERRUPTED = 130
    OUT_OF_MEMORY = 137


# Codes whose exit code is not that of their prefix.
_EXIT_BY_CODE = {
    "RUNTIME_OUT_OF_MEMORY": Exit.OUT_OF_MEMORY,
    "RUNTIME_GPU_OOM": Exit.OUT_OF_MEMORY,
    "OLLAMA_MODEL_EXISTS": Exit.USER,
    "OLLAMA_MODEL_NOT_FOUND": Exit.USER,
    "DEP_OLLAMA_UNREACHABLE": Exit.SERVICE,
    "DEP_OLLAMA_REGISTRATION_FAILED": Exit.SERVICE,
    "DEP_OLLAMA_TOO_OLD": Exit.SERVICE,
}
_EXIT_BY_PREFIX = {
    "RUNTIME": Exit.RUNTIME,
    "STATE": Exit.RUNTIME,
    "HUB": Exit.SERVICE,
    "OLLAMA": Exit.SERVICE,
}


class BpError(Exception):
    """An error that a caller may want to handle.

    Args:
        code: stable name, `INPUT_…`, `CONFIG_…`, `DEP_…`, `RUNTIME_…`, `STATE_…`, `HUB_…`, `OLLAMA_…`, `UI_…`.
        message: the cause in one line.
        hint: what to do next, as a command that can be run where there is one.
        retryable: whether the same call may succeed later.
        details: facts for programs (JSON-able).
        exit_code: the process exit code; by the code, else its prefix, unless given (user error 1, runtime 2,
            service 69).
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        *,
        retryable: bool = False,
        details: Mapping[str, Any] | None = None,
        exit_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.retryable = retryable
        self.details: dict[str, Any] = dict(details or {})
        prefix = code.split("_", 1)[0]
        by_code = _EXIT_BY_CODE.get(code, _EXIT_BY_PREFIX.get(prefix, Exit.USER))
        self.exit_code = int(by_code if exit_code is None else exit_code)

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), dict(self.__dict__)))

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON-able data, as `--json` prints it."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
            "details": self.details,
        }


def _rebuild(cls: type[BpError], state: dict[str, Any]) -> BpError:
    error = cls.__new__(cls)
    Exception.__init__(error, state["message"])
    error.__dict__.update(state)
    return error


def is_coded(error: BaseException) -> bool:
    """Whether an exception follows the error protocol, whichever package raised it."""
    return all(hasattr(error, name) for name in ("code", "message", "hint", "exit_code", "to_dict"))


# ---------------------------------------------------------------------------------------------- knobs


def knob(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    factory: Callable[[], Any] | None = None,
    group: str = "",
    unit: str = "",
    flags: Sequence[str] = (),
    env: Sequence[str] = (),
    keywords: Sequence[str] = (),
    choices: Sequence[str] = (),
    hidden: bool = False,
) -> Any:
    """One setting, declared once, as a field of a frozen dataclass.

    Args:
        default: the value when no source gives one.
        help: one sentence for `--help`, the docs table and the UI.
        factory: makes the default instead (mutable values).
        group: heading under which surfaces list it.
        unit: of the value ("tokens", "°C", "s").
        flags: further flags beside `--field-name` ("-m", "--lr").
        env: further environment names, whole.
        keywords: further Python keywords.
        choices: the allowed strings, where the type is `str`.
        hidden: valid everywhere but left out of `--help`.

    Bounds belong to the type: `Annotated[int, annotated_types.Gt(0)]`.
    """
    metadata = {
        "help": help,
        "group": group,
        "unit": unit,
        "flags": tuple(flags),
        "env": tuple(env),
        "keywords": tuple(keywords),
        "choices": tuple(choices),
        "hidden": hidden,
    }
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Knob:
    """A knob as the surfaces read it: name, bare type, bounds and the metadata of its field."""

    name: str
    type: Any  # the bare type: int, float, bool, str, Path, tuple
    optional: bool  # None is allowed
    many: bool  # a tuple of `type`
    default: Any
    bounds: tuple[Any, ...]  # annotated_types objects
    help: str
    group: str
    unit: str
    flags: tuple[str, ...]
    env: tuple[str, ...]
    keywords: tuple[str, ...]
    choices: tuple[str, ...]
    hidden: bool

    def check(self, value: Any) -> None:
        """Raise ValueError where `value` breaks a bound or is not one of the choices."""
        if value is None and self.optional:
            return
        for item in tuple(value or ()) if self.many else (value,):
            if self.choices and item not in self.choices:
                raise ValueError(f"{self.name} must be one of {', '.join(self.choices)}, not {item!r}")
            for bound in self.bounds:
                for attr, sign, holds in (
                    ("gt", ">", lambda v, b: v > b),
                    ("ge", ">=", lambda v, b: v >= b),
                    ("lt", "<", lambda v, b: v < b),
                    ("le", "<=", lambda v, b: v <= b),
                ):
                    limit = getattr(bound, attr, None)
                    if limit is not None and not holds(item, limit):
                        raise ValueError(f"{self.name} must be {sign} {limit}, not {item!r}")


def knobs(cls: type) -> Iterator[Knob]:
    """The knobs of a dataclass, in the order of its fields (fields made without `knob` are skipped)."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if "help" not in field.metadata:
            continue
        hint, bounds = hints[field.name], ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *extra = typing.get_args(hint)
            bounds = tuple(extra)
        optional = False
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            rest = [a for a in typing.get_args(hint) if a is not type(None)]
            optional, hint = len(rest) < len(typing.get_args(hint)), rest[0]
            if typing.get_origin(hint) is typing.Annotated:
                hint, *extra = typing.get_args(hint)
                bounds += tuple(extra)
        choices = field.metadata["choices"]
        if typing.get_origin(hint) is typing.Literal:
            choices, hint = choices or typing.get_args(hint), str
        many = typing.get_origin(hint) is tuple
        if many:
            hint = typing.get_args(hint)[0]
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield Knob(
            name=field.name,
            type=hint,
            optional=optional,
            many=many,
            default=default,
            bounds=bounds,
            **{k: v for k, v in field.metadata.items() if k != "choices"},
            choices=choices,
        )


def options(*classes: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Click options for every knob of the dataclasses; a flag that was not given is left out of the keywords.

    The command receives the given values as keywords by field name, so that it can tell «given» from
    «default» (`collect` builds the dataclasses from them). A `bool` becomes `--name/--no-name`, a tuple repeats.
    """
    import click

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for cls in reversed(classes):
            for k in reversed(list(knobs(cls))):
                dashed = k.name.replace("_", "-")
                short = [f for f in k.flags if "/" not in f and not f.startswith("--")]
                others = [f for f in k.flags if "/" not in f and f.startswith("--")]
                if k.type is bool and not k.many:
                    off = [f" {f}" for f in k.flags if f.startswith("/")]
                    decl = [*short, f"--{dashed}/--no-{dashed}", *others, *off]
                    kind: Any = None
                else:
                    decl = [*short, f"--{dashed}", *others]
                    kind = click.Choice(list(k.choices)) if k.choices else _click_type(k)
                shown = (
                    "" if k.default in (None, (), dataclasses.MISSING) else f"  [default: {_show(k.default)}]"
                )
                unit = f" ({k.unit})" if k.unit else ""
                function = click.option(
                    k.name,
                    *decl,
                    type=kind,
                    default=None if not k.many else (),
                    multiple=k.many,
                    help=f"{k.help}{unit}{shown}",
                    hidden=k.hidden,
                )(function)
        return function

    return decorate


def _click_type(k: Knob) -> Any:
    import click

    if k.type is Path:
        return click.Path(path_type=Path)
    return {int: click.INT, float: click.FLOAT, str: click.STRING}.get(k.type, click.STRING)


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def collect(cls: type, given: Mapping[str, Any]) -> Any:
    """Build a dataclass from the keywords of a command, taking out None and empty tuples, with bounds checked.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` for a value outside its bounds.
    """
    values = {}
    for k in knobs(cls):
        value = given.get(k.name)
        if value is None or (k.many and value == ()):
            continue
        try:
            k.check(value)
        except ValueError as error:
            raise BpError(
                "INPUT_VALIDATION_FAILED", str(error), f"see --help for --{k.name.replace('_', '-')}"
            ) from None
        values[k.name] = value
    return cls(**values)


# ------------------------------------------------------------------------------------- the command line


@dataclasses.dataclass
class Sink:
    """Where a command writes: one JSON object or human text on stdout, notes and progress on stderr.

    Args:
        mode: `human`, `json` (one object, nothing else on stdout) or `quiet` (only what a script needs).
    """

    mode: str = "human"

    def result(self, data: Mapping[str, Any], human: str | Callable[[], str] = "", quiet: str = "") -> None:
        """Print the result of a command, once."""
        if self.mode == "json":
            told = finite({"schema_version": SCHEMA_VERSION, **data})
            text = json.dumps(told, ensure_ascii=False, default=str)
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


def finite(value: Any) -> Any:
    """`value` with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


_SECRETS = (
    (r"(?i)\b([a-z][a-z0-9+.-]+:/{1,2})[^/\s\"']*@", r"\1***@"),  # credentials of a URL
    (r"(?i)([?&](?:[a-z_-]*token|api_?key|key|sig|signature|secret|password)=)[^&\s\"']+", r"\1***"),
    (r"\b(hf_|api_org_|sk-(?:proj-|ant-|or-)?|gh[pousr]_|github_pat_|glpat-)[A-Za-z0-9_-]{16,}", r"\1***"),
    (r"\b(AKIA|ASIA)[0-9A-Z]{16}\b", r"\1***"),
    (r"\b(AIza)[0-9A-Za-z_-]{30,}", r"\1***"),
    (r"\b(xox[abprs]-)[0-9A-Za-z-]{10,}", r"\1***"),
    (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", "***"),  # a JSON web token
)


def hidden(value: Any) -> Any:
    """A text, or nested plain data, without URL credentials and tokens of a known shape.

    >>> hidden("no file https://me:pw@host/x")
    'no file https://***@host/x'
    """
    if isinstance(value, str):
        for pattern, shown in _SECRETS:
            value = re.sub(pattern, shown, value)
        return value
    if isinstance(value, Mapping):
        return {k: hidden(v) for k, v in value.items()}
    if isinstance(value, os.PathLike):
        return hidden(str(value))
    return [hidden(v) for v in value] if isinstance(value, list | tuple) else value


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json` and `-q/--quiet` to a command, which then receives `sink: Sink`."""
    import functools

    import click

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
    @click.option("--quiet", "-q", is_flag=True, help="Print only what a script needs.")
    @functools.wraps(function)
    def wrapper(*args: Any, as_json: bool, quiet: bool, **kwargs: Any) -> Any:
        return function(*args, sink=Sink("json" if as_json else "quiet" if quiet else "human"), **kwargs)

    return wrapper


def printable(text: str) -> str:
    """Text for a terminal: control characters, which a file name may hold, are escaped; lines stay lines."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def render_error(error: Any, *, as_json: bool = False, run_id: str = "") -> str:
    """An error as the user reads it: `[CODE] cause`, a blank line, `hint: command`, the run id."""
    if as_json:
        return json.dumps(
            {"schema_version": SCHEMA_VERSION, "error": hidden(finite(error.to_dict()))},
            ensure_ascii=False,
            default=lambda v: hidden(str(v)),
        )
    lines = [f"[{error.code}] {printable(error.message)}"]
    if error.hint:
        lines += ["", f"hint: {printable(error.hint)}"]
    run_id = run_id or str(getattr(error, "details", {}).get("run_id", ""))
    if run_id:
        lines += [f"run: {run_id}"]
    return hidden("\n".join(lines))


def run_command(command: Any, argv: Sequence[str] | None = None, *, prog_name: str | None = None) -> int:
    """Run a Click command as a program and return its exit code; no error reaches the user as a traceback.

    With `--verbose` or `-v` among the arguments, or BACKPROPAGATE_DEBUG=1, the traceback is printed too. Usage
    errors exit 1, an interrupt 130, out of memory 137. Where the arguments ask for `--json`, an error goes to
    stdout as one JSON object with the key `error` (`INPUT_USAGE` for a usage error), and its rendering to stderr.
    URL credentials and tokens of a known shape are shown as `***`.
    """
    import click

    args = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in args
    verbose = "--verbose" in args or "-v" in args or os.environ.get("BACKPROPAGATE_DEBUG") == "1"
    try:
        code = command.main(args=args, prog_name=prog_name, standalone_mode=False)
        return code if isinstance(code, int) else Exit.OK
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        import io

        shown = io.StringIO()
        error.show(file=shown)
        context = getattr(error, "ctx", None)
        if as_json:
            path = context.command_path if context else prog_name or "backprop"
            coded = BpError("INPUT_USAGE", error.format_message(), f"{path} --help")
            sys.stdout.write(render_error(coded, as_json=True) + "\n")
        sys.stderr.write(hidden(shown.getvalue()))
        return Exit.USER
    except (KeyboardInterrupt, click.Abort):
        clear_status()
        sys.stderr.write("interrupted\n")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of stdout went away: nothing more to say
        return Exit.OK
    except MemoryError:
        lost = BpError("RUNTIME_OUT_OF_MEMORY", "the process ran out of memory")
        if as_json:
            sys.stdout.write(render_error(lost, as_json=True) + "\n")
        sys.stderr.write(render_error(lost) + "\n")
        return lost.exit_code
    except Exception as error:  # noqa: BLE001 - the last line: every error is told, with its exit code
        clear_status()
        if verbose:
            import traceback

            sys.stderr.write(hidden(traceback.format_exc()))
        if not is_coded(error):
            error = BpError(
                "RUNTIME_UNEXPECTED",
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
                "run the same command with --verbose to see where, and report it",
            )
        if as_json:
            sys.stdout.write(render_error(error, as_json=True) + "\n")
        sys.stderr.write(render_error(error) + "\n")
        return int(getattr(error, "exit_code", Exit.RUNTIME))
