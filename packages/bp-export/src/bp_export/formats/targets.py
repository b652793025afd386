"""The five things an adapter becomes: where each is written, what it needs, and how it is checked.

- `prepare` decides everything without reading weights and returns a `Job`; `Job.write` does it.
- lora: PEFT's files, the tokenizer and the records, nothing else (no optimizer state, no checkpoints), each file
  compared by digest with its source.
- merged: bp-merge's bake (weights, tokenizer, template, licence) into a hidden folder, then one rename.
- gguf: one pass from base and adapters; a Modelfile lies beside it. gguf-lora: the adapter alone. A file is called
  `NAME.unchecked` until it was read back; only then it gets its name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bp_export.adapter.base import has_weights
from bp_export.adapter.directory import FILE, weights_shape, write_text
from bp_export.adapter.inputs import Inputs
from bp_export.adapter.tokenizer_files import tokenizer_files
from bp_export.errors import BpError
from bp_export.formats.facts import general_keys, write_modelfile
from bp_export.formats.plan import ExportPlan, make_plan
from bp_export.formats.settings import ExportSettings
from bp_export.ollama.names import sanitize

_ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    FILE,
    "README.md",
    "generation_config.json",
)

RECORD = "export.json"
Tell = Callable[[str], None]
Progress = Callable[[int, int], None] | None


@dataclasses.dataclass
class Written:
    """What a job made: figures for the result."""

    tensors: int
    checks: dict[str, Any] = dataclasses.field(default_factory=dict)
    unchecked: dict[str, str] = dataclasses.field(default_factory=dict)
    delta: dict[str, Any] | None = None
    notices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Job:
    """An export that is ready to run.

    Args:
        path: what will be made.
        quantization: number type, None where the adapter is copied.
        plan: figures.
        write: does it: (reference, note, progress).
        record: where the result is recorded, None for a plain copy.
        identity: names the exact inputs and settings, in the record.
    """

    path: Path
    quantization: str | None
    plan: ExportPlan
    write: Callable[[Any, Tell, Progress], Written]
    record: Path | None = None
    identity: str = ""


def prepare(inputs: Inputs, s: ExportSettings) -> Job:
    """Decide what will be written where; nothing is written and no weight is read."""
    reserve = int(s.reserve_disk_gb * 1e9)
    make = {"lora": _lora, "merged": _merged, "gguf": _gguf}.get(s.format, _gguf_lora)
    return make(inputs, s, reserve)


def output_dir(inputs: Inputs, s: ExportSettings) -> Path:
    """Where the result goes: the user's choice, else RUN/exports/FORMAT for a run's adapter, else ADAPTER/FORMAT.

    A run owns its adapter and checkpoints and may replace them; its exports lie beside them, where it never writes.
    """
    run = _run_of(inputs.root.absolute()) if inputs.adapters else None
    beside = inputs.root
    if run is not None:
        inner = inputs.root.absolute().relative_to(run)
        beside = run / "exports" / (inner.parent if inner.name == "adapter" else inner)
    chosen = s.output.expanduser() if s.output is not None else beside / s.format
    if chosen.resolve() in (inputs.root.resolve(), inputs.base.path.resolve()):
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{chosen} is where the input lies; an export never writes over its input",
            "choose another --output",
        )
    return chosen


def _run_of(adapter: Path) -> Path | None:
    """The run's folder that an adapter lies in (RUN/adapter, RUN/checkpoints/STEP/adapter), by its manifest."""
    near = [folder for folder in list(adapter.parents)[:3] if (folder / "manifest.json").is_file()]
    return near[-1] if near else None


# ------------------------------------------------------------------------------------------------ lora


def _lora(inputs: Inputs, s: ExportSettings, reserve: int) -> Job:
    out, root = output_dir(inputs, s), inputs.root
    files = [Path(f) for f in _ADAPTER_FILES if (root / f).is_file()] + tokenizer_files(root)
    total = sum((root / f).stat().st_size for f in files)
    tensors, parameters = weights_shape(root)
    plan = make_plan(
        out,
        kind="lora",
        output_bytes=total,
        tensors=tensors,
        parameters=parameters,
        reserve_bytes=reserve,
        steps=tuple(f"copy {f.as_posix()}" for f in files),
    )

    def write(_reference: Any, _tell: Tell, progress: Progress) -> Written:
        staging = _staging(out)
        shutil.rmtree(staging, ignore_errors=True)
        done = 0
        for file in files:
            target = staging / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / file, target)
            if _digest(target) != _digest(root / file):
                raise BpError(
                    "RUNTIME_EXPORT_FAILED",
                    f"{file} changed while it was copied",
                    "run the same command again",
                )
            done += target.stat().st_size
            if progress is not None:
                progress(done, total)
        _publish(staging, out)
        why = "an unmerged adapter has no predictions of its own; --format gguf --verify compares them"
        return Written(
            tensors,
            {"verified": True},
            dict.fromkeys(("token_ids_equal", "top1_agreement", "kl"), why),
        )

    return Job(out, None, plan, write)


