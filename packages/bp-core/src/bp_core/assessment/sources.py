"""Which model a user means, told without loading it: an endpoint, a GGUF file, an adapter, a whole model, a run.

    https://…/v1          an OpenAI-compatible endpoint
    FILE.gguf             a file for llama.cpp
    a folder              an adapter, a whole model, or a run's folder
    a run id, `latest`    what the run delivered; of a run that failed or is under way its newest complete checkpoint
    `tiny`, OWNER/NAME    a base model

- No torch: a wrong name is refused before anything heavy is loaded.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

from bp_export.adapter.base import ENTRY_POINTS, resolve_base
from bp_export.adapter.directory import AdapterInfo
from bp_merge.common import expanded

from bp_core.errors import BpError
from bp_core.memory.shortlist import full_id, nearest
from bp_core.memory.source import find_base
from bp_core.runs.adapters import find_adapter
from bp_core.runs.rows import RunRecord
from bp_core.runs.store import RunStore
from bp_core.settings.groups.generation import SourceSettings


@dataclasses.dataclass(frozen=True)
class Source:
    """A model that is there, not loaded.

    Args:
        kind: `endpoint`, `gguf`, `adapter` or `model`.
        where: address, file or folder; of a base model what the user named.
        name: what the user called it.
        run: the run that made it, where it is known.
        base: the base model that an adapter names.
    """

    kind: str
    where: str
    name: str
    run: RunRecord | None = None
    base: str | None = None

    @property
    def local(self) -> bool:
        """Whether it computes in torch here."""
        return self.kind in ("adapter", "model")


def find_source(
    name: str,
    output: Path,
    settings: SourceSettings | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Source:
    """The model that a name means.

    Args:
        name: as the user gave it.
        output: the folder that holds `runs.db`.
        settings: how it shall be loaded; what cannot be is refused here.
        tell: hears which checkpoint is taken.

    Raises:
        BpError: `INPUT_RUN_NOT_FOUND`, `INPUT_RUN_AMBIGUOUS`, `STATE_RUN_NO_ADAPTER`, `INPUT_ADAPTER_INVALID`,
            `INPUT_MODEL_NOT_FOUND`, `DEP_MODEL_LOAD_FAILED`, and `CONFIG_CONFLICT` for `base` with what is no adapter.
    """
    settings = settings or SourceSettings()
    found = _find(name, output, tell)
    if settings.base is not None and found.kind != "adapter":
        raise BpError(
            "CONFIG_CONFLICT", f"{name} is no adapter, so that it has no base model", "leave --base out"
        )
    if found.kind == "adapter":
        info = AdapterInfo.read(found.where)
        ref = settings.base or info.base_ref
        if not ref:
            raise BpError(
                "INPUT_VALIDATION_FAILED",
                f"{name} does not say which base model it belongs to",
                "add --base OWNER/NAME to the command",
            )
        base = resolve_base(ref, revision=None if settings.base else info.base_revision, weights=False)
        if base.note:
            tell(base.note)
        return dataclasses.replace(found, base=ref)
    if found.kind == "model":
        base = find_base(found.where)
        if base.note:
            tell(base.note)
    return found


def _find(name: str, output: Path, tell: Callable[[str], None]) -> Source:
    if name.startswith(("http://", "https://")):
        return Source("endpoint", name, name)
    path = expanded(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BpError("INPUT_MODEL_NOT_FOUND", f"there is no file {name}", f"ls {path.parent}")
        return Source("gguf", str(path), name)
    if path.is_dir():
        return _folder(path, name, output, tell)
    known = full_id(name)
    if importlib.metadata.entry_points(group=ENTRY_POINTS, name=name) or _is_hub_id(known):
        return Source("model", known, name)
    if path.name != name or path.suffix:
        near = nearest(name)
        meant = f"; did you mean {near}?" if near else ""
        raise BpError(
            "INPUT_MODEL_NOT_FOUND", f"there is no folder or file {name}{meant}", f"ls {path.parent}"
        )
    store = RunStore(output)
    if name == "latest":
        adapter = find_adapter(name, output)
        return _folder(adapter, name, output, tell)
    return _of_run(store.get(name), name, tell)


def _folder(path: Path, name: str, output: Path, tell: Callable[[str], None]) -> Source:
    from bp_export.adapter.inputs import is_model

    if (path / "adapter_config.json").is_file():
        return Source("adapter", str(path), name, _run_of(path, output))
    if is_model(path):
        return Source("model", str(path), name, _run_of(path, output))
    if (path / "manifest.json").is_file() and (path.parent / "runs.db").is_file():
        return _of_run(RunStore(path.parent).get(path.name), name, tell)
    inside = find_adapter(path, output)
    if inside != path:
        return _folder(inside, name, output, tell)
    AdapterInfo.read(path)  # says what is missing
    raise BpError("INPUT_MODEL_NOT_FOUND", f"{name} holds neither an adapter nor a model", f"ls {path}")


def _of_run(record: RunRecord, name: str, tell: Callable[[str], None]) -> Source:
    """What a run left; its newest complete checkpoint where it left nothing yet."""
    left = find_adapter(record.path, record.path.parent)
    if left == record.path:
        from bp_core.training.snapshot import adapter_of_checkpoint

        left = adapter_of_checkpoint(record, tell)
    kind = "adapter" if (left / "adapter_config.json").is_file() else "model"
    return Source(kind, str(left), name, record)


def _run_of(folder: Path, output: Path) -> RunRecord | None:
    """The run whose folder this lies in."""
    for parent in list(folder.absolute().parents)[:2]:
        if (parent / "manifest.json").is_file() and (parent.parent / "runs.db").is_file():
            try:
                return RunStore(parent.parent).get(parent.name)
            except BpError:
                return None  # the table does not know the folder: it is an adapter like any other
    return None


def _is_hub_id(name: str) -> bool:
    """OWNER/NAME, where no such path is here."""
    return name.count("/") == 1 and not name.startswith((".", "~", "/")) and not name.endswith("/")
