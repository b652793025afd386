"""backprop doctor: what would stop a run on this machine, and the command that mends each."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from bp_merge.common import Exit, Sink, output_options

MARKS = {"ok": "ok", "warning": "warn", "problem": "FAIL", "absent": "-"}
# torch's CUDA build → the oldest Linux driver that runs it (NVIDIA's table of minor-version compatibility)
DRIVERS = {"11": 450, "12": 525, "13": 580}
ROOM = 20e9  # bytes: a 7 B model at 16 bits and its exports


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `state` is ok, warning, problem or absent (optional, not there); `mend` a command."""

    name: str
    state: str
    told: str
    mend: str = ""


def findings(here: Path, *, nvml: Any = None) -> Iterator[Finding]:
    """Look at the interpreter, versions, card and driver, memory, disk, settings, export runtimes and Ollama."""
    from bp_core.support.environment import disk_room, gpus, memory_room, versions

    found = versions()
    yield _python()
    for name in ("torch", "transformers", "peft", "trl"):
        if name not in found:
            yield Finding(name, "problem", "not installed", 'pip install "bp-core"')
    cards = gpus(nvml=nvml)
    yield from _card(cards, found.get("torch", ""))
    yield from _room("memory", memory_room().free, 4e9, "close other programs")
    yield from _room("disk", disk_room(here).free, ROOM, "backprop runs")
    yield _settings()
    yield _store(here)
    if cards and importlib.util.find_spec("bitsandbytes") is None:
        yield Finding("bitsandbytes", "warning", "4-bit bases need it", 'pip install "bp-core[qlora]"')
    runtime = next((m for m in ("xllamacpp", "llama_cpp") if importlib.util.find_spec(m)), None)
    yield (
        Finding("llama.cpp runtime", "ok", f"{runtime}: exported GGUF files are compared with the model")
        if runtime
        else Finding(
            "llama.cpp runtime",
            "absent",
            "GGUF exports are checked without running them",
            'pip install "bp-export[verify]"',
        )
    )
    yield Finding("GGUF converter", "ok", "built in: no llama.cpp checkout is needed")
    yield _ollama()
    yield _hub()


def _python() -> Finding:
    told = ".".join(map(str, sys.version_info[:3]))
    fine = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding("Python", "ok" if fine else "problem", told, "" if fine else "uv python install 3.12")


def _card(cards: list[dict[str, Any]], torch: str) -> Iterator[Finding]:
    if not cards:
        yield Finding("card", "absent", "no NVIDIA card or driver: training runs on the CPU")
        return
    for card in cards:
        size = f"{card['memory_total'] / 1e9:.0f} GB" if card["memory_total"] else "memory unknown"
        yield Finding("card", "ok", f"{card['name']}, {size}, driver {card['driver']}")
    if not torch:
        return
    build = torch.partition("+")[2]
    if build == "cpu":
        yield Finding(
            "torch",
            "problem",
            f"{torch} cannot use the card: it is a CPU build",
            "uv pip install --reinstall torch --torch-backend auto",
        )
        return
    series = build[2:4] if build.startswith("cu") else ""
    needed = DRIVERS.get(series)
    driver = int(str(cards[0]["driver"]).partition(".")[0] or 0)
    if needed and driver < needed:
        yield Finding(
            "torch",
            "problem",
            f"{torch} needs driver {needed} or newer; {cards[0]['driver']} is installed",
            "uv pip install --reinstall torch --torch-backend auto",
        )
    else:
        yield Finding("torch", "ok", torch)


def _room(name: str, free: int | None, wanted: float, mend: str) -> Iterator[Finding]:
    if free is None:
        yield Finding(name, "warning", "cannot be told here")
        return
    told = f"{free / 1e9:.1f} GB free"
    fine = free >= wanted
    yield Finding(
        name,
        "ok" if fine else "warning",
        told if fine else f"{told}; {wanted / 1e9:.0f} GB are of use for a 7 B model",
        "" if fine else mend,
    )


def _settings() -> Finding:
    from bp_core.settings.resolve import resolve
    from bp_merge.common import BpError

    try:
        settings = resolve()
    except BpError as error:
        return Finding("settings", "problem", error.message, error.hint)
    changed = [name for name, source in settings.sources.items() if not source.startswith("default")]
    return Finding(
        "settings", "ok", f"{len(changed)} changed" + (f": {', '.join(changed[:5])}" if changed else "")
    )


def _store(here: Path) -> Finding:
    from bp_core.runs.store import RunStore
    from bp_merge.common import BpError

    try:
        found = RunStore(here).list()
    except BpError as error:
        return Finding("runs", "problem", error.message, error.hint)
    crashed = [r.run_id for r in found if r.status == "crashed" and r.kind == "train"]
    if crashed:
        return Finding(
            "runs",
            "warning",
            f"{len(crashed)} ended by a crash",
            f"backprop resume {crashed[0]}{RunStore(here).flag}",
        )
    return Finding("runs", "ok", f"{len(found)} recorded in {here}")


def _ollama() -> Finding:
    from bp_export.ollama.client import Ollama
    from bp_merge.common import is_coded

    try:
        version = Ollama().version()
    except Exception as error:
        if not is_coded(error):
            raise
        return Finding("Ollama", "absent", str(getattr(error, "message", error)), "ollama serve")
    return Finding("Ollama", "ok", f"version {version} answers")


def _hub() -> Finding:
    import os

    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return Finding(
            "Hub", "warning", "HF_HUB_OFFLINE is set: only what is cached is found", "unset HF_HUB_OFFLINE"
        )
    token = bool(os.environ.get("HF_TOKEN")) or (Path.home() / ".cache" / "huggingface" / "token").is_file()
    return Finding(
        "Hub", "ok", "a token is there" if token else "no token: public models only (hf auth login)"
    )


@click.command(epilog="\b\nExamples:\n  backprop doctor\n  backprop doctor --json\n")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default="output",
    show_default=True,
    help="Folder that holds runs.db.",
)
@output_options
@click.pass_context
def doctor(ctx: click.Context, sink: Sink, output: Path) -> None:
    """Look for what would stop a run on this machine; each finding comes with the command that mends it.

    Exits 1 where there is a problem. Asks only this machine; nothing is sent anywhere.
    """
    from bp_cli.text import table

    found = list(findings(output))
    problems = [f for f in found if f.state == "problem"]

    def human() -> str:
        rows = table([(MARKS[f.state], f.name, f.told) for f in found])
        mends = [(f.name, f.mend) for f in found if f.mend and f.state != "ok"]
        return rows + (f"\n\nto mend:\n{table(mends)}" if mends else "")

    sink.result(
        {"ok": not problems, "findings": [asdict(f) for f in found]},
        human,
        quiet="\n".join(f.name for f in problems),
    )
    if problems:
        ctx.exit(Exit.USER)
