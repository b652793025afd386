"""Field mappings: given, proposed with a confidence, or done by a plug-in.

- A mapping names which field of the row plays which part: `question=prompt,answer=completion`. Parts are the field
  names of the known formats (`TARGETS`); dots reach into objects (`data.question=prompt`).
- JSON says more: `{"fields": {…}, "format": "…", "labels": {"0": "negative"}, "templates": {"prompt": "Q: {question}"}}`.
- A proposal weighs names and contents; below 0.80 nobody acts on it by itself.
- A mapper is a callable from a row to a row in a known format. It comes from an entry point `bp_data.mappers` or from
  a module that is named, whose `register_dataset_mappers(register)` calls `register(id, mapper)`. A module or entry
  point that fails to load is told and left out; it never blocks the rest. `ValueError("reason_code")` refuses a row.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from bp_data.errors import BpError, RowError
from bp_data.formats.base import Fields, to_json, without_nulls
from bp_data.formats.foreign import foreign
from bp_data.formats.keys import left_over, normal
from bp_data.formats.sides import PARTS, TALK

GROUP = "bp_data.mappers"
ENV = "BP_DATA_MAPPERS"
_SIDES = frozenset({"system", "history", "context", "input", "reasoning", "tools", "weight"})
TARGETS = _SIDES | frozenset(
    [
        "prompt",
        "completion",
        "messages",
        "conversations",
        "text",
        "chosen",
        "rejected",
        "label",
        "reference",
        "question",
        "contexts",
        "answer",
        "instruction",
        "output",
        "tokens",
        "ner_tags",
        "spans",
    ]
)
Mapper = Callable[[dict[str, Any]], Mapping[str, Any]]

# How surely a field name plays a part.
_NAMES: dict[str, dict[str, float]] = {
    "prompt": {
        "prompt": 1.0, "question": 0.95, "instruction": 0.95, "query": 0.9, "problem": 0.85, "user": 0.85,
        "request": 0.85, "input": 0.85, "human": 0.85, "ask": 0.8, "utterance": 0.8, "source": 0.6, "title": 0.5,
    },
    "completion": {
        "completion": 1.0, "answer": 0.95, "response": 0.95, "output": 0.9, "reply": 0.85, "assistant": 0.85,
        "solution": 0.85, "bot": 0.85, "target": 0.75, "summary": 0.7, "result": 0.6, "body": 0.4,
    },
    "system": {"system": 1.0, "systemprompt": 1.0, "persona": 0.7},
    "text": {"text": 1.0, "document": 0.85, "article": 0.85, "passage": 0.85, "body": 0.8, "markdown": 0.8, "raw": 0.8},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FieldMap:
    """Which field plays which part.

    Args:
        fields: source field (dotted path) → target field.
        format: the format of the mapped row; found by its fields unless given.
        labels: label coercion, written value → canonical label.
        templates: target field → format string over the source row, such as "Q: {question}".
    """

    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    format: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    templates: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for target in (*self.fields.values(), *self.templates):
            if target not in TARGETS:
                import difflib

                close = difflib.get_close_matches(str(target), sorted(TARGETS), 1)
                hint = f"did you mean {close[0]}?" if close else f"targets are {', '.join(sorted(TARGETS))}"
                raise BpError(
                    "INPUT_MAPPING_INVALID", f"{target!r} is no field that a row can be mapped to", hint
                )
        if len(set(self.fields.values())) < len(self.fields):
            raise BpError(
                "INPUT_MAPPING_INVALID",
                "two fields are mapped to the same target",
                "use --map question=prompt,answer=completion",
            )

    def apply(
        self, row: Mapping[str, Any], account: Fields | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The mapped row, and the rest of the row.

        A map of side columns alone (`ctx=context`) renames them in a row that is otherwise read as it is. Beside a map
        of the main columns, those side columns are kept that have their own name and need no prompt: system prompt,
        history, reasoning, tools, weight.

        Args:
            row: a row of the source.
            account: takes what is told of the objects that templates write out.

        Raises:
            RowError: `missing_field`, `template_failed`, `label_not_allowed`.
        """
        mapped: dict[str, Any] = {}
        left: dict[str, Any] = dict(row)
        for source, target in self.fields.items():
            if (value := _dig(row, source)) is None:
                if target in _SIDES:
                    continue
                raise RowError(
                    "missing_field", source, f"the mapping reads {source} as {target}; it is absent or null"
                )
            mapped[target] = value
            left = _without(left, source)
        for target, template in self.templates.items():
            try:
                mapped[target] = _Template(account).vformat(template, (), row)
            except (KeyError, IndexError, ValueError, AttributeError) as error:
                raise RowError("template_failed", target, f"the template {template!r}: {error}") from None
            for _, source, _, _ in string.Formatter().parse(template):
                left = _without(left, source) if source else left
        if self.labels and "label" in mapped:
            written = mapped["label"]
            key = str(written).lower() if isinstance(written, bool) else str(written)
            if key not in self.labels:
                known = ", ".join(self.labels)
                raise RowError(
                    "label_not_allowed", "label", f"{key!r} is not among the mapped labels ({known})"
                )
            mapped["label"] = self.labels[key]
        if mapped.keys() <= _SIDES and (self.fields or self.templates):
            return {**left, **mapped}, {}
        for key in [
            key for key in left if PARTS.get(normal(key)) in TALK and PARTS[normal(key)] not in mapped
        ]:
            mapped[key] = left.pop(key)
        return mapped, left

    def told(self, left: Mapping[str, Any], told: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """What the rest of a row tells; of a column that the map took a part of, the parts that it did not take."""
        opened = {source.split(".")[0] for source in self.fields if "." in source}
        out: list[tuple[str, str]] = []
        for what, path in told:
            inner = left.get(path)
            if path in opened and isinstance(inner, Mapping):
                out += [
                    (kind, f"{path}.{key}") for key, value in inner.items() if (kind := left_over(key, value))
                ]
            else:
                out.append((what, path))
        return out

    def to_dict(self) -> dict[str, Any]:
        """The mapping as JSON-able data, as `--map-json` reads it."""
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in dataclasses.asdict(self).items() if v}


