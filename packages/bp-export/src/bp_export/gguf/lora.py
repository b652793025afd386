"""A LoRA adapter as a GGUF file that llama.cpp (`--lora`) and Ollama (`ADAPTER`) put on a base GGUF.

- llama.cpp scales each pair by alpha / rank with one alpha for the file and the rank of the pair. Rank-stabilised
  scaling and per-module ranks or alphas are folded into B, so that every pair has its own scale.
- What is permuted in the base is permuted here: rows of B, and columns of A where the base's columns are reordered.
- What the format cannot say (DoRA magnitudes, trained biases, whole trained modules, new tokens, norms) is refused
  by name; such an adapter must be merged.
"""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from bp_merge.common import BpError

from bp_export.gguf.arch import Family, Mapped, family, map_one, rename
from bp_export.gguf.errors import listed
from bp_export.gguf.hparams import Hparams
from bp_export.gguf.plan import Plan, layout, safe_name
from bp_export.gguf.vocab import Vocab
from bp_export.gguf.write import GgufResult, write_file


class LoraPair(Protocol):
    """One adapted module: ΔW = scale · B @ A, A (r, in), B (out, r)."""

    @property
    def a(self) -> np.ndarray:
        """(r, in)."""
        ...

    @property
    def b(self) -> np.ndarray:
        """(out, r)."""
        ...

    @property
    def scale(self) -> float:
        """Factor of B @ A."""
        ...


