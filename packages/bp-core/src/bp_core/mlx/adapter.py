"""A base model in MLX with mlx-lm's LoRA layers on it, and its adapter as PEFT names and stores one.

- mlx-lm keeps A as (in, r) and B as (r, out), PEFT as (r, in) and (out, r): ΔW = s·B·A = s·(ab)ᵀ, the same s.
- A model is taken only where the layers that get an adapter have the same names and shapes here as in transformers:
  what is trained then loads in PEFT, layer by layer.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import torch
import transformers
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model
from peft import LoraConfig
from safetensors.torch import load_file

from bp_core.errors import BpError
from bp_core.models.language import auto_class
from bp_core.models.weights import AdapterWeights
from bp_core.settings.decided import Decided

PREFIX = "base_model.model."  # of PEFT, before the name of a module


@dataclasses.dataclass
class MlxModel:
    """What `load` gives.

    Args:
        net: mlx-lm's model, all of it frozen but A and B.
        config: transformers' configuration of the base.
        generation_config: likewise.
        lora: the adapter as PEFT describes it.
    """

    net: Any
    config: Any
    generation_config: Any
    lora: LoraConfig

    @property
    def layers(self) -> dict[str, LoRALinear]:
        """The layers with an adapter, by name."""
        return {name: m for name, m in self.net.named_modules() if isinstance(m, LoRALinear)}


def load(folder: Path, decided: Decided, dtype: torch.dtype) -> MlxModel:
    """Load a base model in MLX and put an adapter on it at its start, A and B in fp32.

    Args:
        folder: of the model.
        decided: rank, scale, dropout, target modules.
        dtype: of the frozen weights.

    Raises:
        BpError: `DEP_MLX_UNAVAILABLE` where mlx-lm lacks the architecture, or lays its layers out otherwise;
            `CONFIG_TARGET_MODULES` where no module has such a name.
    """
    lora = decided.settings.lora
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    try:
        net, _ = load_model(folder)
    except (ValueError, FileNotFoundError, KeyError, TypeError) as error:
        raise _unknown(kind, f"mlx-lm does not load {kind}: {str(error).splitlines()[0][:160]}") from None
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        theirs = auto_class(config).from_config(config)
    chosen = _chosen(
        {n: tuple(m.weight.shape) for n, m in net.named_modules() if type(m) is nn.Linear}, decided
    )
    wanted = _chosen(
        {n: tuple(m.weight.shape) for n, m in theirs.named_modules() if isinstance(m, torch.nn.Linear)},
        decided,
    )
    if not wanted:
        raise BpError(
            "CONFIG_TARGET_MODULES",
            f"no module is called {', '.join(decided.target_modules)}",
            "add --target-modules all-linear to the command",
        )
    if chosen != wanted or any(isinstance(m, SwitchLinear) for m in net.modules()):
        raise _unknown(kind, f"mlx-lm lays out the layers of {kind} otherwise than transformers")
    net.set_dtype(getattr(mx, str(dtype).removeprefix("torch.")))
    net.freeze()
    scale = decided.alpha / (math.sqrt(decided.rank) if lora.use_rslora else decided.rank)
    shape = {"rank": decided.rank, "scale": scale, "dropout": lora.dropout, "keys": set(chosen)}
    linear_to_lora_layers(net, 0, shape)
    described = LoraConfig(
        r=decided.rank,
        lora_alpha=decided.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=sorted({name.rpartition(".")[2] for name in chosen}),
        use_rslora=lora.use_rslora,
        task_type="CAUSAL_LM",
    )
    try:
        generation = transformers.GenerationConfig.from_pretrained(folder)
    except OSError:
        generation = transformers.GenerationConfig.from_model_config(config)
    return MlxModel(net, config, generation, described)


def _chosen(linear: dict[str, tuple[int, ...]], decided: Decided) -> dict[str, tuple[int, ...]]:
    """Of the linear modules those that get an adapter, by PEFT's rule."""
    if decided.target_modules == ("all-linear",):
        return {n: s for n, s in linear.items() if n.rpartition(".")[2] != "lm_head"}
    return {n: s for n, s in linear.items() if n.rpartition(".")[2] in decided.target_modules}


def _unknown(kind: Any, what: str) -> BpError:
    return BpError("DEP_MLX_UNAVAILABLE", what, "leave --backend mlx out", details={"model_type": kind})


class MlxAdapter(AdapterWeights):
    """The adapter of a `MlxModel`, in PEFT's files."""

    def held(self, model: Any) -> tuple[dict[str, torch.Tensor], Any]:
        """A and B by PEFT's names and shapes, and PEFT's configuration."""
        state = {}
        for name, layer in model.layers.items():
            state[f"{PREFIX}{name}.lora_A.weight"] = tensor(layer.lora_a.T)
            state[f"{PREFIX}{name}.lora_B.weight"] = tensor(layer.lora_b.T)
        return state, dataclasses.replace(model.lora)

    def load(self, model: Any, folder: Path) -> None:
        """Load what `save` wrote, or PEFT did.

        Raises:
            BpError: `STATE_ADAPTER_MISMATCH` where a weight is missing, left over or of another shape.
        """
        stored, own = load_file(folder / "adapter_model.safetensors"), self.held(model)[0]
        wrong = sorted(stored.keys() ^ own.keys()) or sorted(
            n for n in own if stored[n].shape != own[n].shape
        )
        if wrong:
            raise BpError(
                "STATE_ADAPTER_MISMATCH",
                f"{folder}: {len(wrong)} weights are missing, left over or of another shape ({wrong[0]})",
                "train with the rank and target modules that the adapter was trained with",
            )
        for name, layer in model.layers.items():
            layer.lora_a = array(stored[f"{PREFIX}{name}.lora_A.weight"].float()).T
            layer.lora_b = array(stored[f"{PREFIX}{name}.lora_B.weight"].float()).T
        mx.eval(model.net.trainable_parameters())


def tensor(value: mx.array) -> torch.Tensor:
    """The same values, copied."""
    return torch.from_numpy(np.array(value))


def array(value: torch.Tensor) -> mx.array:
    """The same values, copied."""
    return mx.array(value.numpy())
