"""Which tensor of the base each part of an adapter changes: every name must map, every shape must fit.

- A module is the tensor of its name. Where names on disk have another prefix than in memory, one prefix replaces
  another for all of them, if only one does; it is told. Anything left over is an error that names it.
- Several adapters add up. What is absolute (whole tensors, rows, DoRA's magnitudes) has no sum: one adapter, weight 1.
- Where input embedding and output head share a tensor, a change of one side is refused, unless the head is untied.
- A resized vocabulary has its own rows in the adapter: embedding and head are then as long as the adapter's, and the
  configuration says so. A row that neither the base nor the adapter holds is refused.
- Quantised weights would have to be quantised again, with a loss that hides small changes: refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bp_merge.casts import FLOATS, to_f32
from bp_merge.checkpoint import Checkpoint
from bp_merge.common import BpError
from bp_merge.edit import Edit
from bp_merge.experts import fused, neighbour, on_disk

if TYPE_CHECKING:
    from bp_merge.adapter import Adapter

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
_HEADS = ("lm_head", "embed_out", "output")
_ONE = np.ones((1, 1), np.float32)


@dataclasses.dataclass(frozen=True)
class Planned:
    """Edits by tensor name, what was assumed, and the configuration of the result."""

    edits: dict[str, Edit]
    notes: list[str]
    config: dict[str, Any]


def plan_edits(base: Checkpoint, adapters: Sequence[tuple[Adapter, float]], *, untie: bool) -> Planned:
    """Map every part of every adapter to a tensor of the base.

    Raises:
        BpError: `INPUT_WRONG_BASE`, `INPUT_ADAPTER_UNSUPPORTED`, `INPUT_QUANTIZED_BASE`, `INPUT_TIED_EMBEDDING`.
    """
    _refuse_quantised(base)
    tie = _Tie(base)
    wanted = [n for a, _ in adapters for n in _tensors(a)]
    names, notes = _resolve(base, wanted, tie)
    for adapter, _ in adapters:
        _check_experts(base, adapter, names)
    edits: dict[str, Edit] = {}
    for adapter, weight in adapters:
        flipped = bool(adapter.config.get("fan_in_fan_out"))
        for name, values in adapter.full.items():
            _only(len(adapters), weight, f"it replaces {name}")
            target = names[name]
            _put(edits, base, target, tie, full=values, height=_height(base, target, tie, values))
        for module, values in adapter.tokens.items():
            _only(len(adapters), weight, f"it replaces rows of {module}")
            target = names[f"{module}.weight"]
            where = _indices(adapter, module, len(values))
            shape = _shape(edits, base, target, tie)
            if len(shape) != 2 or values.shape[1:] != shape[1:] or where.min() < 0:
                raise _wrong(f"the trained rows of {module} do not fit {target} {list(shape)}")
            height = _reach(where, shape[0], target) or (
                shape[0] if shape != base.info(tie.source(target)).shape else None
            )
            _put(edits, base, target, tie, rows=(where, to_f32(values)), height=height)
        for name in adapter.modules:
            if any(e.magnitude is not None for e in edits.values()) and len(adapters) > 1:
                raise _unsupported("DoRA magnitudes cannot be added to another adapter")
            _add_module(base, edits, names, adapter, name, weight, tie, flipped=flipped)
    saved = any(_saves_embedding(a) for a, _ in adapters)
    config, notes = tie.settle(edits, notes, untie, apart=saved)
    config, told = _resized(base, edits, tie, config)
    return Planned(edits, [*notes, *told], config)


def _saves_embedding(adapter: Adapter) -> bool:
    """Whether the input embedding was trained as a copy, which leaves a tied head as it was."""
    saved = adapter.config.get("modules_to_save") or ()
    return not adapter.config.get("ensure_weight_tying") and any(
        str(s).rsplit(".", 1)[-1] in _EMBEDDINGS for s in saved
    )


def _height(base: Checkpoint, target: str, tie: _Tie, values: np.ndarray) -> int | None:
    """Rows of a whole tensor of the adapter where they are not the base's; only a vocabulary may differ.

    Raises:
        BpError: `INPUT_WRONG_BASE`.
    """
    shape = base.info(tie.source(target)).shape
    if values.shape == shape:
        return None
    if (
        tie.is_vocabulary(target)
        and values.ndim == len(shape)
        and values.shape[1:] == shape[1:]
        and len(values)
    ):
        return len(values)
    raise _wrong(f"{target} is {list(shape)} in the base and {list(values.shape)} in the adapter")


def _reach(where: np.ndarray, rows: int, target: str) -> int | None:
    """Rows that trained token rows make of a tensor, None where they all lie within it.

    Raises:
        BpError: `INPUT_EMBEDDINGS_MISSING` where a row between is nowhere.
    """
    top = int(where.max()) + 1
    if top <= rows:
        return None
    if lost := sorted(set(range(rows, top)) - set(where.tolist())):
        raise _missing(
            f"{target} has {rows} rows in the base; the adapter trains row {top - 1}, row {lost[0]} is nowhere"
        )
    return top


def _shape(edits: dict[str, Edit], base: Checkpoint, target: str, tie: _Tie) -> tuple[int, ...]:
    """Shape of a tensor as far as it was edited."""
    shape, edit = base.info(tie.source(target)).shape, edits.get(target)
    return shape if edit is None or edit.height is None else (edit.height, *shape[1:])


def _resized(
    base: Checkpoint, edits: dict[str, Edit], tie: _Tie, config: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The configuration with the vocabulary that embedding and head have now, and what to tell.

    Raises:
        BpError: `INPUT_EMBEDDINGS_MISSING` where only one of the two was resized.
    """
    if all(e.height is None for e in edits.values()) or tie.embedding is None:
        return config, []
    was = base.info(tie.embedding).shape[0]
    names = [n for n in dict.fromkeys((tie.embedding, tie.head, *edits)) if n and tie.is_vocabulary(n)]
    heights = {n: e.height for n, e in edits.items() if e.height is not None}
    rows = next(iter(heights.values()))
    for name in names:
        size = _shape(edits, base, name, tie)[0]
        if (
            size > rows and name not in heights
        ):  # a vocabulary is cut at its end: the rows that stay are the base's
            edits[name] = dataclasses.replace(edits.get(name) or Edit(name), height=rows)
        elif size != rows:
            raise _missing(f"{next(iter(heights))} has {rows} rows with the adapter, {name} {size}")
    text = config.get("text_config")
    if isinstance(text, dict) and "vocab_size" in text:
        config = {**config, "text_config": {**text, "vocab_size": rows}}
    if "vocab_size" in config or text is None:
        config = {**config, "vocab_size": rows}
    return config, [f"the vocabulary has {rows} rows now, {was} in the base"]


