"""Eval packs: the sets, metrics and gates of a project in one TOML file, and the verdict as a file.

    schema_version = 1
    name = "support"

    [sets.heldout]
    data = "heldout.jsonl"            # beside the pack, unless absolute
    profile = "qa"                    # or metrics = ["token_f1"], or neither: the data decides
    options.math_equal.tolerance = 0.01

    [[gates]]
    set = "heldout"
    metric = "token_f1"
    threshold = 0.6                   # the figure itself, and / or
    max_regression = 0.02             # against a baseline, beyond noise
    required = false                  # default true: it blocks
    tolerate = 0.05                   # an optional gate blocks beyond this

A key that is not known is refused with the nearest that is: a gate that nobody reads would pass every model.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bp_merge.common import SCHEMA_VERSION, BpError

from bp_core.evaluation.gates import ALPHA, Gate, Verdict, judge
from bp_core.evaluation.metrics import Scores, get_metric
from bp_core.evaluation.profiles import Profile, get_profile
from bp_core.support.files import plain, write_json


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """A set of rows and how to score it.

    Args:
        name: of the set.
        data: the file, or a Hub id.
        profile: task profile; empty lets the data decide.
        metrics: to score; empty takes the profile's. `Pack.metrics` adds those of the gates.
        options: of metrics, by name.
    """

    name: str
    data: str
    profile: str = ""
    metrics: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Pack:
    """An eval pack: sets, and the gates on them by set."""

    name: str
    sets: Mapping[str, EvalSet]
    gates: Mapping[str, tuple[Gate, ...]]
    path: Path

    def metrics(self, name: str, profile: Profile) -> tuple[str, ...]:
        """The metrics to score on a set: those it names, else the profile's, and those of its gates (but for `loss`)."""
        gated = [g.metric for g in self.gates[name] if g.metric != "loss"]
        return tuple(dict.fromkeys([*(self.sets[name].metrics or profile.metrics), *gated]))


@dataclasses.dataclass(frozen=True)
class PackVerdict:
    """The verdicts of all sets: the model passes where no gate of any set blocks."""

    pack: str
    sets: Mapping[str, Verdict]

    @property
    def passed(self) -> bool:
        """Whether no gate blocks."""
        return all(v.passed for v in self.sets.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data, with `schema_version`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "pack": self.pack,
            "passed": self.passed,
            "sets": {name: plain(v.to_dict()) for name, v in self.sets.items()},
        }

    def write(self, path: Path) -> Path:
        """Write the verdict as one JSON file, whole or not at all."""
        return write_json(path, self.to_dict())

    def require(self) -> None:
        """Go on only where the model passes.

        Raises:
            BpError: `RUNTIME_EVAL_GATE_REGRESSED` (exit code 65).
        """
        for verdict in self.sets.values():
            verdict.require()


def _bad(path: Path, message: str, hint: str = "") -> BpError:
    return BpError("INPUT_EVAL_PACK_INVALID", f"{path.name}: {message}", hint or f"edit {path}")


def _only(path: Path, where: str, given: Mapping[str, Any], known: Mapping[str, type]) -> None:
    """Refuse keys that are not known, and values of another type; a whole number is a float too."""
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise _bad(
                path,
                f"{where} has an unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                f"its keys are {', '.join(known)}",
            )
        wanted = known[key]
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if not fits:
            raise _bad(path, f"{where}: {key} must be a {_TYPES[wanted]}, not {value!r}")


_TYPES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "flag (true or false)",
    dict: "table",
    list: "list",
}


