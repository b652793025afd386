"""Reading a written GGUF file back, and the figures that go into the result.

- Always: structure, values against the source, vocabulary and template against the tokenizer's files.
- With `verify`: token ids and predictions in llama.cpp. Without a reference from the caller a file of our own is made
  for the comparison and removed again; the result names it. It is f16 where the checked file is coarser than that: half
  the bytes, and some 1e-6 nats from f32 (bf16 is 1e-4, for llama.cpp rounds what it multiplies to the file's type).
  Where f16 overflows, in a weight or while computing, f32 takes its place and that is told.
- An adapter's file is compared, under `verify`, on our own f32 file of its base with our own f32 file of the merged model.
- A file that is wrong never gets its name: it is set aside as `NAME.rejected`, and the error says what is wrong with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bp_export.adapter.inputs import Inputs
from bp_export.errors import BpError
from bp_export.formats.prepared import Written
from bp_export.formats.settings import ExportSettings
from bp_export.verify.delta import survival

if TYPE_CHECKING:
    from bp_export.verify.gguf import VerifyResult

OWN_REFERENCE = "our own {} GGUF of the same weights"
SHARED_FAULT = (
    "the reference was written by the same code: a fault of the architecture's graph or of its keys is in both and"
    " cannot be seen; only logits of the model itself (verify(reference=…)) show it"
)
_RUNTIME_FIELDS = ("token_ids_equal", "top1_agreement", "kl")


def check_gguf(
    inputs: Inputs,
    s: ExportSettings,
    file: Path,
    final: Path,
    source: Any,
    config: dict[str, Any],
    general: dict[str, Any],
    reference: Any,
    tell: Callable[[str], None],
) -> Written:
    """Check a written model file before it gets its name; the figures, with why where one is missing.

    Raises:
        BpError: `RUNTIME_GGUF_CHECK_FAILED`; nothing new stands under the final name then.
    """
    from bp_export.verify.gguf import verify
    from bp_export.verify.runtime import available

    def check(against: Any, name: str = "") -> VerifyResult:
        return verify(
            file,
            against,
            source=source,
            config=config,
            tokenizer_dir=inputs.tokenizer,
            runtime=s.verify,
            reference_name=name,
        )

    own = s.verify and reference is None and available() is not None
    if not own:
        found = check(reference)
    elif s.quantization == "f32":
        found = check(file, "the file itself (f32)")
    else:
        found = None
        if own_reference_type(s.quantization) == "f16":
            try:
                with _scratch(inputs, s, source, final, "reference", config, tell, "f16") as half:
                    found = check(half, OWN_REFERENCE.format("f16"))
            except BpError as error:
                if error.code != "INPUT_TENSOR_NOT_FINITE":
                    raise
            if found is None or (found.reference is not None and found.kl is None):
                found = None
                tell("f16 is too narrow for this model to compare with: f32 takes its place")
        if found is None:
            with _scratch(inputs, s, source, final, "reference", config, tell, "f32") as whole:
                found = check(whole, OWN_REFERENCE.format("f32"))
    _accept(found, file, final)
    unchecked = dict(found.unchecked)
    if not s.verify:
        unchecked |= dict.fromkeys(_RUNTIME_FIELDS, "not asked for: add --verify")
    elif found.kl is not None and own:
        unchecked["computation"] = SHARED_FAULT
    delta, warnings = None, list(getattr(source, "notes", ()))
    if inputs.adapters:
        survived = survival(source.base, source, _types(config, source, file))
        if survived is not None:
            delta = survived.to_dict()
            warnings += [survived.warning()] if survived.warning() else []
    return Written(
        found.tensors,
        _figures(found),
        {k: v for k, v in unchecked.items() if k in (*_RUNTIME_FIELDS, "computation")},
        delta,
        tuple(warnings),
    )


def check_gguf_lora(
    inputs: Inputs,
    s: ExportSettings,
    file: Path,
    final: Path,
    adapter: Any,
    config: dict[str, Any],
    reference: Any,
    tell: Callable[[str], None],
) -> Written:
    """Check a written adapter file before it gets its name; under `verify` on its base, beside the merged model.

    Raises:
        BpError: `RUNTIME_GGUF_CHECK_FAILED`; nothing new stands under the final name then.
    """
    from bp_merge.checkpoint import Checkpoint

    from bp_export.verify.gguf import verify
    from bp_export.verify.gguf_lora import verify_lora
    from bp_export.verify.runtime import available

    found = verify_lora(file)
    if len(found.types) != 1 or found.tensors != 2 * len(adapter.modules):
        told = f"it holds {found.tensors} tensors for {len(adapter.modules)} modules"
        found = dataclasses.replace(found, problems=(*found.problems, told))
    if not found.problems and s.verify and available() is not None:
        with contextlib.ExitStack() as stack:
            with Checkpoint.open(inputs.base.path) as base:
                whole = stack.enter_context(_scratch(inputs, s, base, final, "base", config, tell))
            name = ""
            if reference is None:
                name = OWN_REFERENCE.format("f32")
                with inputs.weights() as merged:
                    reference = stack.enter_context(
                        _scratch(inputs, s, merged, final, "reference", config, tell)
                    )
            on_base = verify_lora(file, whole)
            ran = verify(
                whole,
                reference,
                tokenizer_dir=inputs.tokenizer,
                lora=[(file, 1.0)],
                reference_name=name,
            )
        found = dataclasses.replace(
            ran, tensors=found.tensors, problems=(*on_base.problems, *ran.problems), unchecked=ran.unchecked
        )
    _accept(found, file, final)
    if not s.verify:
        why = "not asked for: add --verify"
    else:
        why = "no llama.cpp runtime: pip install 'bp-export[verify]'"
    figures = _figures(found)
    missed = {k: why for k in _RUNTIME_FIELDS if figures[k] is None}
    if figures["reference"] == OWN_REFERENCE.format("f32"):
        missed["computation"] = SHARED_FAULT
    return Written(found.tensors, figures, missed)


def own_reference_type(quantization: str) -> str:
    """The number type of the file that one of this quantization is compared with: twice as fine at least."""
    return "f32" if quantization in ("f32", "f16", "bf16") else "f16"


@contextlib.contextmanager
def _scratch(
    inputs: Inputs,
    s: ExportSettings,
    source: Any,
    final: Path,
    role: str,
    config: dict[str, Any],
    tell: Callable[[str], None],
    kind: str = "f32",
) -> Iterator[Path]:
    """A file to compare with, removed afterwards."""
    from bp_export.gguf.write import write_gguf

    path = final.with_name(f".{final.stem}.{role}-{kind}.gguf")
    tell(f"writing an {kind} file of the {'base' if role == 'base' else 'same weights'} to compare with")
    try:
        write_gguf(source, config, inputs.tokenizer, path, kind, threads=s.threads)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _accept(found: VerifyResult, file: Path, final: Path) -> None:
    if not found.problems:
        return
    rejected = final.with_name(final.name + ".rejected")
    file.replace(rejected)
    raise BpError(
        "RUNTIME_GGUF_CHECK_FAILED",
        f"what was written is wrong and was set aside as {rejected.name}: {found.problems[0]}",
        "report this with the architecture and the versions: backprop info",
        details={"problems": list(found.problems)},
    )


def _figures(found: VerifyResult) -> dict[str, Any]:
    return {
        "verified": found.verified,
        "token_ids_equal": found.token_ids_equal,
        "top1_agreement": found.top1_agreement,
        "kl": found.kl,
        "reference": found.reference,
    }


def _types(config: dict[str, Any], source: Any, path: Path) -> dict[str, str]:
    """Number type of each touched tensor, under its name in the checkpoint."""
    from bp_export.gguf.arch import family, rename
    from bp_export.gguf.read import GgufFile

    fam, tensors = family(config), GgufFile(path).tensors
    types = {}
    for name in source.touched:
        target = rename(fam, name)
        if target in tensors:
            types[name] = tensors[target].type
    return types
