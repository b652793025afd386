"""What `--json` prints, command by command: one declaration, from which the published schema and its page are made.

- `name:type` is a key that is always there, `?name:type` one that may be absent; a type ends with `?` where it may be null.
  `@module:Class` stands for the fields of a dataclass.
- A command that answers in several shapes has one declaration a shape.
- New keys may come; a key that is declared does not vanish and keeps its type (PROMISES.md).
"""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Iterator, Mapping
from typing import Any

TYPES = {
    "text": "string", "int": "integer", "number": "number", "flag": "boolean", "list": "array", "object": "object",
    "any": "",
}  # fmt: skip
ERROR = "error:object"
_RUN = "@bp_core.runs.results:RunResult report_path:text"
_SESSION = "@bp_core.runs.results:SessionResult report_path:text"
_PLAN = (
    "dry_run:flag base_model:text parameters:int device:text steps:int epochs:number examples_per_step:int tokens:int "
    "base_weights_bytes:int? memory:object? cpu_seconds:number? data:object settings:object"
)
_SESSION_PLAN = "dry_run:flag strategy:text runs:list"
_SETTINGS = "settings:object"
_CLEANED = "rows_total:int rows_kept:int rows_dropped:int dropped:object rows_redacted:int ?output:text ?dropped_file:text"
_CONVERTED = (
    "rows_total:int rows_accepted:int rows_rejected:int rejections:object dropped:object undecided:list samples:list "
    "detection:list keys:list ?output:text? ?unit:text"
)
_VALIDATED = (
    "dataset:text format_detected:text? total_samples:int accepted:int rejected:int blank_lines:int counts:object "
    "stopped_early:flag notes:list keys:list seconds:number errors:list warnings:list ok:flag error_count:int"
)
_MERGE_PLAN = "dry_run:flag output_path:text"
_MODELS = "models:list"