class _Template(string.Formatter):
    """Format strings that read fields only: no attributes, no missing names."""

    def __init__(self, account: Fields | None) -> None:
        super().__init__()
        self.account = Fields() if account is None else account

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        value = _dig(kwargs, field_name)
        if value is None:
            raise KeyError(f"the row has no {field_name}")
        if isinstance(value, Mapping | list):
            value = without_nulls(value, self.account, field_name)
        return (value if isinstance(value, str) else to_json(value)), field_name


def _dig(row: Mapping[str, Any], path: str) -> Any:
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping):
            value = value.get(part)
        else:
            return None
    return value


def _without(value: Any, path: str) -> Any:
    """The value without the member that a path names, and without what is empty then."""
    if isinstance(value, Mapping):
        if path in value:
            return {key: item for key, item in value.items() if key != path}
        head, _, tail = path.partition(".")
        if head not in value or not tail:
            return value
        inner = _without(value[head], tail)
        rest = {key: item for key, item in value.items() if key != head}
        return {**rest, head: inner} if inner not in ({}, [], None) else rest
    head, _, tail = path.partition(".")
    if isinstance(value, list) and head.isdigit() and int(head) < len(value):
        at = int(head)
        inner = _without(value[at], tail) if tail else None
        return [*value[:at], *([inner] if inner not in ({}, [], None) else []), *value[at + 1 :]]
    return value


def parse_map(text: str | Mapping[str, Any] | FieldMap) -> FieldMap:
    """A mapping from `question=prompt,answer=completion`, JSON, a path to a JSON file, or a mapping.

    Raises:
        BpError: `INPUT_MAPPING_INVALID`.
    """
    example = "use --map question=prompt,answer=completion"
    if isinstance(text, FieldMap):
        return text
    if isinstance(text, str):
        text = text.strip()
        if text.endswith(".json"):
            try:
                text = Path(text).read_text("utf-8").strip()
            except OSError as error:
                raise BpError(
                    "INPUT_MAPPING_INVALID", f"the mapping {text} cannot be read: {error.strerror}", example
                ) from None
        if text.startswith("{"):
            try:
                text = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                raise BpError("INPUT_MAPPING_INVALID", f"the mapping is no JSON: {error}", example) from None
        else:
            fields: dict[str, str] = {}
            for part in text.split(","):  # pyright: ignore
                source, sign, target = part.partition("=")
                if not sign or not source.strip() or not target.strip():
                    raise BpError(
                        "INPUT_MAPPING_INVALID", f"{part.strip()!r} is not of the form field=target", example
                    )
                fields[source.strip()] = target.strip()
            return FieldMap(fields)
    if not isinstance(text, Mapping):
        raise BpError("INPUT_MAPPING_INVALID", "a mapping is a JSON object", example)
    known = {"fields", "format", "labels", "templates"}
    if known & text.keys():
        if extra := sorted(text.keys() - known):
            raise BpError(
                "INPUT_MAPPING_INVALID",
                f"the mapping has the unknown key {extra[0]!r}",
                f"keys are {', '.join(sorted(known))}",
            )
        return FieldMap(
            _strings(text.get("fields")), str(text.get("format") or ""), _strings(text.get("labels")),
            _strings(text.get("templates")),
        )  # fmt: skip
    return FieldMap(_strings(text))