class LoraAdapter(Protocol):
    """What is written: `bp_merge.Adapter` is such."""

    @property
    def modules(self) -> Mapping[str, Any]:
        """Module name → pair."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """adapter_config.json."""
        ...


def write_gguf_lora(
    adapter: LoraAdapter,
    config: Mapping[str, Any],
    output: Path,
    *,
    number_type: str = "f32",
    general: Mapping[str, Any] | None = None,
) -> GgufResult:
    """Write an adapter as a GGUF LoRA file.

    Args:
        adapter: modules and adapter_config.json.
        config: config.json of the base model.
        output: the file; replaced when it exists.
        number_type: "f32" (exact) or "f16" (half the size).
        general: further keys by full name.

    Raises:
        BpError: `INPUT_ADAPTER_NOT_EXPRESSIBLE`, `INPUT_ARCHITECTURE_UNKNOWN`, `INPUT_TENSOR_UNKNOWN`,
            `INPUT_TENSOR_SHAPE` or `INPUT_TENSOR_NOT_FINITE`.
    """
    began = time.perf_counter()
    if number_type not in ("f32", "f16"):
        raise BpError(
            "INPUT_QUANTIZATION_UNKNOWN",
            f"a GGUF LoRA file is f32 or f16, not {number_type!r}",
            "backprop export ADAPTER --format gguf-lora --quantization f16",
        )
    fam, h = family(config), Hparams(config)
    check_expressible(adapter)
    pairs = dict(adapter.modules)
    if not pairs:
        raise _not_expressible("it holds no LoRA module")
    alpha = _common_alpha(pairs)
    tensors: list[Mapped] = []
    for name, pair in sorted(pairs.items()):
        tensors += _pair(fam, h, name, pair, alpha)
    entries, data_bytes = layout(tensors, {t.name: number_type for t in tensors})
    keys: dict[str, Any] = {
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
        "general.name": safe_name(str((general or {}).get("general.name") or "adapter"), fam.name),
        **{k: v for k, v in (general or {}).items() if k != "general.name"},
    }
    _, size = write_file(fam.name, keys, entries, _NoSource(), Path(output))
    parameters = sum(math.prod(t.shape) for t in tensors)
    empty = Vocab("", "", [], [], [], [], {}, False, False, False, None, {})
    return GgufResult(
        path=Path(output),
        quantization=number_type,
        size_bytes=size,
        tensors=len(tensors),
        parameters=parameters,
        types={number_type: len(tensors)},
        fallen={},
        resumed=0,
        seconds=time.perf_counter() - began,
        plan=Plan(fam, number_type, entries, {}, keys, empty, data_bytes, parameters),
    )


def check_expressible(adapter: LoraAdapter) -> None:
    """Refuse what a GGUF LoRA file cannot say.

    What the adapter holds counts, beside its configuration: embeddings are saved with an adapter whose vocabulary was
    resized, and no key says so.

    Raises:
        BpError: `INPUT_ADAPTER_NOT_EXPRESSIBLE`, naming every such thing.
    """
    config = adapter.config
    # PEFT puts the base's own embedding beside LoRA factors of it
    whole = [n for n in getattr(adapter, "full", {}) if n.removesuffix(".weight") not in adapter.modules]
    found = [
        text
        for text, has in (
            ("DoRA magnitudes", config.get("use_dora")),
            ("modules_to_save", config.get("modules_to_save")),
            (f"whole tensors ({listed(whole)})", whole and not config.get("modules_to_save")),
            (
                "trainable_token_indices",
                config.get("trainable_token_indices") or getattr(adapter, "tokens", {}),
            ),
            ("trained biases", config.get("bias", "none") != "none" or config.get("lora_bias")),
            ("target_parameters", config.get("target_parameters")),
            ("LoRA on single experts", any(".experts." in n for n in adapter.modules)),
            ("layer_replication", config.get("layer_replication")),
        )
        if has
    ]
    if found:
        raise _not_expressible(f"it has {listed(found)}")


def _not_expressible(why: str) -> BpError:
    return BpError(
        "INPUT_ADAPTER_NOT_EXPRESSIBLE",
        f"the adapter cannot be a GGUF LoRA file: {why}",
        "merge it instead: backprop export ADAPTER --format gguf",
    )


def _common_alpha(pairs: Mapping[str, LoraPair]) -> float:
    """The alpha that most modules have: scale · rank."""
    counted = collections.Counter(float(np.float32(p.scale * p.a.shape[0])) for p in pairs.values())
    alpha = counted.most_common(1)[0][0]
    return alpha if alpha else 1.0


def _pair(fam: Family, h: Hparams, name: str, pair: LoraPair, alpha: float) -> list[Mapped]:
    """lora_a and lora_b of one module, in the order and scale of llama.cpp."""
    bare = name.removeprefix("base_model.model.").removesuffix(".weight")
    target = rename(fam, bare + ".weight")
    if target is None:
        raise BpError(
            "INPUT_TENSOR_UNKNOWN",
            f"{fam.name} has no module {bare}",
            "is this the base model that the adapter was trained on? see adapter_config.json",
        )
    if target.endswith(("_norm.weight", "ssm_conv1d.weight")):
        raise _not_expressible(f"{bare} is no matrix product")
    if target == "output.weight" and h.tied:
        raise _not_expressible("lm_head is adapted, but the base ties it to the embedding")
    if target == "token_embd.weight" and h.tied:
        raise _not_expressible(
            "the input embedding is adapted, but the base ties it to lm_head, which is not"
        )
    a, b = np.asarray(pair.a, np.float32), np.asarray(pair.b, np.float32)
    rank = a.shape[0]
    if b.ndim != 2 or b.shape[1] != rank:
        raise BpError(
            "INPUT_TENSOR_SHAPE",
            f"{bare}: A is {a.shape}, B is {b.shape}",
            "take the adapter's files from one run",
        )
    b = b * np.float32(pair.scale * rank / alpha)
    if target == "token_embd.weight":
        a = np.ascontiguousarray(a.T)  # looked up by token: (vocabulary, r)
    else:
        order = map_one(fam, h, target, bare, (b.shape[0], a.shape[1]))
        b = b if order.rows is None else b[order.rows]
        a = a if order.columns is None else a[:, order.columns]
    return [
        Mapped(f"{target}.lora_{side}", x.shape, constant=np.ascontiguousarray(x))
        for side, x in (("a", a), ("b", b))
    ]


class _NoSource:
    """The tensors are constants: nothing is read."""

    names = ()

    def info(self, name: str) -> Any:
        raise KeyError(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        raise KeyError(name)

    read_raw = read