def _tensors(adapter: Adapter) -> list[str]:
    found = [f"{n}.weight" for n in adapter.modules]
    if adapter.config.get("lora_bias"):
        found += [f"{n}.bias" for n, m in adapter.modules.items() if m.bias is not None]
    return [*found, *adapter.full, *(f"{n}.weight" for n in adapter.tokens)]


def _indices(adapter: Adapter, module: str, count: int) -> np.ndarray:
    wanted: Any = adapter.config.get("trainable_token_indices")
    if isinstance(wanted, dict):
        named = next((v for k, v in wanted.items() if f".{module}".endswith(f".{k}")), None)
        # a tied head shares the embedding's rows and is not named
        wanted = next(iter(wanted.values())) if named is None and len(wanted) == 1 else named
    if not isinstance(wanted, list) or len(wanted) != count or not all(type(i) is int for i in wanted):
        raise BpError(
            "INPUT_ADAPTER_INVALID",
            f"trainable_token_indices do not name the {count} rows of {module}",
            "save the adapter again",
        )
    return np.array(wanted, np.int64)


def _add_module(
    base: Checkpoint,
    edits: dict[str, Edit],
    names: dict[str, str],
    adapter: Adapter,
    name: str,
    weight: float,
    tie: _Tie,
    *,
    flipped: bool,
) -> None:
    module = adapter.modules[name]
    target = names[f"{module.name}.weight"]
    shape = _shape(edits, base, target, tie)
    flipped = flipped or module.embedding
    wants = (module.a.shape[1], module.b.shape[0]) if flipped else (module.b.shape[0], module.a.shape[1])
    if shape != wants:
        if tie.is_vocabulary(target) and shape[1:] == wants[1:]:
            raise _missing(f"{module.name} was trained with {wants[0]} rows, {target} has {shape[0]}")
        raise _wrong(f"{module.name} changes a {wants[0]} × {wants[1]} matrix, {target} is {list(shape)}")
    if module.magnitude is not None:
        if weight != 1:
            raise _unsupported(f"{module.name} is DoRA, which has no weight other than 1")
        if module.magnitude.shape != (module.b.shape[0],):
            raise _wrong(
                f"{module.name} has {module.magnitude.size} magnitudes for {module.b.shape[0]} outputs"
            )
        if target in edits and edits[target].factors:
            raise _unsupported(f"{module.name} is DoRA, which cannot be added to another adapter")

    def factor() -> tuple[np.ndarray, np.ndarray, float]:
        m = adapter.modules[name]
        return m.b, m.a, m.scale * weight

    if module.magnitude is not None and module.embedding:
        raise _unsupported(f"{module.name} is DoRA on an embedding")
    _put(edits, base, target, tie, factor=factor, transposed=flipped, magnitude=module.magnitude)
    if module.bias is not None:
        bias = names[f"{module.name}.bias"]
        values = _shaped(base, bias, module.bias).reshape(-1, 1)
        scale = module.scale * weight
        _put(edits, base, bias, tie, factor=lambda: (values, _ONE, scale))


