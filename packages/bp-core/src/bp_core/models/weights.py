"""What is trained, saved and loaded: the weights of an adapter.

- A checkpoint, the delivered directory, the best weights of a run and the model that answers are written and read by the
  same calls, so that the step, the end of a run and generation do not know what kind of weights they hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from bp_merge.common import BpError
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn


class Weights(Protocol):
    """The trained weights of a model, on disk.

    Attributes:
        file: the safetensors file that holds them.
    """

    file: str

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write them into `folder`."""
        ...

    def load(self, model: nn.Module, folder: Path) -> None:
        """Load what `save` wrote."""
        ...

    def on(self, model: nn.Module, folder: Path) -> Any:
        """A base model with what `save` wrote on it, to answer with."""
        ...

    def name_base(self, model: nn.Module, ref: str, revision: str | None) -> None:
        """Let what `save` writes say which base model it belongs to, where that is not the whole of it."""
        ...

    def finite(self, folder: Path) -> bool:
        """Whether every value that `save` wrote is finite."""
        ...


class AdapterWeights:
    """A PEFT adapter: its own weights alone, and its configuration."""

    file = "adapter_model.safetensors"

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write a PEFT adapter as PEFT does, without its model card and without asking a hub for anything."""
        if not isinstance(model, PeftModel):
            raise TypeError(f"expected a PEFT model, not {type(model).__name__}")
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        save_file(
            {k: v.detach().contiguous().cpu() for k, v in sorted(state.items())},
            folder / self.file,
            {"format": "pt"},
        )
        config: Any = model.peft_config[model.active_adapter]  # type: ignore[index]
        inference, config.inference_mode = config.inference_mode, True
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)  # a set has no stable order
        config.save_pretrained(str(folder))
        config.inference_mode = inference
        # safetensors writes for the owner alone; a server that runs as another user must read the adapter too
        (folder / self.file).chmod((folder / "adapter_config.json").stat().st_mode & 0o777)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Load what `save` wrote into the active adapter.

        Raises:
            BpError: `STATE_ADAPTER_MISMATCH` where a weight is missing, left over or of another shape.
        """
        try:
            outcome = set_peft_model_state_dict(model, load_file(folder / self.file))
        except (RuntimeError, ValueError, KeyError) as error:
            raise BpError(
                "STATE_ADAPTER_MISMATCH",
                f"{folder}: {str(error).splitlines()[0]}",
                "train with the settings that the adapter was trained with",
            ) from None
        missing = [k for k in outcome.missing_keys if "lora_" in k or "modules_to_save" in k]
        if outcome.unexpected_keys or missing:
            raise BpError(
                "STATE_ADAPTER_MISMATCH",
                f"{folder}: {len(missing)} weights missing, {len(outcome.unexpected_keys)} left over "
                f"({(missing + list(outcome.unexpected_keys))[0]})",
                "train with the rank and target modules that the adapter was trained with",
            )

    def on(self, model: nn.Module, folder: Path) -> Any:
        """A base model with the adapter of `folder` on it, as PEFT reads it."""
        return PeftModel.from_pretrained(model, str(folder))  # type: ignore[arg-type]

    def name_base(self, model: nn.Module, ref: str, revision: str | None) -> None:
        """Set what `adapter_config.json` says of the base model."""
        config: Any = model.peft_config[model.active_adapter]  # type: ignore[index]
        config.base_model_name_or_path, config.revision = ref, revision

    def finite(self, folder: Path) -> bool:
        """Whether every value of the adapter is finite."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in load_file(folder / self.file).values())
