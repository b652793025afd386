"""What learning from rewards reads of a row: the ids of its prompt; the answers are the model's own.

- A conversation is asked up to its last assistant turn, which becomes the expected answer unless the row brings one.
- No token is a label: the mask is 0 everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bp_data.example import Example, Rejected

from bp_core.encoding.encode import Encoded, Encoder
from bp_core.encoding.refusals import rejected
from bp_core.evaluation.rows import EvalRow


def encode_prompts(encoder: Encoder, examples: Iterable[Example]) -> Iterator[tuple[Encoded, ...] | Rejected]:
    """Of each example its prompt, or why it has none; in their order.

    Raises:
        BpError: `CONFIG_TEMPLATE_LOSES` where the chat template does not show a turn or a tool.
    """
    for example in examples:
        row = EvalRow.of(example) if example.kind in ("chat", "prompt") else None
        if row is None or not row.turns:
            hint = "rewards judge answers to a prompt: give rows with a prompt, and an answer where the rewards read one"
            yield rejected(example, "wrong_kind", hint)
            continue
        ids = encoder.prompt_ids(row.turns, row.tools)
        if len(ids) > encoder.max_length:
            told = f"the prompt has {len(ids)} tokens; at most {encoder.max_length} (--max-seq-length)"
            yield rejected(example, "prompt_too_long", told)
            continue
        yield (Encoded(tuple(ids), bytes(len(ids)), example.id),)