OUTPUTS: dict[str, tuple[str, ...]] = {
    "quickstart": (
        "run_id:text base_model:text question:text rows_accepted:int rows_rejected:int rejections:object steps:int "
        "tokens_per_second:number heldout_loss_before:number? heldout_loss_after:number? output:text adapter_path:text "
        "merged_path:text gguf_path:text gguf_bytes:int gguf_tensors:int gguf_verified:flag? gguf_token_ids_equal:flag? "
        "gguf_top1_agreement:number? gguf_kl:number? report_path:text seconds:number",
        "dry_run:flag output:text would:list",
    ),
    "train": (_RUN, _PLAN, _SETTINGS),
    "multi-run": (
        _SESSION,
        "run_id:text strategy:text adapter_path:text facts:object",
        _SESSION_PLAN,
        _SETTINGS,
    ),
    "resume": (_RUN, _SESSION),
    "replay": (
        f"{_RUN} replay_of:text overrides:object config:object",
        _SESSION,
        f"{_PLAN} replay_of:text",
        f"{_SESSION_PLAN} replay_of:text",
    ),
    "estimate-vram": (
        "model:text licence:text parameters:int trainable_parameters:int device:text vram_gb:number verdict:text "
        "total_bytes:int components:object peak_at:text settings:object longest:int? changes:list recommended:list "
        "disk:object overhead_from:text",
    ),
    "plan": ("@bp_core.planning.plan:Plan command:text applied:text? simulated:object?",),
    "eval": (
        "run_id:text subject:text kind:text evaluated_run_id:text? heldout_loss:number? heldout_loss_ci:list? "
        "perplexity:number? heldout_n:int task_metrics:object eval_n:int metric_ci:object profile:text profile_reason:text "
        "generations:list sets:object baseline:text? baseline_sets:object comparison:object gate:object? passed:flag? "
        "clusters:any benchmarks:any warnings:list report_path:text",
    ),
    "generate": (
        "prompt:text answers:list finish:list tokens:list ?base_answers:list model:text kind:text run_id:text? "
        "?adapter_path:text",
    ),
    "batch-test": ("prompts:int answers:list model:text kind:text path:text? dry_run:flag",),
    "serve": ("url:text model:text run_id:text",),
    "export": (
        "format:text path:text size_bytes:int seconds:number peak_rss_mb:number? unchecked:object",
    ),
    "push": (
        "dry_run:flag run_id:text? files:list size_bytes:int repo_id:text kind:text revision:text?",
    ),
    "pull": ("path:text repo_id:text dry_run:flag ?files:object",),
    "ollama list": (_MODELS,),
    "ollama ps": (_MODELS,),
    "ollama shelf": (_MODELS,),
    "ollama show": ("",),
    "ollama rm": ("removed:text dry_run:flag",),
    "ollama register": (
        "name:text template:text? stop:list server:text smoke:text? notes:list modelfile:text dry_run:flag",
        "dry_run:flag path:text steps:list",
    ),
    "validate": (_VALIDATED,),
    "data validate": (_VALIDATED,),
    "data report": (
        "dataset:text rows_total:int rows_accepted:int rows_rejected:int rejections:object rejected:object formats:object "
        "kinds:object exact_duplicates:int near_duplicate_rows:int near_duplicate_clusters:int near_duplicates:object "
        "contamination:object tokens:object turns:object outliers:object scripts:object languages:object "
        "languages_of:int pii:object reasoning:object verdict:text warnings:list failed_thresholds:list seconds:number "
        "settings:object notes:list keys:list",
    ),
    "data split": (
        "n_train:int n_heldout:int rows_rejected:int groups:int largest_group:int strata:object exact_across:int "
        "near_across:int ungrouped:int settings:object ?out_train:text ?out_heldout:text",
    ),
    "data clean": (_CLEANED,),
    "data decontaminate": (_CLEANED,),
    "data synthesize": (
        "dry_run:flag rows:int requested:int shown_from:int answers:int cached:int calls:int tokens:int unreadable:int "
        "rejections:object like_the_dataset:int like_another:int output:text cache:text stopped:text",
        "dry_run:flag output:text endpoint:text model:text requests:int shown_from:int first:list",
    ),
    "data map": (_CONVERTED,),
    "data convert": (_CONVERTED,),
    "merge merge": (
        "method:text modules:int rank:int discarded_energy:number by_module:object parameters:object weights:list "
        "seconds:number output_path:text? warnings:list peak_rss_mb:number?",
        _MERGE_PLAN,
    ),
    "merge models": (
        "output_path:text method:text weights:list tensors:int files:object reused:list nbytes:int seconds:number "
        "peak_rss_mb:number?",
        _MERGE_PLAN,
    ),
    "merge bake": ("output_path:text tensors:int touched:int nbytes:int seconds:number", _MERGE_PLAN),
    "merge slao": (
        "state:text output_path:text dry_run:flag accepted:flag decision:text tasks:int variant:text lambda:number "
        "cosine:number? modules:object discarded_energy:number",
    ),
    "merge methods": ("methods:list",),
    "merge inspect": ("",),
    "merge compare": ("a:text b:text cosine:number",),
    "prompt-template list": ("templates:list saved:list",),
    "prompt-template show": ("name:text system:text instruction:text response:text reasoning:list solution:list",),
    "prompt-template save": ("name:text path:text dry_run:flag",),
    "prompt-template remove": ("name:text dry_run:flag",),
    "reward list": ("rewards:list presets:list prompts:list",),
    "reward show": ("name:text toml:text", "name:text"),
    "reward suggest": ("rows:int proposals:list written:text? dry_run:flag",),
    "reward test": ("set:object scores:list mean:number", "reward:text cases:list failed:int"),
    "reward coverage": ("total:object components:object verdict:text advice:list ok:flag",),
    "runs": ("runs:list",),
    "runs import": ("imported:list there:list passed_over:any dry_run:flag",),
    "runs rename": ("run_id:text name:text dry_run:flag",),
    "runs delete": ("deleted:list dry_run:flag",),
    "show-run": (
        "run_id:text kind:text name:text status:text created_at:text started_at:text? heartbeat_at:text? "
        "finished_at:text? step:int seed:int? parent:text? config:object sources:object environment:object dataset:object "
        "base_model:object result:object progress:object path:text latest:object events:list artifacts:list",
    ),
    "diff-runs": (
        "runs:list settings:object same_settings:int inputs:any environment:any outcome:object metrics:object",
    ),
    "stop": ("run_id:text action:text",),
    "config show": (_SETTINGS,),
    "config set": ("file:text set:object dry_run:flag",),
    "config unset": ("file:text unset:list dry_run:flag",),
    "config path": ("path:text exists:flag",),
    "config init": ("file:text dry_run:flag",),
    "config import": ("file:text set:object left_out:object dry_run:flag",),
    "support-bundle": ("path:text bytes:int files:object dry_run:flag",),
    "doctor": ("ok:flag findings:list",),
    "info": (
        "python:text system:text processor:text memory_total:int disk_free:int? packages:object gpus:list features:object "
        "logging:object advice:list",
        "error_codes:object",
        "env_vars:object",
        "subcommands:object",
        "model:text source:text revision:text? path:text",
    ),
}  # fmt: skip