# ------------------------------------------------------------------------------------------------ merged


def _merged(inputs: Inputs, s: ExportSettings, reserve: int) -> Job:
    from bp_export.formats.merged import plan_merged, write_merged

    out = output_dir(inputs, s)
    staging = _staging(out)
    figures = plan_merged(inputs, s.dtype)
    plan = make_plan(
        out,
        kind="merged",
        output_bytes=figures["bytes"],
        tensors=figures["tensors"],
        parameters=figures["parameters"],
        reserve_bytes=reserve,
        partial=staging,
        steps=(
            "sum base and adapters in f32, shard by shard",
            "copy tokenizer, template and generation settings",
            "compare every value with the sum"
            if s.verify
            else "compare samples of every tensor with the sum",
        ),
    )

    def write(_reference: Any, tell: Tell, progress: Progress) -> Written:
        made = write_merged(inputs, staging, s.dtype, progress, every=s.verify)
        own = inputs.root / "generation_config.json"  # as trained: it knows where answers end
        if inputs.adapters and own.is_file():
            write_text(staging / own.name, own.read_text("utf-8"))
        _publish(staging, out)
        why = "merged weights run in transformers; bp-core compares them there"
        return Written(
            figures["tensors"],
            {"verified": made["verified"]},
            dict.fromkeys(("token_ids_equal", "top1_agreement", "kl"), why),
            made["delta"],
            tuple(made["notices"]),
        )

    return Job(out, figures["dtype"], plan, write, out / RECORD, inputs.identity("merged", s.dtype))


# ------------------------------------------------------------------------------------------------ gguf


def _gguf(inputs: Inputs, s: ExportSettings, reserve: int) -> Job:
    from bp_export.gguf.computes import told
    from bp_export.gguf.plan import plan_gguf
    from bp_export.gguf.write import partial_of

    general = general_keys(inputs)
    path = _gguf_path(inputs, s, s.quantization.upper())
    with inputs.weights() as source:
        config = dict(source.config)
        planned = plan_gguf(source, config, inputs.tokenizer, s.quantization, general=general)
    vocabulary = 40 * len(planned.keys.get("tokenizer.ggml.tokens") or ())
    reference_bytes = planned.parameters * 4 if s.verify and s.quantization != "f32" else 0
    plan = make_plan(
        path,
        kind=s.quantization,
        output_bytes=planned.data_bytes + vocabulary,
        tensors=len(planned.entries),
        parameters=planned.parameters,
        extra_bytes=reference_bytes,
        reserve_bytes=reserve,
        partial=partial_of(_unchecked(path)),
        steps=(
            f"base + adapters → {s.quantization} in one pass",
            "read back",
            *(("run in llama.cpp",) if s.verify else ()),
        ),
    )
    fallen = sum(1 for _ in planned.fallen)
    notices = told(config, planned.family.name)
    if fallen:
        notices = (
            *notices,
            f"{fallen} of {len(planned.entries)} tensors have rows that {s.quantization} cannot take (not a multiple of"
            " 256); they are kept in a finer type, as llama.cpp does, and the file is larger",
        )

    def write(reference: Any, tell: Tell, progress: Progress) -> Written:
        from bp_export.gguf.write import write_gguf
        from bp_export.verify.readback import check_gguf

        identity = inputs.identity("gguf", s.quantization, general)
        staging, mark = _unchecked(path), path.with_name(path.name + ".written")
        with inputs.weights() as source:
            if not (staging.is_file() and mark.is_file() and mark.read_text("utf-8") == identity):
                write_gguf(
                    source,
                    config,
                    inputs.tokenizer,
                    staging,
                    s.quantization,
                    general=general,
                    source_id=identity,
                    threads=s.threads,
                    progress=progress,
                )
                write_text(mark, identity)
            checked = check_gguf(inputs, s, staging, path, source, config, general, reference, tell)
        staging.replace(path)
        mark.unlink()
        write_modelfile(inputs, path, system=s.system)
        return dataclasses.replace(checked, notices=(*notices, *checked.notices))

    return Job(path, s.quantization, plan, write, path.with_suffix(".export.json"))


