r"""Which metrics a task has: chosen by name, by the task that the dataset declares, or suggested from its references.

Where nothing is declared, the references decide, in this order (the first rule that fits):

1. every reference is a list of tool calls → `tools`; of spans {start, end, label} → `ner`; an object → `structured`
2. every row has passages → `rag`
3. nine of ten references are a number, or a solution that ends with one (`####`, `\boxed`) → `math`
4. at most 50 different references of at most 5 words, each used 3 times on average → `classification`
5. half of the references have at most 8 words → `qa`; else `summarization`

A suggestion is told with its reason, and any profile or list of metrics named by the user stands above it.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bp_merge.common import BpError

from bp_core.evaluation.metrics.spans import span_of
from bp_core.evaluation.metrics.tools import calls_of
from bp_core.rewards.numerals import number_of


@dataclasses.dataclass(frozen=True)
class Profile:
    """A kind of task.

    Args:
        name: of the task.
        metrics: scored by default; the first is the one to gate on.
        about: one line for people.
    """

    name: str
    metrics: tuple[str, ...]
    about: str


PROFILES: dict[str, Profile] = {
    p.name: p
    for p in (
        Profile("qa", ("token_f1", "normalized_exact_match"), "short answers"),
        Profile(
            "rag",
            ("token_f1", "normalized_exact_match", "faithfulness", "context_recall"),
            "answers drawn from passages",
        ),
        Profile("classification", ("macro_f1", "accuracy"), "one label a row"),
        Profile("ner", ("span_f1", "span_precision", "span_recall"), "entities and PII as exact spans"),
        Profile("bio", ("entity_f1",), "entities as BIO tags"),
        Profile(
            "structured",
            ("field_accuracy", "object_match", "json_valid", "missing_fields", "extra_fields"),
            "JSON objects",
        ),
        Profile("summarization", ("rougeL", "rouge1", "rouge2", "rougeLsum"), "summaries and long answers"),
        Profile("translation", ("chrf", "bleu"), "translations"),
        Profile("math", ("math_equal",), "answers that end with a number"),
        Profile("reasoning", ("math_equal", "think_format"), "a number after marked-off reasoning"),
        Profile("tools", ("tool_calls", "tool_names"), "tool calls"),
        Profile("code", ("pass_rate", "pass_at_k"), "code that is run (opt-in)"),
        Profile("preference", ("win_rate", "preference_margin"), "pairs of answers"),
    )
}
# The seeds' word for how spans are scored (`output_schema.scoring_mode`).
_ALIASES = {
    "span_set": "ner",
    "pii": "ner",
    "seq2seq": "summarization",
    "tool_use": "tools",
    "ner_bio": "bio",
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """A profile and why it was chosen."""

    profile: Profile
    reason: str


def get_profile(name: str) -> Profile:
    """The profile of a name.

    Raises:
        BpError: `INPUT_EVAL_PROFILE_UNKNOWN`.
    """
    found = PROFILES.get(_ALIASES.get(name, name))
    if found is None:
        near = difflib.get_close_matches(name, [*PROFILES, *_ALIASES], 1)
        raise BpError(
            "INPUT_EVAL_PROFILE_UNKNOWN",
            f"there is no task profile {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            f"choose among {', '.join(PROFILES)}",
        )
    return found


def choose(
    references: Sequence[Any],
    *,
    name: str = "",
    tasks: Iterable[str] = (),
    contexts: Sequence[Sequence[str]] = (),
) -> Choice:
    """The profile of a set: by name, else by the task that its examples declare, else suggested from the references.

    Args:
        references: of the rows.
        name: of a profile, where the user gave one.
        tasks: `Example.task` of the rows.
        contexts: passages of the rows, where there are any.

    Raises:
        BpError: `INPUT_EVAL_PROFILE_UNKNOWN` for a name that does not exist; `INPUT_EVAL_TASKS_MIXED` where the rows
            declare different tasks.
    """
    if name:
        return Choice(get_profile(name), "named by the user")
    declared = {t for t in tasks if t and t != "rl"}
    if len(declared) > 1:
        raise BpError(
            "INPUT_EVAL_TASKS_MIXED",
            f"the rows declare different tasks: {', '.join(sorted(declared))}",
            "evaluate one set per task, or name a profile",
        )
    if declared:
        task = declared.pop()
        return Choice(get_profile(task), f"the dataset declares the task {task}")
    return suggest(references, contexts)


def _is_calls(reference: Any) -> bool:
    return isinstance(reference, list | tuple) and bool(reference) and None not in calls_of(list(reference))


def _is_spans(reference: Any) -> bool:
    return isinstance(reference, list | tuple) and all(span_of(item) is not None for item in reference)


def _ends_with_number(text: str) -> bool:
    bare = text.strip()
    marked = "####" in bare or "\\boxed" in bare
    return number_of(bare) is not None and (marked or len(bare.split()) <= 2)


def suggest(references: Sequence[Any], contexts: Sequence[Sequence[str]] = ()) -> Choice:
    """The profile that the references look like, by the rules at the module's head.

    Raises:
        BpError: `INPUT_EVAL_PROFILE_UNKNOWN` where there is no reference.
    """
    known = [r for r in references if r is not None]
    if not known:
        raise BpError(
            "INPUT_EVAL_PROFILE_UNKNOWN",
            "the rows have no reference, so no task can be suggested",
            f"name a profile: {', '.join(PROFILES)}",
        )
    n = len(known)
    if all(map(_is_calls, known)):
        return Choice(PROFILES["tools"], "every reference is a list of tool calls")
    if all(map(_is_spans, known)) and any(known):
        return Choice(PROFILES["ner"], "every reference is a list of spans")
    if all(isinstance(r, Mapping) for r in known):
        return Choice(PROFILES["structured"], "every reference is an object")
    if contexts and len(contexts) == len(references) and all(contexts):
        return Choice(PROFILES["rag"], "every row has passages")
    texts = [str(r[0] if isinstance(r, list | tuple) and r else r) for r in known]
    if sum(map(_ends_with_number, texts)) >= 0.9 * n:
        return Choice(PROFILES["math"], "the references are numbers")
    words = sorted(len(t.split()) for t in texts)
    kinds = len(set(texts))
    if kinds <= 50 and words[-1] <= 5 and n >= 3 * kinds:
        return Choice(PROFILES["classification"], f"{n} references are {kinds} short texts")
    middle = words[(n - 1) // 2]
    if middle <= 8:
        return Choice(PROFILES["qa"], f"half of the references have at most {middle} words")
    return Choice(PROFILES["summarization"], f"half of the references have {middle} words or more")
