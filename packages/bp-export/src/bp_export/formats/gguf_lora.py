"""The adapter alone as a GGUF file: llama.cpp adds it to the base when it runs, and Ollama with ADAPTER."""

from __future__ import annotations

import math
import re
from typing import Any

from bp_merge.adapter import Adapter
from bp_merge.checkpoint import Checkpoint

from bp_export.adapter.base import has_weights
from bp_export.adapter.directory import weights_shape
from bp_export.adapter.inputs import Inputs
from bp_export.errors import BpError
from bp_export.formats.description import general_keys
from bp_export.formats.estimate import make_plan
from bp_export.formats.places import gguf_path, unchecked
from bp_export.formats.prepared import Prepared, Progress, Tell, Written
from bp_export.formats.readback import check_gguf_lora
from bp_export.formats.settings import ExportSettings
from bp_export.gguf.lora import check_expressible, write_gguf_lora


def prepare_gguf_lora(inputs: Inputs, s: ExportSettings, reserve: int) -> Prepared:
    """Decide the adapter's own GGUF file; nothing is written.

    Raises:
        BpError: `INPUT_ADAPTER_NOT_EXPRESSIBLE`, `INPUT_WRONG_BASE`.
    """
    config, general = inputs.config(), general_keys(inputs)
    path = gguf_path(inputs, s, "LoRA")
    tensors, parameters = weights_shape(inputs.root)
    adapter = Adapter.load(inputs.root)
    check_expressible(adapter)
    _check_modules(inputs, adapter, int(config.get("num_hidden_layers") or 0))
    plan = make_plan(
        path,
        kind="lora",
        output_bytes=parameters * 4,
        tensors=tensors,
        parameters=parameters,
        extra_bytes=_scratch_bytes(inputs) if s.verify else 0,
        reserve_bytes=reserve,
        steps=(
            "write the adapter's pairs in llama.cpp's order",
            "read back",
            *(("run in llama.cpp on the base, beside the merged model",) if s.verify else ()),
        ),
    )

    def write(reference: Any, tell: Tell, _progress: Progress) -> Written:
        staging = unchecked(path)
        write_gguf_lora(adapter, config, staging, general=general)
        written = check_gguf_lora(inputs, s, staging, path, adapter, config, reference, tell)
        staging.replace(path)
        return written

    return Prepared(path, "f32", plan, write, path.with_suffix(".export.json"))


def _check_modules(inputs: Inputs, adapter: Any, layers: int) -> None:
    """Every module must be one of the base, of the same shape where the base's weights lie here.

    Raises:
        BpError: `INPUT_WRONG_BASE`.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    if has_weights(inputs.base.path):
        with Checkpoint.open(inputs.base.path) as base:
            shapes = {n.removesuffix(".weight"): tuple(base.info(n).shape) for n in base.names}
    for name, module in adapter.modules.items():
        layer = re.search(r"\.layers\.(\d+)\.", f".{name}")
        beyond = layer is not None and 0 < layers <= int(layer.group(1))
        tail = name.rsplit("layers.", 1)[-1]
        here = next((s for n, s in shapes.items() if n == name or n.endswith(f".{tail}")), None)
        wanted = (module.b.shape[0], module.a.shape[1])
        if beyond or (shapes and (here is None or sorted(here) != sorted(wanted))):
            told = (
                f"has no {name}"
                if beyond or here is None
                else f"has {name} as {here}, the adapter as {wanted}"
            )
            raise BpError(
                "INPUT_WRONG_BASE",
                f"the base {inputs.base.ref} {told}",
                f"name the model that the adapter was trained on: --base-model {inputs.base.ref}",
            )


def _scratch_bytes(inputs: Inputs) -> int:
    """Bytes of the base and of the merged model as f32 files."""
    with Checkpoint.open(inputs.base.path) as base:
        return 8 * sum(math.prod(base.info(n).shape) for n in base.names)
