"""PEFT LoRA adapters: read, checked, written, without torch.

- The tensors in the file are the truth; the configuration gives scales and must not contradict them.
- A configuration key that is not known to leave ΔW = s·B·A as it is, or to be carried, is refused (an allow-list).
- Modules are read from the file when they are asked for, so that memory is a module and not an adapter.
- s = α/r, or α/√r for rsLoRA; rank and alpha patterns are looked up independently, the first key that matches wins.
- Saving is `bp_merge.adapter_folder`'s: plain scaling, the same ΔW in PEFT.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bp_merge.adapter_folder import CONFIG, PREFIX, WEIGHTS, write_adapter
from bp_merge.adapter_place import invalid, refuse_no_folder
from bp_merge.casts import FLOATS, to_f32
from bp_merge.common import BpError
from bp_merge.experts import cached, expert_parts, pattern_key
from bp_merge.lora_module import LazyModules, LoraModule
from bp_merge.stfile import Reader, TensorInfo, read_header, read_json

# keys that change nothing, or that this module reads; every other key must be null, false or empty
# merge_weights (PEFT < 0.4) says what evaluation does with a loaded adapter, nothing about what was saved;
# megatron_core names a module that only megatron_config, which is refused, would use
_KNOWN = frozenset(
    [
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_bias",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "merge_weights",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "target_parameters",
        "task_type",
        "trainable_token_indices",
        "use_dora",
        "use_rslora",
        "velora_config",
    ]
)
_INITS = (True, False, "gaussian", "orthogonal", "eva", "mica", "lora_ga_converted", None)
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.[^.]+)?\.(?P<what>weight|bias)")
_EMBEDDING = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<side>[AB])(?:\.[^.]+)?")
_MAGNITUDE = re.compile(r"(?P<module>.+)\.lora_magnitude_vector(?:\.[^.]+)*")
_TOKENS = re.compile(r"(?P<module>.+?)(?:\.token_adapter)?\.trainable_tokens_delta(?:\.[^.]+)?")
_COPY = re.compile(r"\.modules_to_save(?:\.[^.]+(?=\.))?\.")  # the adapter's own name may follow
_BEFORE = re.compile(r"\.original_module\.")
_WRAPPERS = re.compile(r"(?:\.token_adapter|\.base_layer)+\.")


def _unsupported(path: Path | str, why: str) -> BpError:
    return BpError(
        "INPUT_ADAPTER_UNSUPPORTED", f"{path}: {why}", f"see what it holds: bp-merge inspect {path}"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter.

    Attributes:
        modules: module name → `LoraModule`, names sorted.
        config: adapter_config.json.
        full: whole tensors by their name in the model (`modules_to_save`, trained biases, an embedding's own weight).
        tokens: embedding module → trained rows (k, hidden); their indices are `trainable_token_indices` in `config`.
        path: the folder it came from, or None.
    """

    modules: Mapping[str, LoraModule]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    full: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    tokens: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Adapter:
        """Open a PEFT adapter folder.

        Raises:
            BpError: `INPUT_ADAPTER_INVALID` (files missing or contradictory), `INPUT_ADAPTER_UNSUPPORTED` (an unknown
                key, a base-changing initialisation, convolutions), `INPUT_FILE_INVALID` (a broken
                file); reading a module: `INPUT_NOT_FINITE`.
        """
        return _load(cls, Path(path))

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write an adapter folder that PEFT reloads with the same ΔW; atomic: it appears whole.

        Args:
            path: the folder to make.
            force: replace it where it exists.

        Raises:
            BpError: `INPUT_PATH_EXISTS`, `INPUT_NOT_FINITE`.
        """
        return write_adapter(
            path,
            list(self.modules),
            (self.modules[n] for n in self.modules),
            self.config,
            full=self.full,
            tokens=self.tokens,
            source=self.path,
            force=force,
        )


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """S of a module by the configuration, given the rank of its stored A.

    Example:
        r 4, lora_alpha 8, alpha_pattern {"q_proj": 16}: "layers.0.q_proj" of rank 4 has s = 4, "layers.0.v_proj" 2.
    """
    alpha = float(_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(patterns: Any, module: str, default: Any) -> Any:
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(folder / CONFIG)
    except FileNotFoundError:
        raise invalid(folder, f"there is no {CONFIG}") from None
    except (OSError, ValueError) as error:
        raise invalid(folder, f"{CONFIG} cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise invalid(folder, f"{CONFIG} is no object")
    if config.get("peft_type") != "LORA":
        raise _unsupported(folder, f"peft_type is {config.get('peft_type')!r}, not LORA")
    for key, value in config.items():
        if key not in _KNOWN and value not in (None, False, {}, [], ""):
            raise _unsupported(folder, f"{key} = {value!r} changes what the adapter computes, or is unknown")
    targets = config.get("target_modules")
    if not (targets is None or isinstance(targets, str) or _texts(targets)):
        raise invalid(folder, "target_modules is neither a text nor a list of texts")
    if not (config.get("target_parameters") is None or _texts(config["target_parameters"])):
        raise invalid(folder, "target_parameters is no list of texts")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str):
        init = init.lower()
    if init not in _INITS:
        raise _unsupported(
            folder,
            f"init_lora_weights = {init!r} changed the base model; convert it when saving: "
            "save_pretrained(…, path_initial_model_for_weight_conversion=…)",
        )
    numbers = [config.get("r", 8), config.get("lora_alpha", 8)]
    for key in ("rank_pattern", "alpha_pattern"):
        found = config.get(key) or {}
        if not isinstance(found, dict):
            raise invalid(folder, f"{key} is no object")
        numbers += found.values()
        for pattern in found:
            try:
                re.compile(pattern)
            except re.error:
                raise invalid(folder, f"{key}: {pattern!r} is no regular expression") from None
    if not all(type(n) in (int, float) and abs(n) < 1e18 for n in numbers):  # false for NaN
        raise invalid(folder, "r, lora_alpha and the patterns must be finite numbers")
    return config


def _texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, str) for v in values)


def _load(cls: type[Adapter], folder: Path) -> Adapter:
    refuse_no_folder(folder)
    config = _read_config(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise invalid(folder, f"there is no {WEIGHTS}" + (" (a pickle is not read)" if pickled else ""))
    infos, _ = read_header(weights)
    parts: dict[str, dict[str, TensorInfo]] = collections.defaultdict(dict)
    full: dict[str, TensorInfo] = {}
    copies: dict[str, TensorInfo] = {}
    tokens: dict[str, TensorInfo] = {}
    for key, info in infos.items():
        if info.dtype not in FLOATS:
            raise _unsupported(folder, f"{key} has the number type {info.dtype}")
        name = key.removeprefix(PREFIX)
        if found := _LORA.fullmatch(name):
            slot = found["side"] if found["what"] == "weight" else "bias"
            if slot == "bias" and found["side"] == "A":
                raise _unsupported(folder, f"{key}: a bias of A")
        elif found := _EMBEDDING.fullmatch(name):
            slot = f"E{found['side']}"
        elif found := _MAGNITUDE.fullmatch(name):
            slot = "magnitude"
        elif found := _TOKENS.fullmatch(name):
            tokens[found["module"]] = info
            continue
        elif "lora_" in name:
            raise _unsupported(folder, f"{key} is no tensor of plain LoRA")
        else:
            _whole(folder, full, copies, name, info)
            continue
        if slot in parts[found["module"]]:
            raise invalid(folder, f"{found['module']} has two tensors {slot}")
        parts[found["module"]][slot] = info
    full = {**copies, **full}
    experts = expert_parts(
        config,
        parts,
        lambda key: _pattern(config.get("rank_pattern"), key, config.get("r", 8)),
        lambda why: invalid(folder, why),
    )
    for name, slots in parts.items():
        _check_module(folder, config, name, slots)
    if not (parts or experts or full or tokens):
        raise invalid(folder, "it holds no tensor")

    def read(info: TensorInfo, start: int = 0, stop: int | None = None) -> np.ndarray:
        reader = Reader(weights)
        try:
            value = to_f32(reader.rows(info, start, stop))
        finally:
            reader.close()
        if not np.isfinite(value).all():
            raise BpError(
                "INPUT_NOT_FINITE",
                f"{weights}: {info.name} holds NaN or infinite values",
                "use an earlier checkpoint of that run",
                details={"tensor": info.name},
            )
        return value

    held = cached(read)

    def make(name: str) -> LoraModule:
        if part := experts.get(name):
            return LoraModule(name, *part.factors(read, held), scale_of(config, part.key, part.rank))
        slots = parts[name]
        embedding = "EA" in slots
        a, b = read(slots["EA" if embedding else "A"]), read(slots["EB" if embedding else "B"])
        return LoraModule(
            name,
            a,
            b,
            scale_of(config, pattern_key(config, name), a.shape[0]),
            embedding,
            read(slots["magnitude"]).reshape(-1) if "magnitude" in slots else None,
            read(slots["bias"]) if "bias" in slots else None,
        )

    return cls(
        LazyModules(sorted([*parts, *experts]), make),
        config,
        {name: read(info) for name, info in sorted(full.items())},
        {name: read(info) for name, info in sorted(tokens.items())},
        folder,
    )


def _whole(
    folder: Path, full: dict[str, TensorInfo], copies: dict[str, TensorInfo], name: str, info: TensorInfo
) -> None:
    """Take a whole tensor under its name in the model, where PEFT's wrappers stand in its path.

    A module of `modules_to_save` may be stored up to three times: plain, as the wrapper's copy, and as it was before.
    """
    if _BEFORE.search(name):
        return
    bare = _COPY.sub(".", name)
    plain = _WRAPPERS.sub(".", bare)
    target = copies if bare != name else full
    if plain in target:
        raise invalid(folder, f"it has two tensors {plain}")
    target[plain] = info


def _check_module(
    folder: Path, config: Mapping[str, Any], name: str, slots: Mapping[str, TensorInfo]
) -> None:
    embedding = "EA" in slots or "EB" in slots
    left, right = ("EB", "EA") if embedding else ("B", "A")
    if left not in slots or right not in slots or (embedding and {"A", "B"} & set(slots)):
        raise invalid(folder, f"{name} lacks one of its two factors")
    a, b = slots[right].shape, slots[left].shape
    if len(a) != 2 or len(b) != 2:
        raise _unsupported(folder, f"{name} is a convolution: factors {b} and {a}")
    if a[0] != b[1] or 0 in (*a, *b):
        raise invalid(folder, f"{name}: B {b} and A {a} do not multiply")
    key = pattern_key(config, name)
    rank = _pattern(config.get("rank_pattern"), key, config.get("r", 8))
    if rank != a[0] and key != name:
        raise _unsupported(
            folder, f"{key} is no parameter of two dimensions, which alone is read under this name"
        )
    if rank != a[0]:
        raise invalid(folder, f"{name} has rank {a[0]}, its configuration says {rank}")
    for slot in ("magnitude", "bias"):
        if slot in slots and math.prod(slots[slot].shape) != b[0]:
            raise invalid(folder, f"{name}: {slot} has the shape {slots[slot].shape}, outputs are {b[0]}")
    if bool(config.get("use_dora")) != ("magnitude" in slots):
        raise invalid(folder, f"{name}: use_dora and the stored magnitudes contradict each other")