def _strings(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise BpError(
            "INPUT_MAPPING_INVALID",
            "fields, labels and templates are objects from text to text",
            "use --map question=prompt",
        )
    return {str(k): v for k, v in value.items()}


# ---------------------------------------------------------------------------------------------- proposals


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A field mapping that the names and contents suggest.

    Args:
        mapping: source field → target field.
        confidence: in [0, 1].
        reasons: why, one sentence for each field.
    """

    mapping: dict[str, str]
    confidence: float
    reasons: tuple[str, ...]

    def tell(self) -> str:
        """The proposal in one line."""
        return f"proposed mapping ({self.confidence:.2f}): {self.as_flag()}"

    def as_flag(self) -> str:
        """The mapping as `--map` takes it."""
        return ",".join(f"{source}={target}" for source, target in self.mapping.items())


def propose(rows: Sequence[Mapping[str, Any]]) -> Proposal | None:
    """The likeliest mapping to prompt and completion, or to text; None where no field holds text."""
    texts = _text_fields(rows)
    if (named := _by_their_names(rows, texts)) is not None:
        return named
    if not texts or foreign(rows[0]):
        return None
    ranked = {
        part: sorted(((_likeness(name, part), name) for name in texts), key=lambda p: -p[0])
        for part in _NAMES
    }
    (p, prompt), (c, completion) = ranked["prompt"][0], ranked["completion"][0]
    if p and c and prompt != completion:
        mapping, reasons = {prompt: "prompt", completion: "completion"}, [
            f"the name {prompt!r} speaks for the prompt ({p:.2f})",
            f"the name {completion!r} speaks for the completion ({c:.2f})",
        ]  # fmt: skip
        rivals = [
            n
            for part in ("prompt", "completion")
            for s, n in ranked[part][1:2]
            if s >= 0.8 and n not in mapping
        ]
        confidence = min(p, c) - 0.15 * len(rivals)
        reasons += [f"{rival!r} could be meant as well" for rival in rivals]
        mapping |= _sides(texts, mapping)
        return Proposal(mapping, round(max(confidence, 0.0), 2), tuple(reasons))
    t, name = ranked["text"][0]
    if t > max(p, c):
        return Proposal(
            {name: "text"},
            round(t - 0.1 * (len(texts) > 1), 2),
            (f"the name {name!r} speaks for plain text",),
        )
    if len(texts) == 1:
        only = next(iter(texts))
        return Proposal({only: "text"}, 0.6, (f"{only!r} is the only field that holds text",))
    names = sorted(texts, key=lambda n: -texts[n][1])  # questions first
    asked, told = (names[0], names[1]) if texts[names[0]][1] > 0.3 else tuple(list(texts)[:2])
    if p:
        asked, told = prompt, next(n for n in texts if n != prompt)
    elif c:
        asked, told = next(n for n in texts if n != completion), completion
    return Proposal(
        {asked: "prompt", told: "completion"}, 0.5,
        (f"{asked!r} and {told!r} hold the texts; the names do not say which is which",),
    )  # fmt: skip


def _by_their_names(rows: Sequence[Mapping[str, Any]], texts: Mapping[str, Any]) -> Proposal | None:
    """The mapping where the columns have the names of a known format but for their case or depth."""
    from bp_data.formats import CONFIDENT, rank  # not above: the formats know nothing of maps

    mapping: dict[str, str] = {}
    lists = {
        key: normal(key)
        for row in rows[:20]
        for key, value in row.items()
        if isinstance(value, list | Mapping)
    }
    talks = {
        key: name
        for key, name in lists.items()
        if name in ("messages", "conversations", "chosen", "rejected")
    }
    for key in sorted((*texts, *talks), key=lambda name: name.count(".")):
        target = normal(key.rpartition(".")[2])
        if target in TARGETS and target not in mapping.values():
            mapping[key] = target
    if not mapping or mapping.keys() == set(mapping.values()):
        return None
    row = next((row for row in rows if all(_dig(row, key) is not None for key in mapping)), rows[0])
    ranked = rank({target: _dig(row, key) for key, target in mapping.items()})
    if not ranked or ranked[0][1][0] < CONFIDENT or ranked[0][0].name == "text":
        return None
    reason = f"these are the names of {ranked[0][0].name} ({ranked[0][0].shape}) but for case or depth"
    return Proposal(mapping, 0.9, (reason,))


def _sides(texts: Iterable[str], taken: Mapping[str, str]) -> dict[str, str]:
    """Columns beside the main ones whose names say what they are."""
    found: dict[str, str] = {}
    for name in texts:
        part = PARTS.get(normal(name.rpartition(".")[2]))
        if part in _SIDES and name not in taken and part not in (*taken.values(), *found.values()):
            found[name] = part
    return found


def _text_fields(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Fields that are text with at least two words in half of the rows: name → (mean length, share with a question mark).

    Objects, and the first object of a list, are looked into: `instances.0.output`.
    """
    lengths: dict[str, list[int]] = {}
    asking: dict[str, int] = {}
    for row in rows:
        for key, value in _leaves(row):
            lengths.setdefault(key, []).append(len(value))
            asking[key] = asking.get(key, 0) + ("?" in value)
    note = re.compile(r"(?:.*[_.])?(?:id|uuid|url|source|split|date|lang|language)")
    translated = any(key.lower().rpartition(".")[2] == "target" for key in lengths)
    return {
        key: (sum(found) / len(found), asking[key] / len(found))
        for key, found in lengths.items()
        if len(found) >= len(rows) / 2 and (sum(found) / len(found) >= 3 or _likeness(key, "completion") > 0)
        and (not note.fullmatch(key.lower()) or (translated and key.lower().rpartition(".")[2] == "source"))
    }  # fmt: skip


def _leaves(row: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterable[tuple[str, str]]:
    for key, value in row.items():
        if (
            isinstance(value, list)
            and value
            and isinstance(value[0], Mapping)
            and "role" not in value[0]
            and "from" not in value[0]
        ):
            key, value = f"{key}.0", value[0]
        if isinstance(value, Mapping) and depth < 2:
            yield from _leaves(value, f"{prefix}{key}.", depth + 1)
        elif isinstance(value, str) and value.strip():
            yield f"{prefix}{key}", value


def _likeness(name: str, part: str) -> float:
    words = [w for w in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if w]
    known = _NAMES[part]
    if not words:
        return 0.0
    if (whole := "".join(words)) in known:
        return known[whole]
    tail = known.get(words[-1], known.get(words[-1].rstrip("s"), 0.0))
    head = known.get(words[0], 0.0)
    return round(max(0.92 * tail, 0.85 * head), 3)


# ------------------------------------------------------------------------------------------------ mappers


def load_mappers(modules: Iterable[str] = ()) -> tuple[dict[str, Mapper], list[str]]:
    """The mappers of entry points and of the modules named (also in BP_DATA_MAPPERS, comma-separated).

    Returns:
        Mappers by id, and one line for each plug-in that could not be loaded.
    """
    found: dict[str, Mapper] = {}
    failed: list[str] = []
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP):
        try:
            found[point.name] = point.load()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a third party's module: told, and the others go on
            failed.append(f"mapper {point.name} ({point.value}) left out: {type(error).__name__}: {error}")
    named = [m.strip() for m in (*modules, *os.environ.get(ENV, "").split(",")) if m.strip()]
    for module in dict.fromkeys(named):
        try:
            importlib.import_module(module).register_dataset_mappers(found.__setitem__)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
            failed.append(f"mapper module {module} left out: {type(error).__name__}: {error}")
    return found, failed


def mapper_named(ident: str, modules: Iterable[str] = ()) -> Mapper:
    """One mapper.

    Raises:
        BpError: `INPUT_MAPPER_UNKNOWN`, `INPUT_MAPPER_FAILED` where plug-ins failed to load and it may be among them.
    """
    found, failed = load_mappers(modules)
    if ident in found:
        return found[ident]
    if failed:
        raise BpError(
            "INPUT_MAPPER_FAILED",
            f"there is no mapper {ident!r}; {failed[0]}",
            "import the module in python to see why",
        )
    known = ", ".join(sorted(found)) or "none is installed"
    raise BpError(
        "INPUT_MAPPER_UNKNOWN", f"there is no mapper {ident!r} ({known})", "bp-data map FILE --auto"
    )
