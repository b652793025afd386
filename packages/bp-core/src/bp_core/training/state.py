"""The training state without pickle: tensors are safetensors, everything else JSON, so that loading it runs no code."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def _split(value: Any, name: str, tensors: dict[str, torch.Tensor], seen: dict[Any, str]) -> Any:
    """A nested state as JSON, its tensors taken out under dotted names; the same one twice under the first (8-bit
    optimizers share a table of levels).
    """
    if isinstance(value, torch.Tensor):
        same = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        name = seen.setdefault(same, name) if value.numel() else name
        tensors[name] = value.detach().contiguous().cpu()
        return {"__tensor__": name}
    if isinstance(value, dict):
        return {"__dict__": [[_key(k), _split(v, f"{name}.{k}", tensors, seen)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {
            "__list__": [_split(v, f"{name}.{i}", tensors, seen) for i, v in enumerate(value)],
            "tuple": isinstance(value, tuple),
        }
    if isinstance(value, np.ndarray):
        return _split(torch.from_numpy(value.copy()), name, tensors, {}) | {"numpy": True}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} of type {type(value).__name__} is no training state")


def _key(key: Any) -> Any:
    if isinstance(key, int | str):
        return key
    raise TypeError(f"a state's key is text or a number, not {key!r}")


def _join(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if "__tensor__" in value:
            tensor = tensors[value["__tensor__"]]
            return tensor.numpy() if value.get("numpy") else tensor
        if "__dict__" in value:
            return {k: _join(v, tensors) for k, v in value["__dict__"]}
        items = [_join(v, tensors) for v in value["__list__"]]
        return tuple(items) if value["tuple"] else items
    return value


def save_state(folder: Path, name: str, state: Any) -> None:
    """Write a nested state (dicts, lists, numbers, text, tensors) as `name.safetensors` and `name.json`."""
    tensors: dict[str, torch.Tensor] = {}
    tree = _split(state, "state", tensors, {})
    save_file(
        {k: v.clone() if v._is_view() else v for k, v in tensors.items()},
        folder / f"{name}.safetensors",
        {"format": "pt"},
    )
    (folder / f"{name}.json").write_text(json.dumps(tree), encoding="utf-8")


def load_state(folder: Path, name: str) -> Any:
    """Read what `save_state` wrote; tensors on the CPU, numbers exactly as they were."""
    tensors = load_file(folder / f"{name}.safetensors")
    return _join(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), tensors)


def random_state() -> dict[str, Any]:
    """The state of every random generator that training draws from."""
    numpy_state = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": list(numpy_state),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = list(torch.cuda.get_rng_state_all())
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put every random generator back."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
