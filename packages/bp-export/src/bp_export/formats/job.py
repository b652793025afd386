"""From an adapter to what runs it: the adapter itself, merged weights, GGUF, GGUF adapter, Ollama.

- Plan first: what is impossible (architecture, tokenizer, disk, an Ollama server that is down) is refused before any
  weight is read; `dry_run` ends there.
- Atomic: everything is written beside its final name and renamed when it is whole. Resumable: the same call goes on
  where a killed one stopped, and only with the same inputs.
- Adapter → GGUF is one pass: W + ΔW is summed in f32 row block by row block and rounded once, to the target type; no
  merged folder and no 16-bit file in between.
- What is written is read back before it gets its name in the result. What was not checked is null, with why.
"""

from __future__ import annotations

import dataclasses
import errno
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bp_merge.common import expanded

from bp_export.adapter.directory import write_json
from bp_export.adapter.inputs import AdapterPath, Inputs, open_inputs
from bp_export.errors import BpError
from bp_export.formats.estimate import ExportPlan, tree_bytes
from bp_export.formats.prepared import Prepared
from bp_export.formats.settings import ExportSettings, settings_from
from bp_export.memory import peak_rss_mb

Note = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What was made.

    Args:
        format: as asked for.
        path: the file or directory.
        quantization: number type, None where the adapter was copied.
        size_bytes: of what was made.
        tensors: number of tensors.
        verified: whether it is what was to be written: structure, values against the source, tokenizer; with
            `verify=True` also token ids and predictions in llama.cpp. None where nothing could be checked.
        token_ids_equal: llama.cpp's token ids equal the tokenizer's.
        top1_agreement: share of positions with the same most probable token as the reference.
        kl: mean KL divergence from the reference, nats.
        reference: what the predictions were compared with.
        unchecked: field → why it is null.
        seconds: wall time.
        peak_rss_mb: high-water mark of this process's memory, MB.
        delta: share of the fine-tune left after rounding.
        notices: what the user should know.
        plan: figures made before.
        commands: how to run what was made, one line each.
        ollama: the registered model.
        dry_run: nothing was written.
        run_id: the run that made the adapter, None where that is not recorded.
    """

    format: str
    path: Path
    quantization: str | None
    size_bytes: int
    tensors: int
    verified: bool | None = None
    token_ids_equal: bool | None = None
    top1_agreement: float | None = None
    kl: float | None = None
    reference: str | None = None
    unchecked: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    peak_rss_mb: float | None = None
    delta: dict[str, Any] | None = None
    notices: tuple[str, ...] = ()
    plan: ExportPlan | None = None
    commands: dict[str, str] = dataclasses.field(default_factory=dict)
    ollama: dict[str, Any] | None = None
    dry_run: bool = False
    run_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            **data,
            "path": str(self.path),
            "notices": list(self.notices),
            "plan": self.plan.to_dict() if self.plan else None,
            "seconds": round(self.seconds, 3),
            "peak_rss_mb": round(self.peak_rss_mb, 1) if self.peak_rss_mb is not None else None,
        }


def export(
    adapter: AdapterPath | Sequence[AdapterPath],
    *,
    reference: Callable[[list[int]], Any] | Path | None = None,
    token: str | None = None,
    note: Note | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> ExportResult:
    """Export an adapter (or several of one base, or a whole model).

    Args:
        adapter: adapter directory, several, or a whole model's directory.
        reference: logits of the same model, ids → (T, V), or a GGUF file, to compare with under `verify`; without one
            our own GGUF serves (f16, f32 for f16 and bf16 files), and the result says so.
        token: Hub token for a private or gated base; HF_TOKEN or the saved login unless given.
        note: called with one line for people at a time.
        progress: called with (bytes done, bytes of all).
        **settings: fields of `ExportSettings`: format="lora", quantization="q4_k_m", output, base_model, verify,
            ollama, ollama_name, dry_run, …

    Returns:
        ExportResult: `.path`, and every figure that `--json` prints.

    Raises:
        BpError: coded (`bp_export.errors`, `bp_merge.errors`); nothing stands under the final
            name then.

    Example:
        >>> export("output/RUN/adapter", format="gguf", quantization="q4_k_m").path  # doctest: +SKIP
        PosixPath('output/RUN/exports/gguf/Qwen2.5-0.5B-lora-Q4_K_M.gguf')
    """
    return run(
        adapter, settings_from(settings), reference=reference, token=token, note=note, progress=progress
    )


def run(
    adapter: AdapterPath | Sequence[AdapterPath],
    settings: ExportSettings,
    *,
    reference: Callable[[list[int]], Any] | Path | None = None,
    token: str | None = None,
    note: Note | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Like `export`, with the settings built already."""
    from bp_export.formats.runners import commands_for, lm_studio
    from bp_export.hub.token import read_token

    began, tell = time.perf_counter(), note or (lambda _text: None)
    s = settings
    secret = read_token(token=token, token_file=s.hub_token_file, warn=tell)
    inputs = open_inputs(
        adapter,
        base_model=None if s.format == "ollama-adapter" else s.base_model,
        token=secret,
        weights=s.format in ("merged", "gguf") or (s.verify and s.format != "lora"),
    )
    _refuse_whole_model(inputs, s)
    job = prepare(inputs, s)
    for text in inputs.notices:
        tell(text)
    result = ExportResult(
        format=s.format,
        path=job.path,
        quantization=job.quantization,
        size_bytes=job.plan.output_bytes,
        tensors=job.plan.tensors,
        unchecked=dict.fromkeys(
            ("verified", "token_ids_equal", "top1_agreement", "kl"), "nothing was written: dry run"
        ),
        notices=inputs.notices,
        plan=job.plan,
        dry_run=True,
        run_id=inputs.info.run_id if inputs.info is not None else None,
    )
    client = _ollama_client(s)
    try:
        if client is not None:
            _check_ollama_early(client, s, inputs)
            step = f"register with Ollama at {client.url} as {_ollama_name(s, inputs)}"
            job = dataclasses.replace(job, plan=dataclasses.replace(job.plan, steps=(*job.plan.steps, step)))
            result = dataclasses.replace(result, plan=job.plan)
        if not s.overwrite and job.path.exists():
            raise BpError(
                "INPUT_OUTPUT_EXISTS",
                f"{job.path} exists",
                "choose another --output, or leave out --no-overwrite",
            )
        job.plan.require_disk()
        if s.dry_run:
            return dataclasses.replace(result, seconds=time.perf_counter() - began)
        tell(f"writing {job.path}")
        try:
            written = job.write(reference if s.verify else None, tell, progress)
        except OSError as error:
            raise _unwritable(error, job.path) from error
        registered = None
        if client is not None:
            registered = _register(client, inputs, s, job.path, tell)
        if s.lm_studio:
            tell(f"in LM Studio as {lm_studio(job.path)}")
    finally:
        if client is not None:
            client.close()
    result = dataclasses.replace(
        result,
        **written.checks,
        size_bytes=tree_bytes(job.path),
        tensors=written.tensors,
        unchecked=written.unchecked,
        seconds=time.perf_counter() - began,
        peak_rss_mb=peak_rss_mb(),
        delta=written.delta,
        notices=(*inputs.notices, *written.notices, *((registered or {}).get("notes") or ())),
        commands=commands_for(
            s.format,
            job.path,
            inputs.base.ref,
            name=(registered or {}).get("name"),
            rank=int(inputs.adapters[0].peft.get("r") or 0) if inputs.adapters else 0,
        ),
        ollama=registered,
        dry_run=False,
    )
    for text in (*written.notices, *((registered or {}).get("notes") or ())):
        tell(text)
    if job.record is not None:
        known = {"inputs_sha256": job.identity} if job.identity else {}
        write_json(job.record, {"schema_version": 1, **result.to_dict(), **known})
    return result


