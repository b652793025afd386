"""Why the encoder refuses a row, what it tells of rows that it takes, and the command that leads on from each.

- A reason is a stable code: it stands in the record of a run and in `rejected.jsonl`.
- The cause, with what was found, belongs to the place that refuses; the way out stands here. `{data}` is the user's
  file, `{model}` the model, `{template}` the named template that can say most in the model's vocabulary.
"""

from __future__ import annotations

import json
import re
import shlex

from bp_data.example import Example, Rejected

_TEMPLATE = "backprop train --model {model} --data {data} --chat-template {template}"

WAYS: dict[str, str] = {
    "wrong_kind": "backprop train --model {model} --data {data} --map prompt=prompt,chosen=completion",
    "no_trainable_tokens": "backprop validate {data}",
    "special_token_in_content": "backprop data clean {data} --drop-match {token}",
    "template_refused": _TEMPLATE,
    "answer_not_rendered": _TEMPLATE,
    "context_not_rendered": _TEMPLATE,
    "prompt_not_prefix": _TEMPLATE,
    "prompt_opens_block": _TEMPLATE,
    "double_bos": _TEMPLATE,
    "trace_missing": "backprop train --model {model} --data {data}",
    "trace_too_short": "backprop train --model {model} --data {data} --reasoning-trace --min-trace-tokens 1",
    "trace_too_long": "backprop train --model {model} --data {data} --reasoning-trace",
    "pair_split": "backprop train --model {model} --data {data} --chat-template chatml",
    "pair_same": "backprop validate {data}",
    "too_long": "backprop train --model {model} --data {data} --truncate",
    "prompt_too_long": "backprop train --model {model} --data {data} --method grpo --max-seq-length 8192",
}

TOLD: dict[str, str] = {
    "tools_not_rendered": "the chat template does not show the tools that the row declares: "
    "the model does not learn which there are",
    "call_ids_mapped": "tool call ids were put into the form that the chat template asks for, nine letters and digits",
}


def way_out(row: Rejected, *, data: str, model: str, template: str) -> str:
    """The command that leads on from a rejected row: the encoder's reasons each have one, bp-data's are told by validate."""
    way = WAYS.get(row.reason, "backprop validate {data}")
    token = shlex.quote(re.escape(row.excerpt))
    return way.format(data=shlex.quote(data), model=shlex.quote(model), template=template, token=token)


def rejected(example: Example, reason: str, hint: str, field: str = "", excerpt: str = "") -> Rejected:
    """A refusal of the encoder; the excerpt is the row's beginning unless given."""
    excerpt = excerpt or example.text or (example.turns[0].content if example.turns else "")
    return Rejected(example.source, example.line, reason, field, hint, excerpt[:80])


def shown(text: str) -> str:
    """A text's first 40 characters, quoted."""
    return repr(text if len(text) <= 40 else text[:40] + "…")


def special_text_in(example: Example, special: re.Pattern[str]) -> Rejected | None:
    """A refusal where the row's own text holds a special token, which would end or open a turn.

    Args:
        example: a chat.
        special: matches the special tokens of the vocabulary.
    """
    for i, turn in enumerate(example.turns):
        calls = json.dumps([call.get("function") for call in turn.tool_calls], ensure_ascii=False)
        for field, text in (
            ("content", turn.content),
            ("reasoning_content", turn.reasoning or ""),
            ("tool_calls", calls),
        ):
            for found in special.finditer(text):
                if turn.role == "assistant" and found.group() in ("<think>", "</think>"):
                    continue  # reasoning written into the text
                return rejected(
                    example,
                    "special_token_in_content",
                    f"remove {found.group()!r} from the text: this model reads it as a control token",
                    f"turns[{i}].{field}",
                    found.group(),
                )
    return None