def _put(
    edits: dict[str, Edit],
    base: Checkpoint,
    target: str,
    tie: _Tie,
    *,
    factor: Callable[[], tuple[np.ndarray, np.ndarray, float]] | None = None,
    **changes: Any,
) -> None:
    info = base.info(tie.source(target))
    if info.dtype not in FLOATS:
        raise BpError(
            "INPUT_QUANTIZED_BASE",
            f"{target} is stored as {info.dtype}",
            "name the 16-bit version of the base model",
        )
    edit = edits.get(target) or Edit(info.name)
    if factor is not None and edit.factors and changes.get("transposed", False) != edit.transposed:
        raise _unsupported(f"adapters disagree on whether {target} is transposed")
    factors = (*edit.factors, factor) if factor is not None else edit.factors
    edits[target] = dataclasses.replace(edit, factors=factors, **changes)


def _shaped(base: Checkpoint, target: str, values: np.ndarray) -> np.ndarray:
    shape = base.info(target).shape
    if values.shape != shape:
        raise _wrong(f"{target} is {list(shape)} in the base and {list(values.shape)} in the adapter")
    return values


def _only(adapters: int, weight: float, why: str) -> None:
    if adapters > 1 or weight != 1:
        raise _unsupported(f"{why}, which has no sum with other adapters and no weight other than 1")


def _check_experts(base: Checkpoint, adapter: Adapter, names: dict[str, str]) -> None:
    """Fused factors of another number of experts than the base's would be cut in the wrong places."""
    if not adapter.config.get("target_parameters"):
        return
    taken = {names[f"{n}.weight"] for n in adapter.modules}
    for name in sorted(taken):
        after = neighbour(name)
        if after is not None and after in base and after not in taken:
            raise _wrong(f"{base.path} has more experts than the adapter: {after}")


def _resolve(base: Checkpoint, wanted: Sequence[str], tie: _Tie) -> tuple[dict[str, str], list[str]]:
    names = {n: n for n in wanted if n in base or n == tie.missing_head(n)}
    names |= {n: old for n in wanted if n not in names and (old := on_disk(n)) in base}
    rest = [n for n in dict.fromkeys(wanted) if n not in names]
    if not rest:
        return names, []
    if whole := next((f for n in rest if (f := fused(n)) and any(b.endswith(f) for b in base.names)), None):
        raise BpError(
            "INPUT_ADAPTER_UNSUPPORTED",
            f"{base.path} keeps all experts in one tensor {whole}; only one matrix for each expert is changed",
            "train it on attention and shared layers, with --target-modules all-linear",
        )
    old, new = _prefixes(base, rest[0])
    for name in rest:
        found = new + name.removeprefix(old)
        found = found if found in base else on_disk(found)
        if not name.startswith(old) or found not in base or found in names.values():
            raise _wrong(f"{base.path} has no tensor {name}")
        names[name] = found
    return names, [f"modules {old or '(none)'}… were found as {new or '(none)'}… in the base"]


def _prefixes(base: Checkpoint, name: str) -> tuple[str, str]:
    """The prefix of `name` and the one of the base's only tensor that ends like it (three parts at least)."""
    parts = name.split(".")
    for keep in range(len(parts), 2, -1):
        end = ".".join(parts[-keep:])
        found = [n for n in base.names if n == end or n.endswith(f".{end}")]
        if len(found) == 1:
            return name.removesuffix(end), found[0].removesuffix(end)
        if found:
            break
    raise _wrong(f"{base.path} has no tensor {name}")


