"""The adapter directory: the seam between training, merging, exporting and the user's other tools.

- It is a PEFT directory (adapter_model.safetensors, adapter_config.json) with the tokenizer and chat template as
  trained and one more file, `backprop.json`, which says where it came from. PEFT ignores that file.
- Nothing is required of it but PEFT's two files: an adapter of another tool reads as one whose origin is unknown.
- `backprop.json`, schema 1:
      schema_version          1
      run_id                  the run that made it, or null
      base_model              {"ref": path or Hub id, "revision": commit or null, "config_sha256": hex or null}
      chat_template_sha256    of the template that training used, or null
      licence                 of the base model (an SPDX-like id as the Hub writes it), or null
      method                  "sft", "dpo", "merge:ties", …
      created                 UTC, ISO 8601
      training                hyper-parameters as plain data, or absent
      datasets                [{"name": …, "revision": …, "fingerprint": …}], or absent
      evaluation              [{"task", "dataset", "metric", "value", "split"?}], or absent
      loss_curve              [[step, loss], …], thinned by the writer, or absent
  Unknown keys are kept on reading and writing: a newer minor tool may add some. A newer schema_version is refused.
- A whole model that a run trained carries the same file; its `base_model` is what the training began with.
- The configuration hash is over the meaning of config.json: keys that a re-save changes are left out, so that a
  copy of the base made by transformers still matches.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_merge.common import expanded

from bp_export.errors import BpError

FILE = "backprop.json"
SCHEMA_VERSION = 1

# Rewritten by save_pretrained or by the loader, without a change of the model.
_VOLATILE = frozenset(
    {
        "_name_or_path",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "_attn_implementation_autoset",
        "quantization_config",  # an adapter that was trained on a rounded copy is merged on the model itself
    }
)


@dataclasses.dataclass(frozen=True)
class AdapterInfo:
    """What an adapter directory says about itself, or a whole model's that a run trained.

    Args:
        path: the directory.
        base_ref: path, entry point or Hub id of the base, from backprop.json, else from adapter_config.json.
        base_revision: the Hub commit of the base.
        base_config_sha256: `config_sha256` of the base at training time.
        chat_template_sha256: `text_sha256` of the template that training used.
        run_id: the run that made it.
        licence: of the base model.
        method: how it was made.
        created: UTC, ISO 8601.
        training: hyper-parameters as plain data.
        datasets: what it was trained on.
        evaluation: results, one mapping each.
        loss_curve: (step, loss) pairs.
        peft: adapter_config.json as it stands.
        extra: keys of backprop.json that this version does not know.
    """

    path: Path
    base_ref: str | None = None
    base_revision: str | None = None
    base_config_sha256: str | None = None
    chat_template_sha256: str | None = None
    run_id: str | None = None
    licence: str | None = None
    method: str | None = None
    created: str | None = None
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    datasets: Sequence[Mapping[str, Any]] = ()
    evaluation: Sequence[Mapping[str, Any]] = ()
    loss_curve: Sequence[tuple[int, float]] = ()
    peft: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> AdapterInfo:
        """Read an adapter directory; its weights are not opened.

        Raises:
            BpError: `INPUT_ADAPTER_INVALID` where the directory, PEFT's files or the JSON in them are not sound.
        """
        folder = expanded(path)
        if not folder.is_dir():
            raise _invalid(
                folder,
                f"there is no adapter directory {folder}",
                "name the folder of an adapter; those of your runs: backprop runs",
            )
        hint = (
            f"name a directory that PEFT saved (adapter_config.json, adapter_model.safetensors), not {folder}"
        )
        if not (folder / "adapter_config.json").is_file():
            raise _invalid(folder, f"{folder} has no adapter_config.json", hint)
        if not (folder / "adapter_model.safetensors").is_file():
            pickled = (folder / "adapter_model.bin").is_file()
            because = " (adapter_model.bin is a pickle and is not read)" if pickled else ""
            raise _invalid(folder, f"{folder} has no adapter_model.safetensors{because}", hint)
        return cls._recorded(folder, _read_json(folder / "adapter_config.json"))

    @classmethod
    def of_model(cls, path: str | os.PathLike[str]) -> AdapterInfo | None:
        """What a whole model's directory says of its training; None where it has no backprop.json.

        Raises:
            BpError: `INPUT_ADAPTER_INVALID` where that file is not sound.
        """
        folder = expanded(path)
        return cls._recorded(folder, {}) if (folder / FILE).is_file() else None

    @classmethod
    def _recorded(cls, folder: Path, peft: dict[str, Any]) -> AdapterInfo:
        own = _read_json(folder / FILE) if (folder / FILE).is_file() else {}
        version = own.get("schema_version", SCHEMA_VERSION)
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise _invalid(
                folder,
                f"{folder / FILE} has schema_version {version}; this version reads up to {SCHEMA_VERSION}",
                "upgrade: pip install --upgrade bp-export",
            )
        base = own.get("base_model") or {}
        if not isinstance(base, dict):
            raise _invalid(
                folder, f"base_model in {folder / FILE} is not an object", "restore the file, or delete it"
            )
        known = {"schema_version", "base_model", *_PLAIN, *_LISTS}
        return cls(
            path=folder,
            base_ref=base.get("ref") or peft.get("base_model_name_or_path") or None,
            base_revision=base.get("revision")
            or (None if base.get("ref") or _is_folder(peft) else peft.get("revision"))
            or None,
            base_config_sha256=base.get("config_sha256"),
            peft=peft,
            extra={k: v for k, v in own.items() if k not in known},
            **{k: own.get(k) for k in _PLAIN if k != "training"},
            training=own.get("training") or {},
            datasets=tuple(own.get("datasets") or ()),
            evaluation=tuple(own.get("evaluation") or ()),
            loss_curve=tuple((int(s), float(v)) for s, v in own.get("loss_curve") or ()),
        )

    def to_json(self) -> dict[str, Any]:
        """The contents of backprop.json."""
        data: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "base_model": {
                "ref": self.base_ref,
                "revision": self.base_revision,
                "config_sha256": self.base_config_sha256,
            },
            "chat_template_sha256": self.chat_template_sha256,
            "licence": self.licence,
            "method": self.method,
            "created": self.created,
        }
        optional = {
            "training": dict(self.training),
            "datasets": [dict(d) for d in self.datasets],
            "evaluation": [dict(e) for e in self.evaluation],
            "loss_curve": [list(p) for p in self.loss_curve],
        }
        return {**data, **{k: v for k, v in optional.items() if v}, **self.extra}

    def check_base(self, base: Path) -> None:
        """Compare the base's configuration with the one recorded at training time.

        Raises:
            BpError: `INPUT_WRONG_BASE` where both are known and differ.
        """
        if self.base_config_sha256 is None:
            return
        found = config_sha256(base)
        if found != self.base_config_sha256:
            raise BpError(
                "INPUT_WRONG_BASE",
                f"{base} is not the model that {self.path} was trained on ({self.base_ref}): the configurations differ",
                f"use --base-model {self.base_ref or 'OWNER/NAME'}",
                details={"expected": self.base_config_sha256, "found": found},
            )


_PLAIN = ("run_id", "chat_template_sha256", "licence", "method", "created", "training")
_LISTS = ("datasets", "evaluation", "loss_curve")


def write(
    path: str | os.PathLike[str],
    *,
    base_ref: str | None,
    base_path: str | os.PathLike[str] | None = None,
    base_revision: str | None = None,
    method: str | None = None,
    run_id: str | None = None,
    licence: str | None = None,
    created: str | None = None,
    training: Mapping[str, Any] | None = None,
    datasets: Sequence[Mapping[str, Any]] = (),
    evaluation: Sequence[Mapping[str, Any]] = (),
    loss_curve: Sequence[tuple[int, float]] = (),
    extra: Mapping[str, Any] | None = None,
) -> AdapterInfo:
    """Write backprop.json into a PEFT directory, atomically; the hashes are taken from the files that lie there.

    Args:
        path: the adapter directory, with the tokenizer files and chat template as trained already in it.
        base_ref: what the user named as the base.
        base_path: where the base lies, for the hash of its configuration and, unless given, its licence.
        base_revision: the Hub commit of the base.
        method: "sft", "dpo", "merge:ties", …
        run_id: the run that made it.
        licence: of the base model; read from its folder unless given.
        created: UTC, ISO 8601; now unless given.
        training: hyper-parameters as plain data.
        datasets: what it was trained on, one mapping each.
        evaluation: results, one mapping each.
        loss_curve: (step, loss) pairs, already thinned.
        extra: further keys, kept as they are.

    Returns:
        AdapterInfo: what `AdapterInfo.read(path)` gives from now on.
    """
    from bp_export.adapter.tokenizer_files import chat_template

    folder = Path(path)
    template = chat_template(folder)
    base = Path(base_path) if base_path is not None else None
    if licence is None and base is not None:
        from bp_export.adapter.licences import licence_of

        licence = licence_of(base, base_ref).id
    info = AdapterInfo(
        path=folder,
        base_ref=base_ref,
        base_revision=base_revision,
        base_config_sha256=config_sha256(base) if base is not None else None,
        chat_template_sha256=text_sha256(template) if template is not None else None,
        run_id=run_id,
        licence=licence,
        method=method,
        created=created or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        training=dict(training or {}),
        datasets=tuple(datasets),
        evaluation=tuple(evaluation),
        loss_curve=tuple((int(s), float(v)) for s, v in loss_curve),
        extra=dict(extra or {}),
    )
    write_json(folder / FILE, info.to_json())
    return AdapterInfo.read(folder) if (folder / "adapter_config.json").is_file() else info


def _is_folder(peft: Mapping[str, Any]) -> bool:
    """Whether PEFT's base is a folder: PEFT ignores a revision beside it, and so must who reads its files."""
    return expanded(str(peft.get("base_model_name_or_path") or "")).is_dir()


