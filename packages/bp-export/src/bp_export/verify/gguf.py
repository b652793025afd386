"""Check a GGUF file: read it back, and run it.

- Structure always: count, names, shapes, types, every number (for block types every scale) finite.
- Against the source when it is given: each tensor's values, dequantized by the gguf library, within what its type
  can lose; a wrong permutation or shift is far outside.
- Against the tokenizer's own files: tokens, merges, special ids, flags, template; with a llama.cpp runtime its token
  ids against the `tokenizers` library's, on texts where tokenizers disagree.
- Against a reference of logits that the caller passes: top-1 agreement and mean KL(reference ‖ file) in nats.
- One model is in memory at a time: what the file predicts is kept, and its runtime closed, before a reference opens.
- What was not checked is None, and `unchecked` says why.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from bp_merge.common import BpError

from bp_export.gguf.arch import TensorSource
from bp_export.gguf.blocks import matrix_shape, row_blocks, stored_finite, values
from bp_export.gguf.errors import listed
from bp_export.gguf.plan import Plan, plan_gguf
from bp_export.gguf.read import GgufFile, TensorEntry
from bp_export.gguf.recipe import QUANTIZATIONS
from bp_export.quant import TYPES
from bp_export.verify.probe_texts import PROBES, PROMPTS
from bp_export.verify.runtime import Runtime, open_runtime

# Mean KL in nats above which a file is wrong rather than coarse. A permutation or norm mistake gives 0.5 and more on
# models that predict something.
KL_LIMITS = {
    "f32": 5e-3,
    "f16": 1e-2,
    "bf16": 2e-2,
    "q8_0": 5e-2,
    "q6_k": 0.1,
    "q5_k_m": 0.2,
    "q4_k_m": 1.0,
    "q4_0": 1.0,
    "q3_k_m": 1.5,
    "q2_k": 2.5,
}
_POSITION_BUDGET = 1_500_000  # logits to compare: 48 positions of small vocabularies, 8 of 262,144 tokens

Logits = Callable[[list[int]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class VerifyResult:
    """What was found; None where it was not checked.

    Attributes:
        path: the file.
        architecture: `general.architecture`.
        quantization: by `general.file_type`.
        tensors: number of tensors.
        types: number type → number of tensors.
        finite: every stored number is finite.
        round_trip: number type → largest relative RMSE of a tensor against the source.
        vocabulary_equal: tokens, types, merges, scores, special ids and flags are those of the tokenizer's files.
        template_equal: the chat template is that of the tokenizer's files.
        token_ids_equal: llama.cpp's ids equal the tokenizers library's on every text.
        token_texts: texts compared, with and without special tokens.
        top1_agreement: share of positions with the same most probable token.
        kl: mean KL(reference ‖ file), nats; None beside a `reference` where a prediction was no number.
        positions: positions compared.
        reference: what the logits were compared with.
        runtime: the llama.cpp that ran.
        unchecked: field → why it is None.
        problems: what is wrong; empty when the file is verified.
    """

    path: Path
    architecture: str
    quantization: str
    tensors: int
    types: dict[str, int]
    finite: bool | None = None
    round_trip: dict[str, float] | None = None
    vocabulary_equal: bool | None = None
    template_equal: bool | None = None
    token_ids_equal: bool | None = None
    token_texts: int = 0
    top1_agreement: float | None = None
    kl: float | None = None
    positions: int = 0
    reference: str | None = None
    runtime: str | None = None
    unchecked: dict[str, str] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether nothing that was checked is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with `verified`."""
        return {**dataclasses.asdict(self), "path": str(self.path), "verified": self.verified}

    def require(self) -> VerifyResult:
        """Itself, when nothing is wrong.

        Raises:
            BpError: `RUNTIME_GGUF_CHECK_FAILED`, with every problem in the details.
        """
        if self.problems:
            raise BpError(
                "RUNTIME_GGUF_CHECK_FAILED",
                f"{self.path} is not what was to be written: {listed(self.problems, 2)}",
                f"backprop export --verify {self.path} --json",
                details={"problems": list(self.problems)},
            )
        return self