def schemas() -> dict[str, Any]:
    """The JSON Schema of every command's output: command → schema; `error` is that of a failure of any of them."""
    made = {command: _either([_of(shape) for shape in shapes]) for command, shapes in OUTPUTS.items()}
    properties = {k: {"type": "string"} for k in ("code", "message", "hint")} | {
        "retryable": {"type": "boolean"}
    }
    error = _of(ERROR)
    error["properties"]["error"] |= {
        "properties": {**properties, "details": {"type": "object"}},
        "required": [*properties, "details"],
    }
    return {**made, "error": error}


def keys(shape: str) -> Iterator[tuple[str, str, bool]]:
    """(key, JSON type, whether it is always there) of a declaration; the type of what may be null ends with ` or null`."""
    for word in shape.split():
        if word.startswith("@"):
            yield from _fields(word[1:])
            continue
        name, _, kind = word.partition(":")
        told = TYPES[kind.removesuffix("?")]
        yield (
            name.removeprefix("?"),
            f"{told} or null" if kind.endswith("?") else told,
            not name.startswith("?"),
        )


def _fields(where: str) -> Iterator[tuple[str, str, bool]]:
    module, _, name = where.partition(":")
    cls = getattr(importlib.import_module(module), name)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        parts = (
            [a for a in typing.get_args(hint) if a is not type(None)]
            if type(None) in typing.get_args(hint)
            else [hint]
        )
        kind = _json_type(parts[0])
        yield field.name, kind if parts == [hint] else f"{kind} or null", True


def _json_type(hint: Any) -> str:
    origin = typing.get_origin(hint) or hint
    if dataclasses.is_dataclass(origin):
        return "object"
    if isinstance(origin, type):
        for types, name in (
            (bool, "boolean"), (int, "integer"), (float, "number"), (Mapping, "object"), ((tuple, list), "array"),
        ):  # fmt: skip
            if issubclass(origin, types):
                return name
    return "string"


def _of(shape: str) -> dict[str, Any]:
    found = list(keys(shape))
    properties: dict[str, Any] = {"schema_version": {"const": 1}}
    for name, kind, _ in found:
        types = [t for t in kind.split(" or ") if t]
        properties[name] = {} if not types else {"type": types[0] if len(types) == 1 else types}
    return {
        "type": "object",
        "properties": properties,
        "required": ["schema_version", *(name for name, _, always in found if always)],
    }


def _either(shapes: list[dict[str, Any]]) -> dict[str, Any]:
    return shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