class _Tie:
    """The input embedding and the output head of a base, and whether they are one tensor."""

    def __init__(self, base: Checkpoint) -> None:
        self.base, self.config = base, base.config
        self.embedding = next(
            (n for e in _EMBEDDINGS for n in base.names if f".{n}".endswith(f".{e}.weight")), None
        )
        self.head = next((n for h in _HEADS for n in base.names if n == f"{h}.weight"), None)
        nested = self.config.get("text_config")
        stated = self.config.get("tie_word_embeddings")
        if stated is None and isinstance(nested, dict):
            stated = nested.get("tie_word_embeddings")
        if stated is None:
            classes = self.config.get("architectures")
            generates = isinstance(classes, list) and any(
                str(a).endswith(("ForCausalLM", "Generation")) for a in classes
            )
            stated = self.head is None and generates
        self.tied = bool(stated) and self.embedding is not None

    def missing_head(self, name: str) -> str | None:
        """`name` where it is the head that has no tensor of its own."""
        is_head = name.removesuffix(".weight").rsplit(".", 1)[-1] in _HEADS and name.endswith(".weight")
        return name if self.tied and self.head is None and is_head else None

    def source(self, name: str) -> str:
        """The tensor of the base that stands behind a name."""
        return str(self.embedding) if name not in self.base and self.missing_head(name) else name

    def is_vocabulary(self, name: str) -> bool:
        """Whether the rows of a tensor are tokens."""
        return name in (self.embedding, self.head) or self.missing_head(name) is not None

    def settle(
        self, edits: dict[str, Edit], notes: list[str], untie: bool, *, apart: bool
    ) -> tuple[dict[str, Any], list[str]]:
        """Make both sides agree, or untie, or refuse; the configuration of the result."""
        head = self.head or next((n for n in edits if self.missing_head(n)), "lm_head.weight")
        left = edits.get(self.embedding or "")
        right = edits.get(head)
        if not self.tied or (left is None and right is None):
            return self.config, notes
        sides = (
            "the input embedding" if right is None else "the output head" if left is None else "both sides"
        )
        if (
            not apart
        ):  # what was saved beside the adapter is the tensor that both share, without the factors of one
            if right is None and left is not None and _saved(left):
                right = edits[head] = _plain(left, self.head or str(self.embedding))
            elif left is None and right is not None and _saved(right):
                left = edits[str(self.embedding)] = _plain(right, str(self.embedding))
        if left is not None and right is not None and _same(left, right):
            if self.head is None:
                del edits[head]
            return self.config, notes
        if not untie:
            raise BpError(
                "INPUT_TIED_EMBEDDING",
                f"{sides} of the tied {self.embedding} would change in a way of its own",
                "run it again with --untie, which gives the output head a tensor of its own",
            )
        if right is None:
            edits[head] = Edit(self.head or str(self.embedding))
        return config_with({"tie_word_embeddings": True, **self.config}, tie_word_embeddings=False), [
            *notes,
            f"{head} has a tensor of its own now, tie_word_embeddings is false",
        ]


def _saved(edit: Edit) -> bool:
    return edit.full is not None or edit.rows is not None


def _plain(edit: Edit, source: str) -> Edit:
    """An edit's absolute values for the other side of a tie."""
    return Edit(source, full=edit.full, rows=edit.rows, height=edit.height)


def _same(left: Edit, right: Edit) -> bool:
    """Whether two edits without factors give the same tensor."""
    if left.factors or right.factors or (left.full is None and left.rows is None):
        return False

    def equal(x: np.ndarray | None, y: np.ndarray | None) -> bool:
        if x is None or y is None:
            return x is y
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()

    one, other = left.rows or (None, None), right.rows or (None, None)
    return equal(left.full, right.full) and equal(one[0], other[0]) and equal(one[1], other[1])


def _refuse_quantised(base: Checkpoint) -> None:
    nested = base.config.get("text_config")
    for config in (base.config, nested if isinstance(nested, dict) else {}):
        found = config.get("quantization_config")
        if found:
            method = found.get("quant_method", "unknown") if isinstance(found, dict) else "unknown"
            raise BpError(
                "INPUT_QUANTIZED_BASE",
                f"{base.path} is quantised ({method}); a merge into it would be rounded to a few bits again",
                "name the 16-bit version of the base model",
            )


def _wrong(why: str) -> BpError:
    return BpError("INPUT_WRONG_BASE", why, "name the base model that the adapter was trained on")


def _missing(why: str) -> BpError:
    return BpError(
        "INPUT_EMBEDDINGS_MISSING",
        f"the vocabulary was resized, and not all its rows are in the adapter: {why}",
        "save it again with them: model.save_pretrained(DIR, save_embedding_layers=True)",
    )


def _unsupported(why: str) -> BpError:
    return BpError("INPUT_ADAPTER_UNSUPPORTED", why, "bake this adapter alone, with weight 1")


def config_with(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy of a model's configuration with entries changed wherever they stand, in nested configurations too."""
    found = {
        k: config_with(v, **changes) if isinstance(v, dict) and k.endswith("_config") else v
        for k, v in config.items()
    }
    return {**found, **{k: v for k, v in changes.items() if k in found}}