def config_sha256(base: str | os.PathLike[str]) -> str:
    """Hash of what a model's config.json means: keys that a re-save changes are left out, order does not count.

    Args:
        base: the model's folder, or its config.json.

    Raises:
        BpError: `INPUT_BASE_INCOMPLETE` where there is none, or it is not JSON.
    """
    file = Path(base)
    file = file / "config.json" if file.is_dir() else file
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BpError(
            "INPUT_BASE_INCOMPLETE", f"{file} cannot be read: {error}", "name the base model's folder"
        ) from None
    return text_sha256(json.dumps(_stable(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def weights_shape(folder: Path) -> tuple[int, int]:
    """(tensors, parameters) of an adapter's weights, from the header.

    Raises:
        BpError: `INPUT_ADAPTER_INVALID` where the file is cut or no safetensors file.
    """
    file = folder / "adapter_model.safetensors"
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            size = file.stat().st_size
            if not 2 <= length <= min(size - 8, 100 << 20):
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        end = max((t["data_offsets"][1] for t in header.values()), default=0)
        if end != size - 8 - length:
            raise ValueError(f"it should have {end + 8 + length} bytes and has {size}")
        return len(header), sum(math.prod(t["shape"]) for t in header.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _invalid(
            folder,
            f"{file} is no whole safetensors file: {error}",
            "restore it from the run's checkpoint, or train again",
        ) from None


def text_sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8, hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, never a part."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8, no newline translation) so that a reader sees the old one or the new one, never a part."""
    temporary = path.with_name(
        f".{path.name}.partial"
    )  # one name: what a kill leaves, the next call writes over
    try:
        with temporary.open("wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _stable(v) for k, v in value.items() if k not in _VOLATILE}
    return [_stable(v) for v in value] if isinstance(value, list) else value


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _invalid(
            file.parent, f"{file} is not readable JSON: {error}", "restore the file, or train again"
        ) from None
    if not isinstance(data, dict):
        raise _invalid(file.parent, f"{file} does not hold a JSON object", "restore the file, or train again")
    return data


def _invalid(folder: Path, message: str, hint: str) -> BpError:
    return BpError("INPUT_ADAPTER_INVALID", message, hint, details={"path": str(folder)})