def prepare(inputs: Inputs, s: ExportSettings) -> Prepared:
    """Decide what will be written where; nothing is written and no weight is read.

    Only the module of the wanted format is imported: copying an adapter needs no numpy.
    """
    reserve = int(s.reserve_disk_gb * 1e9)
    if s.format == "lora":
        from bp_export.formats.lora import prepare_lora as chosen
    elif s.format == "merged":
        from bp_export.formats.merged import prepare_merged as chosen
    elif s.format == "gguf":
        from bp_export.formats.gguf import prepare_gguf as chosen
    else:
        from bp_export.formats.gguf_lora import prepare_gguf_lora as chosen
    return chosen(inputs, s, reserve)


def _unwritable(error: OSError, path: Path) -> BpError:
    """What the disk refused, as a code; what was written so far stays for the next call."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return BpError(
            "RUNTIME_DISK_FULL",
            f"the disk of {path.parent} ran full",
            "free space and run the same command again, which goes on; or choose another --output",
            details={"path": str(path)},
        )
    return BpError(
        "RUNTIME_EXPORT_FAILED",
        f"{error.filename or path}: {error.strerror or error}",
        "check the folder, or choose another --output",
        details={"path": str(path)},
    )


def _refuse_whole_model(inputs: Inputs, s: ExportSettings) -> None:
    if not inputs.adapters and s.format in ("lora", "gguf-lora", "ollama-adapter"):
        raise BpError(
            "INPUT_ADAPTER_INVALID",
            f"{inputs.root} is a whole model, not an adapter; --format {s.format} needs an adapter",
            f"backprop export {inputs.root} --format gguf",
        )
    if len(inputs.adapters) > 1 and s.format in ("lora", "gguf-lora", "ollama-adapter"):
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"--format {s.format} takes one adapter; {len(inputs.adapters)} were named",
            "combine them first: backprop merge merge ADAPTER ADAPTER --output DIR",
        )


def _ollama_client(s: ExportSettings) -> Any:
    if not (s.ollama or s.format == "ollama-adapter"):
        return None
    from bp_export.ollama.client import Ollama

    return Ollama(s.ollama_host)


def _check_ollama_early(client: Any, s: ExportSettings, inputs: Inputs) -> None:
    """An hour of quantizing must not end at a server that was down from the start."""
    from bp_export.ollama.modelfile import read_modelfile
    from bp_export.ollama.register import existing_base

    client.require()
    if s.format == "ollama-adapter" and not expanded(str(s.base_model)).is_file():
        existing_base(client, str(s.base_model))
    if s.modelfile is not None:
        read_modelfile(s.modelfile)
    name = _ollama_name(s, inputs)
    existing = client.find(name) if name else None
    if existing is not None and not s.overwrite:
        raise BpError(
            "OLLAMA_MODEL_EXISTS",
            f"the Ollama server has a model {existing} already",
            f"choose another --ollama-name, or leave out --no-overwrite; to remove it: backprop ollama rm {existing}",
        )


def _ollama_name(s: ExportSettings, inputs: Inputs) -> str | None:
    from bp_export.ollama.names import adapter_name, parse_name, sanitize

    if s.ollama_name:
        return parse_name(s.ollama_name).short
    if s.format != "ollama-adapter":
        return parse_name(sanitize(inputs.name)).short
    tag = sanitize(s.adapter_tag or inputs.root.resolve().name)
    base = str(s.base_model)
    return adapter_name(sanitize(Path(base).stem) if Path(base).is_file() else base, tag).short


def _register(client: Any, inputs: Inputs, s: ExportSettings, path: Path, tell: Note) -> dict[str, Any]:
    from bp_export.formats.description import chat_keys, generation_config
    from bp_export.ollama.register import generation_parameters, register

    unmerged = s.format == "ollama-adapter"
    result = register(
        path,
        _ollama_name(s, inputs),
        client=client,
        base=s.base_model if unmerged else None,
        modelfile=s.modelfile,
        keys=chat_keys(inputs) if unmerged else None,
        system=s.system,
        parameters=generation_parameters(generation_config(inputs)),
        licence=inputs.licence.id,
        no_overwrite=not s.overwrite,
        smoke=s.smoke,
        write_to=path.parent / "Modelfile",
        progress=tell,
    )
    return result.to_dict()
