"""Checking a GGUF LoRA adapter: its pairs, its numbers, and that llama.cpp applies it to a base.

- Always: the keys that llama.cpp needs, A and B of every module with one rank, every number finite.
- With a base GGUF: every module is a tensor of that base, of that size.
- With a llama.cpp runtime and a base: predictions with the adapter differ from those without it (an adapter that is
  loaded and not applied looks well and does nothing). How near they are to the merged model is `verify(base, lora=…)`.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bp_merge.common import BpError

from bp_export.gguf.errors import listed
from bp_export.gguf.read import GgufFile
from bp_export.quant.types import TYPES
from bp_export.verify.gguf import VerifyResult, check_finite, run_context
from bp_export.verify.probe_texts import PROMPTS
from bp_export.verify.runtime import open_runtime

_RUNTIME_FIELDS = ("token_ids_equal", "top1_agreement", "kl")


def is_adapter(path: Path) -> bool:
    """Whether a GGUF file holds an adapter.

    Raises:
        BpError: `INPUT_GGUF_INVALID`.
    """
    return GgufFile(path).keys.get("general.type") == "adapter"


def verify_lora(path: Path, base: Path | None = None, prompts: Sequence[str] = PROMPTS) -> VerifyResult:
    """Check a GGUF LoRA file.

    Args:
        path: the adapter.
        base: GGUF file of the base model.
        prompts: on which predictions with and without the adapter are compared.

    Raises:
        BpError: `INPUT_GGUF_INVALID` when a file cannot be parsed, `INPUT_VALIDATION_FAILED` when `base` is no model,
            `RUNTIME_LLAMA_LOAD_FAILED` when llama.cpp refuses the adapter on this base.
    """
    file = GgufFile(Path(path))
    problems: list[str] = []
    finite = check_finite(file, problems)
    if file.keys.get("adapter.type") != "lora":
        problems.append(f"adapter.type is {file.keys.get('adapter.type')!r}, llama.cpp knows lora")
    if not isinstance(file.keys.get("adapter.lora.alpha"), float):
        problems.append("adapter.lora.alpha is missing or no f32")
    pairs = _pairs(file, problems)
    unchecked: dict[str, str] = dict.fromkeys(
        _RUNTIME_FIELDS, "an adapter alone predicts nothing: name a base GGUF file"
    )
    runtime = None
    if base is not None:
        _on_base(file, GgufFile(base), pairs, problems)
        if not problems:
            runtime = _applied(file, base, prompts, problems)
        why = (
            "no llama.cpp runtime: pip install 'bp-export[verify]'"
            if runtime is None
            else "no merged model was given to compare with"
        )
        unchecked = dict.fromkeys(_RUNTIME_FIELDS, why if not problems else "the file is wrong already")
    types = collections.Counter(t.type for t in file.tensors.values())
    return VerifyResult(
        path=file.path,
        architecture=file.architecture,
        quantization=types.most_common(1)[0][0] if types else "unknown",
        tensors=len(file.tensors),
        types=dict(types),
        finite=finite,
        runtime=runtime,
        unchecked=unchecked,
        problems=tuple(problems),
    )


def _pairs(file: GgufFile, problems: list[str]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Base tensor → shapes of A and B, in numpy order: (r, in) and (out, r)."""
    names = {n[: -len(".lora_a")] for n in file.tensors if n.endswith((".lora_a", ".lora_b"))}
    if not names:
        problems.append("it holds no LoRA pair")
    found, wrong = {}, [n for n in file.tensors if not n.endswith((".lora_a", ".lora_b"))]
    for name in sorted(names):
        a, b = (file.tensors.get(f"{name}.lora_{side}") for side in "ab")
        if a is None or b is None:
            wrong.append(name)
            continue
        rank = a.shape[1] if name == "token_embd.weight" else a.shape[0]
        if len(a.shape) != 2 or len(b.shape) != 2 or rank != b.shape[1]:
            wrong.append(name)
        found[name] = (a.shape, b.shape)
    if wrong:
        problems.append(f"A and B do not belong together: {listed(wrong)}")
    return found


def _on_base(
    file: GgufFile,
    base: GgufFile,
    pairs: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
    problems: list[str],
) -> None:
    if base.keys.get("general.type", "model") != "model":
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{base.path} is no model",
            f"backprop export {file.path} --verify --base-model BASE.gguf",
        )
    if base.architecture != file.architecture:
        problems.append(f"the adapter is for {file.architecture}, the base is {base.architecture}")
    missing = [n for n in pairs if n not in base.tensors]
    if missing:
        problems.append(f"the base has no {listed(missing)}")
    wrong = []
    for name, (a, b) in pairs.items():
        if name in missing:
            continue
        wanted = (a[0], b[0]) if name == "token_embd.weight" else (b[0], a[1])
        if base.tensors[name].shape != wanted:
            wrong.append(f"{name} {base.tensors[name].shape}, the adapter {wanted}")
    if wrong:
        problems.append(f"other sizes than the base: {listed(wrong, 2)}")


def _applied(file: GgufFile, base: Path, prompts: Sequence[str], problems: list[str]) -> str | None:
    """The runtime's name, None where there is none."""
    context = run_context(GgufFile(base))
    seen, name = [], None
    for lora in ((), ((file.path, 1.0),)):
        live = open_runtime(base, context=context, lora=lora)
        if live is None:
            return None
        try:
            name = live.name
            seen.append(
                [live.logits(ids, len(ids) - 1) for ids in (live.tokenize(p)[:context] for p in prompts)]
            )
        finally:
            live.close()
    nothing = all(np.array_equal(a, b) for a, b in zip(*seen, strict=True))
    zero = all(
        not np.any(file.read(n)) for n, t in file.tensors.items() if n.endswith(".lora_b") and TYPES[t.type]
    )
    if nothing and not zero:
        problems.append("llama.cpp predicts the same with and without it: it is not applied")
    return name
