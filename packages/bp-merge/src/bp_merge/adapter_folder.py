"""Write PEFT adapter folders that PEFT reloads with the same ΔW.

- Modules are taken one by one and written as they come, so that memory is a module and not an adapter.
- The scaling is plain: α and r as numbers, patterns where ranks or scales differ, no rsLoRA; factors are f32.
- A base weight beside an adapter (bias, an embedding's own weight) has PEFT's `.base_layer.` in its key.
- The folder appears whole. Tokenizer and chat template come along from the folder the adapter was read from.
"""

from __future__ import annotations

import collections
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bp_merge.casts import to_f32
from bp_merge.common import BpError
from bp_merge.growing import GrowingFile
from bp_merge.lora_module import LoraModule
from bp_merge.stfile import write_text, writing
from bp_merge.textfiles import TOKENIZER

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
_SLOTS = (
    "lora_A.weight",
    "lora_B.weight",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_B.bias",
    "lora_magnitude_vector",
)


def write_adapter(
    path: str | os.PathLike[str],
    names: Sequence[str],
    modules: Iterable[LoraModule],
    config: Mapping[str, Any],
    *,
    full: Mapping[str, np.ndarray],
    tokens: Mapping[str, np.ndarray],
    source: Path | None = None,
    force: bool = False,
) -> Path:
    """Write a folder from modules as they come.

    Args:
        path: the folder to make.
        names: of all modules.
        modules: in any order.
        config: adapter_config.json to start from.
        full: whole tensors by their name in the model.
        tokens: embedding module → trained rows.
        source: a folder whose tokenizer comes along.
        force: replace the folder where it exists.

    Raises:
        BpError: `INPUT_PATH_EXISTS`, `INPUT_NOT_FINITE`, `INPUT_ADAPTER_UNSUPPORTED` (experts' parameters),
            `RUNTIME_DISK_FULL`, `RUNTIME_WRITE_FAILED`, and what making a module raises.
    """
    refuse_experts(config)
    out = Path(path)
    if out.exists() and not force:
        raise BpError("INPUT_PATH_EXISTS", f"{out} exists", f"name another folder: --output {out}-2")
    partial = out.with_name(f".{out.name}.partial")
    with writing(out):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    try:
        _write(partial, names, modules, config, full, tokens)
        with writing(out):
            if source is not None:
                for pattern in TOKENIZER:
                    for file in sorted(source.glob(pattern)):
                        (partial / file.relative_to(source)).parent.mkdir(exist_ok=True)
                        shutil.copyfile(file, partial / file.relative_to(source))
            if out.exists():
                shutil.rmtree(out)
            partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def refuse_experts(config: Mapping[str, Any]) -> None:
    """Refuse to write what PEFT keeps in fused factors: read apart, it does not go back into one rank.

    Raises:
        BpError: `INPUT_ADAPTER_UNSUPPORTED`.
    """
    if config.get("target_parameters"):
        raise BpError(
            "INPUT_ADAPTER_UNSUPPORTED",
            "it adapts parameters of a mixture of experts, which is baked and not written as an adapter again",
            "bake it into the base model instead: bp-merge bake BASE ADAPTER --output DIR",
        )


def _write(
    folder: Path,
    names: Sequence[str],
    modules: Iterable[LoraModule],
    config: Mapping[str, Any],
    full: Mapping[str, np.ndarray],
    tokens: Mapping[str, np.ndarray],
) -> None:
    beside = set(names)

    def key_of(name: str) -> str:
        module, _, last = name.rpartition(".")
        return f"{PREFIX}{module}.base_layer.{last}" if module in beside else PREFIX + name

    rows = {n: f"{PREFIX}{n}.token_adapter.trainable_tokens_delta" for n in tokens}
    announced = [f"{PREFIX}{n}.{slot}" for n in names for slot in _SLOTS]
    announced += [*map(key_of, full), *rows.values()]
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    with GrowingFile(folder / WEIGHTS, announced) as file:

        def add(key: str, values: np.ndarray) -> None:
            values = to_f32(values)
            if not np.isfinite(values).all():
                raise BpError(
                    "INPUT_NOT_FINITE", f"{key} holds NaN or infinite values", "use other inputs or weights"
                )
            file.add(key, values)

        for m in modules:
            ranks[m.name], alphas[m.name] = m.rank, m.scale * m.rank
            slots = _SLOTS[2:4] if m.embedding else _SLOTS[:2]
            for slot, values in zip((*slots, *_SLOTS[4:]), (m.a, m.b, m.bias, m.magnitude), strict=True):
                if values is not None:
                    add(f"{PREFIX}{m.name}.{slot}", values)
        for name, values in full.items():
            add(key_of(name), values)
        for name, values in tokens.items():
            add(rows[name], values)
    text = json.dumps(_plain(config, ranks, alphas), indent=2, sort_keys=True)
    write_text(folder / CONFIG, text + "\n")


def _plain(
    config: Mapping[str, Any], ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> dict[str, Any]:
    """The configuration with plain scaling; ranks and alphas that are not the commonest stand in patterns."""
    found = dict(config)
    found.setdefault("task_type", "CAUSAL_LM")
    targets = found.setdefault("target_modules", sorted(ranks))
    if isinstance(targets, list):
        found["target_modules"] = sorted(targets)
    rank = collections.Counter(ranks.values()).most_common(1)[0][0] if ranks else int(found.get("r", 8))
    plain = {n: int(a) if a == int(a) else a for n, a in alphas.items()}
    alpha = collections.Counter(plain.values()).most_common(1)[0][0] if plain else rank
    return found | {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "rank_pattern": {f"^{re.escape(n)}": r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {f"^{re.escape(n)}": a for n, a in plain.items() if a != alpha},
    }