def verify(
    path: Path,
    reference: Logits | Path | None = None,
    *,
    source: TensorSource | None = None,
    config: Mapping[str, Any] | None = None,
    tokenizer_dir: Path | None = None,
    runtime: bool = True,
    lora: Sequence[tuple[Path, float]] = (),
    texts: Sequence[str] = PROBES,
    prompts: Sequence[str] = PROMPTS,
    reference_name: str = "",
) -> VerifyResult:
    """Check a GGUF model file.

    Args:
        path: the file.
        reference: logits of the same model, ids → (T, V) (transformers, for instance), or a GGUF file to run.
        source: the weights that the file was made of.
        config: the configuration of the source.
        tokenizer_dir: the tokenizer's files.
        runtime: whether to run llama.cpp where it is installed.
        lora: GGUF LoRA files to apply while running.
        texts: on which token ids are compared.
        prompts: on which logits are compared.
        reference_name: how the result calls the reference.

    Returns:
        What was checked and found; `problems` is empty for a good file.

    Raises:
        BpError: `INPUT_GGUF_INVALID` when the file cannot be parsed, `RUNTIME_LLAMA_LOAD_FAILED` when llama.cpp
            refuses it.
    """
    file = GgufFile(Path(path))
    by_id = {number: name for name, (_, number) in QUANTIZATIONS.items()}
    found: dict[str, Any] = {
        "quantization": by_id.get(int(file.keys.get("general.file_type", -1)), "unknown")
    }
    problems: list[str] = []
    unchecked: dict[str, str] = {}
    found["finite"] = check_finite(file, problems)
    plan = None
    if (
        source is not None
        and config is not None
        and tokenizer_dir is not None
        and found["quantization"] in QUANTIZATIONS
    ):
        plan = plan_gguf(source, config, tokenizer_dir, found["quantization"])
        if _check_table(file, plan, problems):
            found["round_trip"] = _check_values(file, plan, source, problems)
    else:
        unchecked["round_trip"] = "no source weights were given"
    if tokenizer_dir is not None:
        found |= _check_vocabulary(file, tokenizer_dir, problems)
    else:
        unchecked |= dict.fromkeys(("vocabulary_equal", "template_equal"), "no tokenizer files were given")
    if not problems:
        found |= _run(
            file,
            reference,
            tokenizer_dir,
            runtime,
            lora,
            (texts, prompts),
            problems,
            unchecked,
            reference_name,
        )
    else:
        unchecked |= dict.fromkeys(("token_ids_equal", "top1_agreement", "kl"), "the file is wrong already")
    return VerifyResult(
        path=file.path,
        architecture=file.architecture,
        tensors=len(file.tensors),
        types=dict(collections.Counter(t.type for t in file.tensors.values())),
        unchecked=unchecked,
        problems=tuple(problems),
        **found,
    )