def _gguf_lora(inputs: Inputs, s: ExportSettings, reserve: int) -> Job:
    from bp_merge.adapter import Adapter

    from bp_export.gguf.lora import check_expressible, write_gguf_lora

    config, general = inputs.config(), general_keys(inputs)
    path = _gguf_path(inputs, s, "LoRA")
    tensors, parameters = weights_shape(inputs.root)
    adapter = Adapter.load(inputs.root)
    check_expressible(adapter)
    _check_modules(inputs, adapter, int(config.get("num_hidden_layers") or 0))
    plan = make_plan(
        path,
        kind="lora",
        output_bytes=parameters * 4,
        tensors=tensors,
        parameters=parameters,
        extra_bytes=_scratch_bytes(inputs) if s.verify else 0,
        reserve_bytes=reserve,
        steps=(
            "write the adapter's pairs in llama.cpp's order",
            "read back",
            *(("run in llama.cpp on the base, beside the merged model",) if s.verify else ()),
        ),
    )

    def write(reference: Any, tell: Tell, _progress: Progress) -> Written:
        from bp_export.verify.readback import check_gguf_lora

        staging = _unchecked(path)
        write_gguf_lora(adapter, config, staging, general=general)
        written = check_gguf_lora(inputs, s, staging, path, adapter, config, reference, tell)
        staging.replace(path)
        return written

    return Job(path, "f32", plan, write, path.with_suffix(".export.json"))


def _check_modules(inputs: Inputs, adapter: Any, layers: int) -> None:
    """Every module must be one of the base, of the same shape where the base's weights lie here.

    Raises:
        BpError: `INPUT_WRONG_BASE`.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    if has_weights(inputs.base.path):
        from bp_merge.checkpoint import Checkpoint

        with Checkpoint.open(inputs.base.path) as base:
            shapes = {n.removesuffix(".weight"): tuple(base.info(n).shape) for n in base.names}
    for name, module in adapter.modules.items():
        layer = re.search(r"\.layers\.(\d+)\.", f".{name}")
        beyond = layer is not None and 0 < layers <= int(layer.group(1))
        tail = name.rsplit("layers.", 1)[-1]
        here = next((s for n, s in shapes.items() if n == name or n.endswith(f".{tail}")), None)
        wanted = (module.b.shape[0], module.a.shape[1])
        if beyond or (shapes and (here is None or sorted(here) != sorted(wanted))):
            told = (
                f"has no {name}"
                if beyond or here is None
                else f"has {name} as {here}, the adapter as {wanted}"
            )
            raise BpError(
                "INPUT_WRONG_BASE",
                f"the base {inputs.base.ref} {told}",
                f"name the model that the adapter was trained on: --base-model {inputs.base.ref}",
            )


def _unchecked(path: Path) -> Path:
    """What a GGUF file is called until it was read back."""
    return path.with_name(path.name + ".unchecked")


def _scratch_bytes(inputs: Inputs) -> int:
    """Bytes of the base and of the merged model as f32 files."""
    from bp_merge.checkpoint import Checkpoint

    with Checkpoint.open(inputs.base.path) as base:
        return 8 * sum(math.prod(base.info(n).shape) for n in base.names)


def _gguf_path(inputs: Inputs, s: ExportSettings, suffix: str) -> Path:
    out = output_dir(inputs, s)
    if out.suffix == ".gguf":
        return out
    stem = sanitize_file(f"{inputs.name}-{suffix}")
    return out / f"{stem}.gguf"


def sanitize_file(name: str) -> str:
    """A file name that every system and the Hub take; case is kept.

    >>> sanitize_file("My Model/v2-Q4_K_M")
    'My-Model-v2-Q4_K_M'
    """
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).strip(".-")
    return kept or sanitize(name)


# ------------------------------------------------------------------------------------------------ files


def _staging(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


def _publish(staging: Path, out: Path) -> None:
    """Give a finished folder its name; what stood there before is replaced only now."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    staging.replace(out)
    shutil.rmtree(old, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
