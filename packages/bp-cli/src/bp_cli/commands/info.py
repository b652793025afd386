"""backprop info."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import click
from bp_merge.common import Sink, output_options

# feature → (modules of which one is needed, how to get it)
FEATURES: dict[str, tuple[tuple[str, ...], str]] = {
    "8-bit optimizers": (("bitsandbytes",), "bp-suite[qlora]"),
    "GGUF verification in llama.cpp": (("xllamacpp", "llama_cpp"), "bp-suite[export]"),
    "hf: datasets": (("datasets",), "bp-suite[hub]"),
    "zstd datasets": (("zstandard",), "bp-data[zstd]"),
    "tracker wandb": (("wandb",), "bp-suite[logging]"),
    "tracker tensorboard": (("tensorboard",), "bp-suite[monitoring]"),
    "tracker mlflow": (("mlflow",), "bp-suite[tracking]"),
    "tracker trackio": (("trackio",), "bp-suite[tracking]"),
}


@click.command(
    epilog="\b\nExamples:\n  backprop info\n  backprop info tiny\n  backprop info --json > info.json\n"
)
@click.argument("model", required=False)
@click.option(
    "--error-codes", is_flag=True, help="Print every error code: its meaning, what mends it, its exit code."
)
@click.option("--env-vars", is_flag=True, help="Print the BACKPROPAGATE_… variables of this process.")
@click.option(
    "--subcommand-tiers", is_flag=True, help="Print which verbs are stable, and what stands for which."
)
@output_options
@click.pass_context
def info(
    ctx: click.Context,
    sink: Sink,
    model: str | None,
    error_codes: bool,
    env_vars: bool,
    subcommand_tiers: bool,
) -> None:
    """Versions, hardware, and what works here; with MODEL, what is there of that model."""
    from bp_cli.shared import set_up_logs
    from bp_cli.text import table

    if error_codes:
        from bp_cli.codes import rows

        found = sorted(rows(), key=lambda r: r.code)
        told: dict[str, Any] = {}
        for r in found:
            first = told.setdefault(
                r.code, {"meaning": r.meaning, "mend": r.mend, "exit_code": r.exit_code, "packages": []}
            )
            first["packages"].append(r.package)
        sink.result(
            {"error_codes": told},
            lambda: table(
                [(c, str(k["exit_code"]), k["meaning"], k["mend"]) for c, k in told.items()],
                ("code", "exit", "meaning", "mend"),
            ),
            quiet="\n".join(told),
        )
        return
    if subcommand_tiers:
        from bp_cli.root import ALIASES, COMMANDS, EXPERIMENTAL

        tiers = {
            name: {
                "tier": "experimental" if name in EXPERIMENTAL else "stable",
                "help": text,
                "stands_for": name,
            }
            for name, (_, text) in COMMANDS.items()
        } | {
            name: {"tier": "alias", "help": COMMANDS[real][1], "stands_for": real}
            for name, real in ALIASES.items()
        }
        sink.result(
            {"subcommands": tiers},
            lambda: table([(n, t["tier"], t["help"]) for n, t in tiers.items()], ("verb", "tier", "")),
            quiet="\n".join(tiers),
        )
        return
    if env_vars:
        from bp_core.support.redact import redact

        ours = redact({k: v for k, v in sorted(os.environ.items()) if k.startswith("BACKPROPAGATE_")})
        sink.result(
            {"env_vars": ours},
            lambda: table([(k, v) for k, v in ours.items()]) or "no BACKPROPAGATE_… variable is set",
            quiet="\n".join(ours),
        )
        return
    if model is not None:
        facts = _model(model)
        sink.result(
            facts,
            lambda: table([(k.replace("_", " "), _text(v)) for k, v in facts.items()]),
            quiet=facts["path"],
        )
        return
    from bp_core.support import logs
    from bp_core.support.environment import collect

    set_up_logs(ctx.obj or {})
    here = collect(Path.cwd())
    features = {
        name: any(importlib.util.find_spec(m) for m in modules) for name, (modules, _) in FEATURES.items()
    }
    here.pop("command")
    data = {**here, "features": features, "logging": logs.settings(), "advice": _advice(here)}
    sink.result(data, lambda: _human(data), quiet=here["packages"].get("bp-core", ""))


def _model(ref: str) -> dict[str, Any]:
    from bp_core.memory.source import find_base

    base = find_base(ref)
    weights = sorted(base.path.glob("*.safetensors"))
    return {
        "model": ref,
        "source": base.source,
        "revision": base.revision,
        "path": base.path.as_posix(),
        "configuration": (base.path / "config.json").is_file(),
        "tokenizer": (base.path / "tokenizer.json").is_file(),
        "weights_bytes": sum(f.stat().st_size for f in weights),
        "chat_template": (base.path / "chat_template.jinja").is_file()
        or "chat_template" in _read(base.path / "tokenizer_config.json"),
    }


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _advice(here: dict[str, Any]) -> list[str]:
    torch = here["packages"].get("torch", "")
    if here["gpus"] and "+cpu" in torch:
        return [f"there is a card, but torch {torch} is a CPU build: install a CUDA build of torch"]
    if not here["gpus"]:
        return [
            "no NVIDIA card: training runs on the CPU; `backprop quickstart` shows it with the embedded model"
        ]
    return []


def _human(data: dict[str, Any]) -> str:
    from bp_cli.text import size, table

    rows = [
        ("python", f"{data['python']} on {data['system']} {data['machine']}"),
        ("processor", f"{data['processor']}, {data['cores']} cores"),
        ("memory", f"{size(data['memory_free'])} free of {size(data['memory_total'])}"),
        ("disk", f"{size(data['disk_free'])} free here"),
        *(("card", f"{g['name']}, {size(g['memory_total'])}, driver {g['driver']}") for g in data["gpus"]),
    ]
    versions = [(name, version) for name, version in data["packages"].items()]
    works = [
        (name, "yes" if there else f'no: pip install "{FEATURES[name][1]}"')
        for name, there in data["features"].items()
    ]
    return "\n\n".join([table(rows), table(versions), table(works), *data["advice"]])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
