"""backprop info."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import click
from bp_merge.common import Sink, output_options

from bp_cli.text import table

# what a capability needs, and how it is installed
EXTRAS: dict[str, tuple[str, str]] = {
    "qlora (4-bit bases, 8-bit optimizers)": ("bitsandbytes", "pip install 'bp-suite[qlora]'"),
    "liger (fused loss on CUDA)": ("liger_kernel", "pip install 'bp-suite[liger]'"),
    "llama.cpp check of exports": ("xllamacpp", "pip install 'bp-suite[export]'"),
    "hf: datasets": ("datasets", "pip install 'bp-suite[hub]'"),
    "wandb": ("wandb", "pip install 'bp-suite[logging]'"),
    "tensorboard": ("tensorboard", "pip install 'bp-suite[monitoring]'"),
}


@click.command(epilog="\b\nExamples:\n  backprop info\n  backprop info --json\n")
@output_options
def info(sink: Sink) -> None:
    """Versions, hardware, and what works on this machine."""
    import torch
    from bp_core.environment import collect

    facts: dict[str, Any] = collect(Path.cwd())
    there = {name: importlib.util.find_spec(module) is not None for name, (module, _) in EXTRAS.items()}
    there["liger (fused loss on CUDA)"] &= torch.cuda.is_available()

    def human() -> str:
        gpus = [(g.get("name", "card"), f"{g.get('memory_total', 0) / 1e9:.1f} GB") for g in facts["gpus"]]
        rows = [
            ("system", f"{facts['system']} {facts['release']}, Python {facts['python']}"),
            ("processor", f"{facts['processor']}, {facts['cores']} cores"),
            (
                "memory",
                f"{(facts['memory_total'] or 0) / 1e9:.1f} GB, {(facts['memory_free'] or 0) / 1e9:.1f} GB free",
            ),
            ("disk", f"{(facts['disk_free'] or 0) / 1e9:.1f} GB free"),
            *(("card", f"{name}, {size}") for name, size in gpus),
            *([] if gpus else [("card", "none: training runs on the CPU")]),
        ]
        versions = [(name, str(version)) for name, version in facts["packages"].items()]
        extras = [(name, "yes" if there[name] else f"no   {EXTRAS[name][1]}") for name in EXTRAS]
        return "\n\n".join([table(rows), table(versions), table(extras)])

    sink.result({"environment": facts, "capabilities": there}, human)
