"""What is trained, saved and loaded: the weights of an adapter, or the whole model.

- A checkpoint, the delivered directory, the best weights of a run and the model that answers are written and read by the
  same calls, so that the step, the end of a run and generation do not know what kind of weights they hold.
- A checkpoint holds them as they are trained; what is delivered is what other tools load.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from bp_export.adapter.base import ResolvedBase
from bp_merge.common import BpError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig

from bp_core.models.peft_quietly import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

SHARD = "5GB"  # of a delivered model


class Weights(Protocol):
    """The trained weights of a model, on disk.

    Attributes:
        folder: name of the delivered directory in a run's.
        rounded: what delivering rounded, "float32 → bfloat16"; "" where it wrote the very values that were trained.
    """

    folder: str
    rounded: str

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write them into `folder`, as they are trained."""
        ...

    def load(self, model: nn.Module, folder: Path) -> None:
        """Load what `save` wrote."""
        ...

    def deliver(self, model: nn.Module, folder: Path, base: ResolvedBase) -> None:
        """Write what other tools load, with the base model it belongs to; the model in memory is the same from now on."""
        ...

    def finite(self, folder: Path) -> bool:
        """Whether every value that was written into `folder` is finite."""
        ...


class AdapterWeights:
    """A PEFT adapter: its own weights alone, and its configuration.

    Args:
        start: A and B at the start, by name, where the initialisation took their product out of the base weights.
    """

    folder = "adapter"
    rounded = ""

    def __init__(self, start: Mapping[str, torch.Tensor] | None = None) -> None:
        self.start = start

    @classmethod
    def of(cls, model: PeftModel) -> AdapterWeights:
        """Of a fresh adapter, before anything is loaded into it."""
        state, config = _adapter(model)
        if not changes_base(config.init_lora_weights):
            return cls()
        return cls(
            {k: v.detach().clone().cpu() for k, v in state.items() if ".lora_A." in k or ".lora_B." in k}
        )

    def held(self, model: nn.Module) -> tuple[dict[str, torch.Tensor], Any]:
        """State and configuration of the adapter, by PEFT's names."""
        return _adapter(model)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write a PEFT adapter as PEFT does, without its model card and without asking a hub for anything."""
        _write(folder, *self.held(model))

    def load(self, model: nn.Module, folder: Path) -> None:
        """Load what `save` wrote into the active adapter.

        Raises:
            BpError: `STATE_ADAPTER_MISMATCH` where a weight is missing, left over or of another shape.
        """
        try:
            outcome = set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
        except (RuntimeError, ValueError, KeyError) as error:
            raise BpError(
                "STATE_ADAPTER_MISMATCH",
                f"{folder}: {str(error).splitlines()[0]}",
                "train with the settings that the adapter was trained with",
            ) from None
        active = f".{model.active_adapter}"  # another adapter of the model is not asked for
        missing = [
            k for k in outcome.missing_keys if active in k and ("lora_" in k or "modules_to_save" in k)
        ]
        if outcome.unexpected_keys or missing:
            raise BpError(
                "STATE_ADAPTER_MISMATCH",
                f"{folder}: {len(missing)} weights missing, {len(outcome.unexpected_keys)} left over "
                f"({(missing + list(outcome.unexpected_keys))[0]})",
                "train with the rank and target modules that the adapter was trained with",
            )

    def deliver(self, model: nn.Module, folder: Path, base: ResolvedBase) -> None:
        """Write the adapter; its `adapter_config.json` names a base model that plain PEFT can load.

        Where the start was taken out of the base, W₀ = W − s·B₀A₀, the model is W + s·(BA − B₀A₀): what is written is the
        adapter [B, −B₀], [A; A₀] of the unchanged W, at rank 2r with the scale kept.
        """
        state, config = self.held(model)
        config.base_model_name_or_path = base.ref if base.source == "hub" else str(base.path)
        config.revision = base.revision
        if self.start is not None:
            state = {name: _beside(name, tensor, self.start.get(name)) for name, tensor in state.items()}
            config = _doubled(config)
        _write(folder, state, config)

    def finite(self, folder: Path) -> bool:
        """Whether every value of the adapter is finite."""
        return _finite(folder / "adapter_model.safetensors")


class WholeModel:
    """Every weight of a model. It is trained in fp32 and delivered in the number format that the base was published in."""

    folder = "model"

    def __init__(self) -> None:
        self.rounded = ""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write every parameter and buffer once, under the names of the modules; tied ones share a name."""
        tensors = {name: t.detach().contiguous().cpu() for name, t in _untied(model).items()}
        save_file(tensors, folder / "weights.safetensors", {"format": "pt"})

    def load(self, model: nn.Module, folder: Path) -> None:
        """Load what `save` wrote.

        Raises:
            BpError: `STATE_ADAPTER_MISMATCH` where a weight is missing, left over or of another shape.
        """
        own = _untied(model)
        with safe_open(folder / "weights.safetensors", framework="pt") as stored:
            names = set(stored.keys())
            wrong = sorted(names ^ own.keys()) or sorted(
                n for n in names if tuple(stored.get_slice(n).get_shape()) != tuple(own[n].shape)
            )
            if wrong:
                raise BpError(
                    "STATE_ADAPTER_MISMATCH",
                    f"{folder} holds another model: {len(wrong)} weights differ, the first is {wrong[0]}",
                    "go on with the base model that the run began with",
                )
            with torch.no_grad():
                for name, tensor in own.items():
                    tensor.copy_(stored.get_tensor(name))

    def deliver(self, model: nn.Module, folder: Path, base: ResolvedBase) -> None:
        """Write a model directory as transformers does, in the base's number format; memory holds the same values then."""
        whole: Any = model
        stored: Any = AutoConfig.from_pretrained(base.path).get_text_config().dtype or torch.float32
        trained = next(p.dtype for p in whole.parameters() if p.is_floating_point())
        if stored != trained:
            with torch.no_grad():
                for parameter in whole.parameters():
                    parameter.copy_(parameter.to(stored))
            self.rounded = f"{_name(trained)} → {_name(stored)}"
        cast: dict[int, torch.Tensor] = {}  # by storage: what is tied stays tied
        state = {
            name: cast.setdefault(t.data_ptr(), t.to(stored) if t.dtype is trained else t)
            for name, t in whole.state_dict().items()
        }
        kept = whole.config.use_cache
        whole.config.use_cache = True
        whole.save_pretrained(folder, state_dict=state, max_shard_size=SHARD)
        whole.config.use_cache = kept
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for part in (config, *(v for v in config.values() if isinstance(v, dict) and "dtype" in v)):
            part["dtype"] = _name(stored)  # transformers names that of memory
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for file in folder.glob("*.safetensors"):  # whoever reads the configuration reads the weights
            file.chmod((folder / "config.json").stat().st_mode & 0o777)

    def finite(self, folder: Path) -> bool:
        """Whether every value of the model is finite."""
        return all(_finite(file) for file in folder.glob("*.safetensors"))


