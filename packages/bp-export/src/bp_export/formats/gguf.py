"""A GGUF model in one pass from base and adapters, with a Modelfile beside it.

- A killed export goes on: the file that was written whole is known by the mark beside it and only read back again.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from bp_export.adapter.directory import write_text
from bp_export.adapter.inputs import Inputs
from bp_export.formats.description import general_keys, write_modelfile
from bp_export.formats.estimate import make_plan
from bp_export.formats.places import gguf_path, unchecked
from bp_export.formats.prepared import Prepared, Progress, Tell, Written
from bp_export.formats.readback import check_gguf, own_reference_type
from bp_export.formats.settings import ExportSettings
from bp_export.gguf.computes import told
from bp_export.gguf.plan import plan_gguf
from bp_export.gguf.write import partial_of, write_gguf


def prepare_gguf(inputs: Inputs, s: ExportSettings, reserve: int) -> Prepared:
    """Decide a GGUF model from the headers; no weight is read and nothing is written.

    Raises:
        BpError: `INPUT_ARCHITECTURE_UNKNOWN`, `INPUT_MODEL_UNSUPPORTED`, `INPUT_TOKENIZER_…`, `INPUT_TENSOR_…`.
    """
    general = general_keys(inputs)
    path = gguf_path(inputs, s, s.quantization.upper())
    with inputs.weights() as source:
        config = dict(source.config)
        planned = plan_gguf(source, config, inputs.tokenizer, s.quantization, general=general)
    vocabulary = 40 * len(planned.keys.get("tokenizer.ggml.tokens") or ())
    width = 4 if own_reference_type(s.quantization) == "f32" else 2
    reference_bytes = planned.parameters * width if s.verify and s.quantization != "f32" else 0
    plan = make_plan(
        path,
        kind=s.quantization,
        output_bytes=planned.data_bytes + vocabulary,
        tensors=len(planned.entries),
        parameters=planned.parameters,
        extra_bytes=reference_bytes,
        reserve_bytes=reserve,
        partial=partial_of(unchecked(path)),
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
        identity = inputs.identity("gguf", s.quantization, general)
        staging, mark = unchecked(path), path.with_name(path.name + ".written")
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

    return Prepared(path, s.quantization, plan, write, path.with_suffix(".export.json"))
