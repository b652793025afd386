"""A recorded run once more: its settings, with checked overrides, and what differs on this machine.

- The source is a run of the store, or a `manifest.json` carried over from another machine.
- What the user had set stays as set. What the program had decided (by preset, model, device or data: its source says so)
  is decided again, for the machine, the data and the overrides at hand; where those are the same, so is the outcome.
- An override has a knob's name or alias and is validated like any setting; an unknown one is refused.
- Data and base model are looked up before anything is loaded: a missing or changed file, another version, another
  card is named. Nothing of that is refused, except data that no machine can find again.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_merge.common import unknown

from bp_core.errors import BpError
from bp_core.runs.rows import read_manifest
from bp_core.runs.store import RunStore
from bp_core.settings.decided import DECIDABLE
from bp_core.settings.knobs import GROUPS, KEYWORDS, RUN_GROUPS, Settings, group_of, knob_of
from bp_core.support import environment
from bp_core.support.files import plain

# Naming one of these takes the other back, also where the user had set it.
_INSTEAD = {"steps": "epochs", "epochs": "steps"}


@dataclass(frozen=True)
class Replay:
    """What a replay will run.

    Attributes:
        parent: the run that is replayed.
        settings: to train with; each changed value has the source `override`.
        overrides: name → (recorded, new).
        decided_again: names of settings that the program decides again.
        differences: what differs from the recorded run besides, one line each.
        now: the moment that dated templates see, as recorded.
        kind: of the job: `train`, or `multi-run` for a session of many runs.
    """

    parent: str
    settings: Settings
    overrides: dict[str, tuple[Any, Any]]
    decided_again: tuple[str, ...]
    differences: tuple[str, ...]
    now: dt.datetime | None = None
    kind: str = "train"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        data = {"config": self.settings.to_dict(), "overrides": self.overrides}
        rest = {"decided_again": self.decided_again, "differences": self.differences}
        return plain({"parent": self.parent, **data, **rest})


def parse_overrides(items: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE` strings as a mapping.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` where there is no `=`.
    """
    out = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign or not key.strip():
            raise BpError(
                "CONFIG_INVALID_SETTING",
                f"an override is KEY=VALUE, not {item!r}",
                "backprop replay RUN --override lr=1e-4",
            )
        out[key.strip().replace("-", "_")] = value.strip()
    return out


def replay(
    source: str | Path, *, output: str | Path = "output", overrides: Mapping[str, Any] | None = None
) -> Replay:
    """Plan a replay; `bp_core.run.run_training(plan.settings, parent=plan.parent, now=plan.now)` runs it.

    Args:
        source: a run id or prefix of `output`, a `manifest.json`, or a run's directory.
        output: the output directory that holds the store, and that the new run is written to.
        overrides: settings to change, by name or alias.

    Raises:
        BpError: `INPUT_RUN_NOT_FOUND`, `INPUT_RUN_AMBIGUOUS`, `INPUT_MANIFEST_INVALID`, `CONFIG_INVALID_SETTING`,
            `INPUT_DATASET_NOT_FOUND` where the data was given in memory.
    """
    from bp_core.settings.resolve import CODE, HELP, from_record

    recorded = _read(source, Path(output))
    changed = {KEYWORDS.get(k, k): v for k, v in (overrides or {}).items()}
    for name in changed:
        if recorded["kind"] == "train" and name in KEYWORDS and group_of(name) not in RUN_GROUPS:
            known = [k for k, field in KEYWORDS.items() if group_of(field) in RUN_GROUPS]
            raise unknown(name, known, code=CODE, command=HELP)
    # everything as recorded, validated with the overrides: also refuses names that are no knobs
    settings = from_record(recorded["config"], changed)
    settings = dataclasses.replace(settings, sources={**settings.sources, **recorded["sources"]})
    reopened = [n for n in _decided_there(settings) if n not in changed]
    reopened += [_INSTEAD[n] for n in changed if n in _INSTEAD and _INSTEAD[n] not in reopened]
    settings = settings.replace("default", **{n: knob_of(n).default for n in reopened})
    new = {n: getattr(getattr(settings, group_of(n)), n) for n in changed}
    settings = settings.replace("override", **new) if new else settings
    settings = settings.replace("override", output=Path(output))
    moment = recorded["dataset"].get("now")
    old = {n: recorded["config"].get(group_of(n), {}).get(n) for n in changed}
    return Replay(
        parent=recorded["run_id"],
        settings=settings,
        overrides={n: (old[n], plain(new[n])) for n in changed},
        decided_again=tuple(reopened),
        differences=tuple(_differences(recorded, settings, changed)),
        now=dt.datetime.fromisoformat(moment) if moment else None,
        kind=recorded["kind"],
    )


def _read(source: str | Path, output: Path) -> dict[str, Any]:
    path = Path(source)
    path = path / "manifest.json" if path.is_dir() else path
    if path.suffix == ".json" or path.is_file():
        recorded = read_manifest(path)
    else:
        record = RunStore(output).trained(str(source))
        facts = ("run_id", "kind", "config", "sources", "environment", "dataset", "base_model")
        recorded = {k: getattr(record, k) for k in facts}
    if recorded["kind"] not in ("train", "multi-run"):
        raise BpError(
            "INPUT_RUN_KIND",
            f"{recorded['run_id']} is a job of kind {recorded['kind']}: only a training or a session is replayed",
            f"backprop runs{RunStore(output).flag}",
            details={"run_id": recorded["run_id"], "kind": recorded["kind"]},
        )
    return recorded


def _decided_there(settings: Settings) -> list[str]:
    """Settings that the program, not the user, decided in the recorded run."""
    by_program = "default ("  # followed by who decided; what was never open has the source "default" alone
    return [
        name
        for name in (field.name for cls in GROUPS.values() for field in dataclasses.fields(cls))
        if not settings.given(name)
        and (name in DECIDABLE or settings.sources[f"{group_of(name)}.{name}"].startswith(by_program))
    ]


def _differences(recorded: Mapping[str, Any], settings: Settings, changed: Mapping[str, Any]) -> list[str]:
    lines = []
    sources = recorded["dataset"].get("sources") or []
    if "data" not in changed:
        if not settings.data.data and any(s.get("source") == "in memory" for s in sources):
            raise BpError(
                "INPUT_DATASET_NOT_FOUND",
                f"run {recorded['run_id']} was trained on data given in memory, which is not recorded",
                f"backprop replay {recorded['run_id']} --override data=FILE",
            )
        for entry in sources:
            if line := _file_difference(entry):
                lines.append(line)
    base = recorded["base_model"]
    if "model" not in changed and base.get("source") == "path" and not Path(str(base.get("ref"))).exists():
        lines.append(f"the base model {base.get('ref')} is not here")
    for group, values in recorded["config"].items():
        for name, value in values.items():
            if "***" in str(value) and name not in changed:
                lines.append(
                    f"{group}.{name} was a secret and is not recorded: give it with --override {name}=VALUE"
                )
    here = environment.collect(settings.tracking.output)
    return lines + environment.differences(recorded["environment"], here)


def _file_difference(entry: Mapping[str, Any]) -> str:
    """How a recorded data file differs from what stands at its path now; "" where it does not."""
    digest = entry.get("sha256")
    if digest is None:
        return ""
    path = Path(str(entry["source"]))
    if not path.is_file():
        return f"the data file {path} is not here"
    with path.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == digest
    return "" if same else f"the data file {path} has other content than the run was trained on"
