"""Sets of rewards and system prompts by name: LoRA Craft's ten categories and its default prompt, and DeepSeek-R1's form.

- A preset is a start: copy it with `backprop reward show NAME --toml > mine.toml` and change what your task wants.
- A prompt says the form that the rewards look for; its markers are those that `bp_core.rewards.text` reads answers from.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any

from bp_merge.common import BpError


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A system prompt with the form that it asks for.

    Args:
        system: the system message.
        instruction: how a prompt is put, with `{instruction}` for it.
        response: the form of an answer, with `{reasoning}` and `{solution}`; for answers that are taught.
        reasoning: the markers around the working out, opening and closing; () for none.
        solution: those around the final answer.
    """

    system: str
    instruction: str = "{instruction}"
    response: str = "{solution}"
    reasoning: tuple[str, ...] = ()
    solution: tuple[str, ...] = ()

    def answer(self, reasoning: str, solution: str) -> str:
        """An answer in the form of the prompt."""
        put = {"reasoning": reasoning, "solution": solution}
        return re.sub(r"\{(reasoning|solution)\}", lambda place: put[place[1]], self.response)


PROMPTS: dict[str, Prompt] = {
    "working-out": Prompt(
        "You are given a problem.\n"
        "Think about the problem and provide your working out.\n"
        "Place it between <start_working_out> and <end_working_out>.\n"
        "Then, provide your solution between <SOLUTION></SOLUTION>",
        response="<start_working_out>{reasoning}<end_working_out><SOLUTION>{solution}</SOLUTION>",
        reasoning=("<start_working_out>", "<end_working_out>"),
        solution=("<SOLUTION>", "</SOLUTION>"),
    ),
    "think-answer": Prompt(
        "Think about the question first, then answer it. Write your thoughts between <think> and </think>, and the "
        "answer between <answer> and </answer>.",
        response="<think>{reasoning}</think>\n<answer>{solution}</answer>",
        reasoning=("<think>", "</think>"),
        solution=("<answer>", "</answer>"),
    ),
    "python-block": Prompt(
        "Write Python. Give the whole program in one block that begins with ```python and ends with ```.",
        response="```python\n{solution}\n```",
        solution=("```python", "```"),
    ),
    "json-only": Prompt("Answer with one JSON object and nothing else."),
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """A set of rewards for a kind of task.

    Args:
        title: as LoRA Craft calls the category.
        rewards: what it rewards, in a sentence.
        use_for: tasks.
        reads: what each row must have.
        parts: (reward, weight, parameters).
        prompt: one of `PROMPTS`, or "".
    """

    title: str
    rewards: str
    use_for: str
    reads: str
    parts: tuple[tuple[str, float, Mapping[str, Any]], ...]
    prompt: str = ""

    def table(self) -> dict[str, Any]:
        """The set as `compose.load_set` takes it."""
        found: dict[str, Any] = {"prompt": self.prompt} if self.prompt else {}
        found["reward"] = [
            {"use": use, "weight": weight, **({"parameters": dict(p)} if p else {})}
            for use, weight, p in self.parts
        ]
        return found


PRESETS: dict[str, Preset] = {
    "algorithm-implementation": Preset(
        "Algorithm Implementation",
        "correct algorithms that finish within a short time limit",
        "code generation, algorithm design",
        "tests (a text, or a list of texts)",
        (("code_passes_tests", 2.0, {"seconds": 5.0}), ("code_parses", 0.5, {}), ("length_in_range", 0.25, {"least": 5, "most": 300})),
        "python-block",
    ),
    "chain-of-thought": Preset(
        "Chain of Thought",
        "reasoning step by step that ends in the right answer",
        "math problems, logical reasoning, complex analysis",
        "reference",
        (("normalized_match", 1.0, {}), ("step_by_step", 1.0, {}), ("sections_in_order", 0.5, {})),
        "working-out",
    ),
    "citation-format": Preset(
        "Citation Format",
        "citations in APA style with a list of references",
        "academic writing, research tasks",
        "nothing",
        (("citations", 1.0, {"style": "apa", "least": 2}), ("length_in_range", 0.25, {"least": 50, "most": 600})),
    ),
    "code-generation": Preset(
        "Code Generation",
        "code in a block that parses, without running it",
        "programming tasks, code completion",
        "nothing",
        (("code_parses", 1.0, {}), ("length_in_range", 0.25, {"least": 5, "most": 400}), ("repetition_penalty", 0.5, {})),
        "python-block",
    ),
    "concise-summarization": Preset(
        "Concise Summarization",
        "short summaries that share the reference's words",
        "text summarization, data reporting",
        "reference",
        (("concise_summary", 1.0, {}), ("length_in_range", 0.25, {"least": 10, "most": 150}), ("repetition_penalty", 0.5, {})),
    ),
    "creative-writing": Preset(
        "Creative Writing",
        "varied vocabulary and sentences of a fair length, no loops",
        "content generation, storytelling",
        "nothing",
        (("varied_prose", 1.0, {}), ("length_in_range", 0.5, {"least": 100, "most": 800}), ("repetition_penalty", 1.0, {})),
    ),
    "math-science": Preset(
        "Math & Science",
        "the right number, in the form of the prompt",
        "math problems, scientific reasoning",
        "reference (a number, or a text that ends with it)",
        (("numeric_match", 2.0, {}), ("sections_in_order", 0.5, {}), ("step_by_step", 0.25, {})),
        "working-out",
    ),
    "programming": Preset(
        "Programming",
        "programs that run to their end within time and memory",
        "software development tasks",
        "nothing",
        (("code_runs", 1.0, {}), ("code_parses", 0.5, {})),
        "python-block",
    ),
    "reasoning": Preset(
        "Reasoning",
        "an answer that is right after normalisation, with thoughts kept apart",
        "general problem-solving",
        "reference",
        (("normalized_match", 1.0, {}), ("think_answer_tags", 0.5, {})),
        "think-answer",
    ),
    "question-answering": Preset(
        "Question Answering",
        "short answers that share the reference's words and hold it whole",
        "Q&A systems, information retrieval",
        "reference",
        (("token_f1", 1.0, {}), ("contains_answer", 0.5, {"max_words": 60})),
    ),
}  # fmt: skip
ALIASES = {"math": "math-science", "coding": "code-generation", "code": "code-generation", "qa": "question-answering",
           "summarization": "concise-summarization"}  # fmt: skip


def prompt_from(value: Any) -> Prompt | None:
    """A prompt by name, or from a table of its fields; None for none.

    Raises:
        BpError: `CONFIG_REWARD_INVALID`.
    """
    if value is None or isinstance(value, Prompt):
        return value
    if isinstance(value, str) and value in PROMPTS:
        return PROMPTS[value]
    fields = [f.name for f in dataclasses.fields(Prompt)]
    if isinstance(value, Mapping) and isinstance(value.get("system"), str) and set(value) <= set(fields):
        pairs: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        texts = all(isinstance(pairs.get(k, ""), str) for k in ("instruction", "response"))
        markers = (pairs.get(k, ()) for k in ("reasoning", "solution"))
        if texts and all(
            isinstance(m, tuple) and len(m) in (0, 2) and all(isinstance(t, str) for t in m) for m in markers
        ):
            return Prompt(**pairs)
    near = difflib.get_close_matches(str(value), PROMPTS, 1)
    told = (
        f"; did you mean {near[0]}?" if near else f": {', '.join(PROMPTS)}, or a table of {', '.join(fields)}"
    )
    raise BpError(
        "CONFIG_REWARD_INVALID",
        f"prompt = {value!r} is no known prompt{told}",
        "backprop reward show math-science --toml",
    )


def to_toml(name: str, table: Mapping[str, Any]) -> str:
    """A set as a TOML file."""
    lines = [f"name = {_toml(name)}"] + (
        [f"prompt = {_toml(table['prompt'])}"] if table.get("prompt") else []
    )
    for part in table["reward"]:
        lines += ["", "[[reward]]", *(f"{k} = {_toml(v)}" for k, v in part.items())]
    return "\n".join([*lines, ""])


def _toml(value: Any) -> str:
    import json

    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