def check_finite(file: GgufFile, problems: list[str]) -> bool:
    """Whether every stored number (of block types: every scale) is finite; what is not goes into `problems`."""

    def finite(t: TensorEntry) -> bool:
        rows = matrix_shape(t.shape)[0]
        step = max(1, (4 << 20) // (t.nbytes // rows))
        return all(
            stored_finite(file.read_raw(t.name, i, min(rows, i + step)), t.type) for i in range(0, rows, step)
        )

    tensors = list(file.tensors.values())
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        bad = [t.name for t, fine in zip(tensors, pool.map(finite, tensors), strict=True) if not fine]
    if bad:
        problems.append(f"not finite: {listed(bad)}")
    return not bad


def _check_table(file: GgufFile, plan: Plan, problems: list[str]) -> bool:
    expected = {e.name: (e.tensor.shape, e.type) for e in plan.entries}
    stored = {t.name: (t.shape, t.type) for t in file.tensors.values()}
    wrong = sorted(set(expected) ^ set(stored)) or [n for n, v in expected.items() if stored[n] != v]
    if wrong:
        problems.append(f"tensors differ from the source's: {listed(wrong)}")
    keys = [
        k
        for k, v in plan.keys.items()
        if not k.startswith(("general.", "tokenizer.")) and not _same(file.keys.get(k), v)
    ]
    if keys:
        problems.append(f"keys differ from config.json: {listed(keys)}")
    return not wrong


def _same(stored: Any, value: Any) -> bool:
    if isinstance(value, float) and isinstance(stored, float):
        return abs(stored - value) <= 1e-6 * abs(value)
    return stored == value


def _check_values(file: GgufFile, plan: Plan, source: TensorSource, problems: list[str]) -> dict[str, float]:
    """Largest relative RMSE by type, over the first, middle and last rows of each tensor (all of a small one)."""
    worst: dict[str, float] = {}
    for e in plan.entries:
        blocks = row_blocks(e.tensor)
        error = total = 0.0
        for start, stop in {blocks[0], blocks[len(blocks) // 2], blocks[-1]}:
            stop = min(stop, start + 256)
            x = values(source, e.tensor, start, stop)
            error += float(np.square(file.read(e.name, start, stop) - x, dtype=np.float64).sum())
            total += float(np.square(x, dtype=np.float64).sum())
        relative = (error / total) ** 0.5 if total else (0.0 if error == 0 else float("inf"))
        worst[e.type] = max(worst.get(e.type, 0.0), relative)
        # Heavy tails cost block types up to a few times what a normal distribution loses; a wrong row order gives 1.4.
        if relative > max(4 * TYPES[e.type].error, 1e-7) and relative > min(0.7, 8 * TYPES[e.type].error):
            problems.append(
                f"{e.name}: relative error {relative:.3g}, {e.type} loses about {TYPES[e.type].error:.2g}"
            )
    return worst


def _check_vocabulary(file: GgufFile, tokenizer_dir: Path, problems: list[str]) -> dict[str, Any]:
    from bp_export.gguf.vocab import read_vocab

    rows = file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 0
    expected = read_vocab(tokenizer_dir, rows).keys()
    template = expected.pop("tokenizer.chat_template", None)
    wrong = [k for k, v in expected.items() if v not in ([], "") and file.keys.get(k) != v]
    wrong += [k for k in file.keys if k.startswith("tokenizer.ggml.") and k not in expected]
    if wrong:
        problems.append(f"tokenizer keys differ from the tokenizer's files: {listed(wrong)}")
    same_template = file.keys.get("tokenizer.chat_template") == template
    if not same_template:
        problems.append("the chat template is not that of the tokenizer's files")
    return {"vocabulary_equal": not wrong, "template_equal": same_template}


def _run(
    file: GgufFile,
    reference: Logits | Path | None,
    tokenizer_dir: Path | None,
    wanted: bool,
    lora: Sequence[tuple[Path, float]],
    texts: tuple[Sequence[str], Sequence[str]],
    problems: list[str],
    unchecked: dict[str, str],
    reference_name: str,
) -> dict[str, Any]:
    """Token ids and logits in llama.cpp."""
    context = run_context(file)
    live = open_runtime(file.path, context=context, lora=lora) if wanted else None
    if live is None:
        why = (
            "no llama.cpp runtime: pip install 'bp-export[verify]'"
            if wanted
            else "the runtime was switched off"
        )
        unchecked |= dict.fromkeys(("token_ids_equal", "top1_agreement", "kl"), why)
        return {}
    found: dict[str, Any] = {"runtime": live.name}
    ids: list[list[int]] = []
    predicted: list[np.ndarray] = []
    try:
        if tokenizer_dir is None:
            unchecked |= {"token_ids_equal": "no tokenizer files were given"}
        else:
            found |= _check_token_ids(live, tokenizer_dir, texts[0], problems)
        if reference is not None:
            ids = [live.tokenize(p)[: context - 1] for p in texts[1]]
            predicted = _predict(live.logits, ids, file)
    finally:
        live.close()
    if reference is None:
        unchecked |= dict.fromkeys(("top1_agreement", "kl"), "no reference was given")
        return found
    if isinstance(reference, Path):
        other = open_runtime(reference, context=context)
        assert other is not None
        try:
            expected = _predict(other.logits, ids, file)
        finally:
            other.close()
    else:
        logits = reference
        expected = _predict(lambda i, start: np.asarray(logits(i), np.float32)[start:], ids, file)
    name = reference_name or (
        f"{reference} in llama.cpp" if isinstance(reference, Path) else "the caller's logits"
    )
    found |= {**_compare(expected, predicted), "reference": name}
    limit = KL_LIMITS.get(str(file_quantization(file)), 2.5)
    if not np.isfinite(found["kl"]):
        found |= {"kl": None, "top1_agreement": None}
        problems.append(f"it or {name} predicts what is no number in llama.cpp")
    elif found["kl"] > limit:
        problems.append(f"KL {found['kl']:.3g} nats against {name}; at most {limit:g} is expected")
    return found


def file_quantization(file: GgufFile) -> str | None:
    """The quantization by `general.file_type`, None for one that is not written here."""
    return {n: q for q, (_, n) in QUANTIZATIONS.items()}.get(int(file.keys.get("general.file_type", -1)))


def run_context(file: GgufFile) -> int:
    """Tokens of context to run with: beyond Phi's original context llama.cpp takes the long factors at once."""
    original = int(file.keys.get(f"{file.architecture}.rope.scaling.original_context_length", 512))
    context = int(file.keys.get(f"{file.architecture}.context_length", 512))
    return min(512, original, context)


def _check_token_ids(
    live: Runtime, tokenizer_dir: Path, texts: Sequence[str], problems: list[str]
) -> dict[str, Any]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    wrong = []
    for text in texts:
        for special in (True, False):
            if tokenizer.encode(text, add_special_tokens=special).ids != live.tokenize(
                text, add_special=special
            ):
                wrong.append(repr(text[:40]))
    if wrong:
        problems.append(f"token ids differ from the tokenizers library's on {listed(wrong, 3)}")
    return {"token_ids_equal": not wrong, "token_texts": len(texts)}


def _predict(
    logits: Callable[[list[int], int], np.ndarray], prompts: Sequence[list[int]], file: GgufFile
) -> list[np.ndarray]:
    """Logits over the last positions of each prompt, (T, V) each."""
    width = file.tensors["token_embd.weight"].shape[0]
    each = max(4, min(24, _POSITION_BUDGET // width // max(1, len(prompts))))
    return [logits(ids, max(0, len(ids) - each)) for ids in prompts]


def _compare(expected: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> dict[str, Any]:
    """Top-1 agreement and mean KL(expected ‖ predicted); a KL that is no number stays NaN."""
    agree: list[bool] = []
    kls: list[float] = []
    for wanted, given in zip(expected, predicted, strict=True):
        with np.errstate(invalid="ignore"):  # an infinite logit: NaN from here on, refused by the caller
            p = log_softmax(wanted)
            q = log_softmax(given[:, : p.shape[1]])
        agree += list(p.argmax(-1) == q.argmax(-1))
        weight = np.exp(p)
        gap = np.subtract(p, q, out=np.zeros_like(p), where=weight > 0)  # 0 · (−∞ − q) is 0: a masked token
        kls += list((weight * gap).sum(-1))
    kl = float(np.mean(kls))
    return {
        "top1_agreement": float(np.mean(agree)),
        "kl": 0.0 if kl < 0 else kl,
        "positions": len(kls),
    }


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Log-probabilities of logits along the last axis, f64."""
    x = x.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
