"""What is exported: one or more adapters on a base, or a whole model; opened, checked against each other, identified.

- The base comes from `--base-model`, else from what the adapter recorded, and must be the one it was trained on.
- The tokenizer is the first adapter's where it has one (as trained), else the base's.
- `identity` names the exact inputs, so that an interrupted export goes on only with the same ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_merge.common import expanded

from bp_export.adapter.base import ResolvedBase, has_weights, resolve_base
from bp_export.adapter.directory import AdapterInfo, text_sha256, weights_shape
from bp_export.adapter.licences import Licence, licence_of
from bp_export.adapter.tokenizer_files import chat_template, has_tokenizer, tokenizer_dir
from bp_export.errors import BpError

AdapterPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Inputs:
    """What is exported.

    Args:
        root: the (first) adapter's directory, or the model's.
        adapters: what the adapters say about themselves; empty for a whole model.
        base: the base, or the whole model itself.
        tokenizer: the directory of the tokenizer.
        licence: of the base.
        notices: what the user should know before anything is written.
    """

    root: Path
    adapters: tuple[AdapterInfo, ...]
    base: ResolvedBase
    tokenizer: Path
    licence: Licence
    notices: tuple[str, ...]

    @property
    def name(self) -> str:
        """A name for what is made: base and adapter."""
        info, own = self.info, self.root.resolve().name
        ref = self.base.ref if self.adapters else info.base_ref if info else None
        if not ref:
            return own
        base = ref.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1] or "model"
        return f"{base}-{own}"

    @property
    def info(self) -> AdapterInfo | None:
        """What the first adapter says of itself, or a whole model of its training; None where it says nothing."""
        return self.adapters[0] if self.adapters else AdapterInfo.of_model(self.root)

    def config(self) -> dict[str, Any]:
        """The base's config.json."""
        return json.loads((self.base.path / "config.json").read_text("utf-8"))

    @contextlib.contextmanager
    def weights(self) -> Iterator[Any]:
        """The weights to write: the base with the adapters' changes summed in f32, or the model as it is."""
        from bp_merge.checkpoint import Checkpoint

        with contextlib.ExitStack() as stack:
            base = Checkpoint.open(self.base.path)
            stack.callback(base.close)
            if not self.adapters:
                yield base
                return
            from bp_merge.adapter import Adapter
            from bp_merge.baked import Baked

            source = Baked(base, [Adapter.load(a.path) for a in self.adapters], untie=True)
            _check_vocabulary(source, self.tokenizer)
            yield source

    def identity(self, *settings: object) -> str:
        """Names these inputs and settings: adapters by content, the base's weights by name, size and time."""
        digest = hashlib.sha256(repr(settings).encode())
        for info in self.adapters:
            for name in ("adapter_model.safetensors", "adapter_config.json"):
                with (info.path / name).open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        for file in sorted(self.base.path.glob("*.safetensors")):
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}".encode())
        for folder in (self.base.path, self.tokenizer):
            for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                if (folder / name).is_file():
                    digest.update((folder / name).read_bytes())
        return digest.hexdigest()


def open_inputs(
    adapter: AdapterPath | Sequence[AdapterPath],
    *,
    base_model: str | None = None,
    token: str | None = None,
    weights: bool = True,
) -> Inputs:
    """Find and check what is exported; no weight is read.

    Args:
        adapter: an adapter directory, several of one base, or a whole model's directory.
        base_model: folder or Hub id that replaces the recorded base.
        token: Hub token for fetching the base.
        weights: whether the base's weights are needed (not for copying or converting an adapter alone).

    Raises:
        BpError: `INPUT_ADAPTER_INVALID`, `INPUT_WRONG_BASE`, `INPUT_VALIDATION_FAILED`, or what `resolve_base` raises.
    """
    paths = [adapter] if isinstance(adapter, (str, os.PathLike)) else list(adapter)
    if not paths:
        raise BpError("INPUT_VALIDATION_FAILED", "no adapter was named", "backprop export ADAPTER")
    first = expanded(paths[0])
    if len(paths) == 1 and is_model(first):
        base = resolve_base(first, weights=weights)
        info = AdapterInfo.of_model(base.path)
        licence = licence_of(base.path, str(first), info.licence if info else None)
        told = (f"licence: {licence.notice}",) if info and licence.notice else ()
        return Inputs(base.path, (), base, base.path, licence, told)
    infos = tuple(AdapterInfo.read(path) for path in paths)
    for info in infos:
        weights_shape(info.path)  # a cut file is told before anything is fetched
    ref = base_model or infos[0].base_ref
    if not ref:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{infos[0].path} does not say which base it was trained on",
            f"backprop export {infos[0].path} --base-model OWNER/NAME",
        )
    base = resolve_base(ref, None if base_model else infos[0].base_revision, token, weights=weights)
    for info in infos:
        info.check_base(base.path)
    tokenizer = tokenizer_dir(infos[0].path, base.path)
    notices = []
    if not has_tokenizer(tokenizer):
        raise BpError(
            "INPUT_BASE_INCOMPLETE",
            f"neither {infos[0].path} nor {base.path} holds a tokenizer (tokenizer.json)",
            f"copy the tokenizer's files of {base.ref} into {infos[0].path}",
            details={"missing": ["tokenizer.json"]},
        )
    licence = licence_of(base.path, base.ref, infos[0].licence)
    if licence.notice:
        notices.append(f"licence: {licence.notice}")
    template = chat_template(tokenizer)
    trained = infos[0].chat_template_sha256
    if trained and text_sha256(template or "") != trained:
        notices.append(
            f"the chat template in {tokenizer} is not the one used in training; answers may suffer. Restore the adapter's"
            " own chat_template.jinja"
        )
    return Inputs(infos[0].path, infos, base, tokenizer, licence, tuple(notices))


def _check_vocabulary(source: Any, tokenizer: Path) -> None:
    """Refuse a tokenizer with tokens that the embedding has no row for.

    Raises:
        BpError: `INPUT_EMBEDDINGS_MISSING`.
    """
    rows = next((source.info(n).shape[0] for n in source.names if n.endswith("embed_tokens.weight")), None)
    file = tokenizer / "tokenizer.json"
    if rows is None or not file.is_file():
        return
    try:
        found = json.loads(file.read_text("utf-8"))
        added = {t["content"]: t["id"] for t in found.get("added_tokens") or ()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # whoever writes the vocabulary reads the file in full and says what is wrong with it
    beyond = sorted((i, t) for t, i in added.items() if isinstance(i, int) and i >= rows)
    if beyond:
        raise BpError(
            "INPUT_EMBEDDINGS_MISSING",
            f"the token {beyond[0][1]!r} has id {beyond[0][0]}, base and adapter have {rows} rows: the vocabulary was"
            " resized, and the embeddings were not saved with the adapter",
            "save it again with them: model.save_pretrained(DIR, save_embedding_layers=True)",
            details={"tokens": [t for _, t in beyond], "rows": rows},
        )


def is_model(folder: Path) -> bool:
    """Whether a directory holds a whole model and no adapter."""
    return (
        (folder / "config.json").is_file()
        and not (folder / "adapter_config.json").is_file()
        and has_weights(folder)
    )