def load_pack(path: Path) -> Pack:
    """Read an eval pack.

    Raises:
        BpError: `INPUT_EVAL_PACK_INVALID` for a file that is no pack, with the place; `INPUT_METRIC_UNKNOWN`,
            `INPUT_EVAL_PROFILE_UNKNOWN` for names that do not exist.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _bad(path, f"cannot be read: {error.strerror or error}", f"ls {path.parent}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad(path, f"is no TOML: {error}") from error
    _only(path, "the pack", raw, {"schema_version": int, "name": str, "sets": dict, "gates": list})
    if raw.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise _bad(
            path, f"schema_version {raw['schema_version']} is not {SCHEMA_VERSION}", "pip install -U bp-core"
        )
    if not raw.get("sets"):
        raise _bad(path, "names no set", '[sets.heldout]\ndata = "heldout.jsonl"')
    sets = {name: _set(path, name, value) for name, value in raw["sets"].items()}
    gates: dict[str, list[Gate]] = {name: [] for name in sets}
    for number, value in enumerate(raw.get("gates", []), 1):
        name, gate = _gate(path, f"gate {number}", value, sets)
        gates[name].append(gate)
    return Pack(raw.get("name", path.stem), sets, {n: tuple(g) for n, g in gates.items()}, path)


def _set(path: Path, name: str, raw: Any) -> EvalSet:
    where = f"the set {name}"
    if not isinstance(raw, dict):
        raise _bad(path, f"{where} must be a table ([sets.{name}])")
    _only(path, where, raw, {"data": str, "profile": str, "metrics": list, "options": dict})
    if not raw.get("data"):
        raise _bad(path, f"{where} has no data", f'data = "{name}.jsonl"')
    if raw.get("profile"):
        get_profile(raw["profile"])
    if not all(isinstance(m, str) for m in raw.get("metrics", [])):
        raise _bad(path, f"{where}: metrics must be names")
    options = raw.get("options", {})
    if not all(isinstance(o, dict) for o in options.values()):
        raise _bad(path, f"{where}: options must be tables by metric (options.math_equal.tolerance = 0.01)")
    for metric in {*raw.get("metrics", []), *options}:
        if ".py:" not in metric:  # the user's own files are loaded when they are scored
            get_metric(metric, **options.get(metric, {}))
    data = raw["data"] if ":" in raw["data"] else str(path.parent / raw["data"])
    return EvalSet(name, data, raw.get("profile", ""), tuple(raw.get("metrics", [])), options)


def _gate(path: Path, where: str, raw: Any, sets: Mapping[str, EvalSet]) -> tuple[str, Gate]:
    if not isinstance(raw, dict):
        raise _bad(path, f"{where} must be a table ([[gates]])")
    _only(
        path,
        where,
        raw,
        {
            "set": str,
            "metric": str,
            "threshold": float,
            "max_regression": float,
            "required": bool,
            "tolerate": float,
        },
    )
    for key in ("set", "metric"):
        if key not in raw:
            raise _bad(path, f"{where} has no {key}")
    if raw["set"] not in sets:
        near = difflib.get_close_matches(raw["set"], sets, 1)
        raise _bad(
            path,
            f"{where} is on a set {raw['set']!r} that does not exist"
            + (f"; did you mean {near[0]!r}?" if near else ""),
        )
    if "threshold" not in raw and "max_regression" not in raw:
        raise _bad(path, f"{where} asks for nothing", "give it a threshold, a max_regression, or both")
    if ".py:" not in raw["metric"] and raw["metric"] != "loss":
        get_metric(raw["metric"])
    try:
        gate = Gate(
            raw["metric"],
            raw.get("threshold"),
            raw.get("max_regression"),
            raw.get("required", True),
            raw.get("tolerate"),
        )
    except ValueError as error:
        raise _bad(path, f"{where}: {error}") from error
    return raw["set"], gate


def judge_pack(
    pack: Pack,
    candidate: Mapping[str, Mapping[str, Scores]],
    baseline: Mapping[str, Mapping[str, Scores]] | None = None,
    *,
    alpha: float = ALPHA,
    seed: int = 0,
) -> PackVerdict:
    """Hold a model to all gates of a pack; the false alarms of all of them together stay within `alpha`.

    Args:
        pack: the gates.
        candidate: scores by set and metric.
        baseline: the same of the model to keep up with, or None.
        alpha: probability that any gate trips where nothing changed.
        seed: of the bootstrap.

    Raises:
        BpError: `RUNTIME_EVAL_FAILED` where a set with gates was not evaluated; those of `gates.judge`.
    """
    count = {n: sum(g.max_regression is not None for g in gates) for n, gates in pack.gates.items()}
    whole = max(1, sum(count.values()))
    verdicts = {}
    for name, gates in pack.gates.items():
        if not gates:
            continue
        if name not in candidate or (baseline is not None and name not in baseline):
            raise BpError(
                "RUNTIME_EVAL_FAILED", f"the set {name} was not evaluated", "evaluate every set of the pack"
            )
        share = alpha * max(1, count[name]) / whole
        verdicts[name] = judge(
            gates, candidate[name], None if baseline is None else baseline[name], alpha=share, seed=seed
        )
    return PackVerdict(pack.name, verdicts)