def changes_base(start: Any) -> bool:
    """Whether an initialisation, as PEFT names it, changes the base weights."""
    return isinstance(start, str) and start.startswith(("pissa", "olora"))


def _adapter(model: nn.Module) -> tuple[dict[str, torch.Tensor], Any]:
    """State and configuration of the active adapter."""
    if not isinstance(model, PeftModel):
        raise TypeError(f"expected a PEFT model, not {type(model).__name__}")
    config: Any = copy.copy(model.peft_config[model.active_adapter])  # type: ignore[index]
    return get_peft_model_state_dict(model, save_embedding_layers=False), config


def _write(folder: Path, state: Mapping[str, torch.Tensor], config: Any) -> None:
    """Write a PEFT adapter as PEFT does, without its model card and without asking a hub for anything."""
    file = folder / "adapter_model.safetensors"
    save_file({k: v.detach().contiguous().cpu() for k, v in sorted(state.items())}, file, {"format": "pt"})
    config.inference_mode = True
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # a set has no stable order
    config.save_pretrained(str(folder))
    # safetensors writes for the owner alone; a server that runs as another user must read the adapter too
    file.chmod((folder / "adapter_config.json").stat().st_mode & 0o777)


def _beside(name: str, tensor: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
    """[A; A₀] or [B, −B₀]; whatever else as it is."""
    if start is None:
        return tensor
    tensor = tensor.detach().cpu()
    return torch.cat([tensor, start], 0) if ".lora_A." in name else torch.cat([tensor, -start], 1)


def _doubled(config: Any) -> Any:
    """The configuration at twice the rank with the same scale, for an adapter that is complete as it lies."""
    grown = math.sqrt(2) if config.use_rslora else 2
    config.r, config.lora_alpha = 2 * config.r, config.lora_alpha * grown
    config.init_lora_weights = True
    return config


def _untied(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor of a model under its first name."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        found.setdefault(tensor.data_ptr() if tensor.numel() else -len(found) - 1, (name, tensor))
    return dict(found.values())


def _finite(file: Path) -> bool:
    with safe_open(file, framework="pt") as opened:
        return all(bool(torch.isfinite(opened.get_tensor(name)).all()) for name in opened.keys())  # noqa: SIM118


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
