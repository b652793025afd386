"""Reading a written GGUF file back, and the figures that go into the result.

- Always: structure, values against the source, vocabulary and template against the tokenizer's files.
- With `verify`: token ids and predictions in llama.cpp. Without a reference from the caller our own f32 file is made
  for the comparison and removed again; the result names the reference.
- A file that is wrong loses its name: it is renamed to `NAME.rejected`, and the error says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .delta import survival
from .errors import BpError
from .formats import Written
from .settings import ExportSettings
from .sources import Inputs

OWN_REFERENCE = "our own f32 GGUF of the same weights"
_RUNTIME_FIELDS = ("token_ids_equal", "top1_agreement", "kl")


def check_gguf(
    inputs: Inputs,
    s: ExportSettings,
    path: Path,
    source: Any,
    config: dict[str, Any],
    general: dict[str, Any],
    reference: Any,
    tell: Callable[[str], None],
) -> Written:
    """Check a written model file; the figures, with why where one is missing.

    Raises:
        BpError: `RUNTIME_GGUF_CHECK_FAILED`; the file does not stand under its final name then.
    """
    from .gguf.write import write_gguf
    from .runtime import available
    from .verify import verify

    scratch: Path | None = None
    name = ""
    if s.verify and reference is None and available() is not None:
        name = OWN_REFERENCE
        if s.quantization == "f32":
            reference, name = path, "the file itself (f32)"
        else:
            tell("writing an f32 file to compare with")
            scratch = path.with_name(f".{path.stem}.reference-f32.gguf")
            write_gguf(source, config, inputs.tokenizer, scratch, "f32", general=general, threads=s.threads)
            reference = scratch
    try:
        found = verify(
            path,
            reference,
            source=source,
            config=config,
            tokenizer_dir=inputs.tokenizer,
            runtime=s.verify,
            reference_name=name,
        )
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)
    if found.problems:
        rejected = path.with_name(path.name + ".rejected")
        path.replace(rejected)
        raise BpError(
            "RUNTIME_GGUF_CHECK_FAILED",
            f"what was written is wrong and was set aside as {rejected.name}: {found.problems[0]}",
            "report this with the architecture and the versions: backprop doctor",
            details={"problems": list(found.problems)},
        )
    unchecked = dict(found.unchecked)
    if not s.verify:
        unchecked |= dict.fromkeys(_RUNTIME_FIELDS, "not asked for: add --verify")
    delta, warnings = None, list(getattr(source, "notes", ()))
    if inputs.adapters:
        survived = survival(source.base, source, _types(config, source, path))
        if survived is not None:
            delta = survived.to_dict()
            warnings += [survived.warning()] if survived.warning() else []
    return Written(
        found.tensors,
        {
            "verified": found.verified,
            "token_ids_equal": found.token_ids_equal,
            "top1_agreement": found.top1_agreement,
            "kl": found.kl,
            "reference": found.reference,
        },
        {k: v for k, v in unchecked.items() if k in _RUNTIME_FIELDS},
        delta,
        tuple(warnings),
    )


def _types(config: dict[str, Any], source: Any, path: Path) -> dict[str, str]:
    """Number type of each touched tensor, under its name in the checkpoint."""
    from .gguf.arch import family, rename
    from .gguf.read import GgufFile

    fam, tensors = family(config), GgufFile(path).tensors
    types = {}
    for name in source.touched:
        target = rename(fam, name)
        if target in tensors:
            types[name] = tensors[target].type
    return types
