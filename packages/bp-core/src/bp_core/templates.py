"""Chat templates for models that carry none, by name.

- A template is chosen by the user, never guessed: a base model without one is refused until `--chat-template` says.
- Each ends an assistant turn with one token of the model's own vocabulary, so that the model learns to stop.
- `plain` needs no special token but the model's end of sequence; it fits any base model.
- BOS is not part of a template here: the encoder adds it where the tokenizer would.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bp_merge.common import BpError

CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' %}{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{{- '\\n' }}{%- else %}{{- message['content'] + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
GEMMA = (
    "{%- set ns = namespace(system='') %}{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{%- set ns.system = message['content'] + '\\n\\n' %}"
    "{%- elif message['role'] == 'assistant' %}{{- '<start_of_turn>model\\n' }}"
    "{% generation %}{{- message['content'] | trim + '<end_of_turn>' }}{% endgeneration %}{{- '\\n' }}"
    "{%- else %}{{- '<start_of_turn>user\\n' + ns.system + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{%- set ns.system = '' %}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"
)
LLAMA3 = (
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{%- if message['role'] == 'assistant' %}{% generation %}{{- message['content'] | trim + '<|eot_id|>' }}"
    "{% endgeneration %}{%- else %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
MISTRAL = (
    "{%- set ns = namespace(system='') %}{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{%- set ns.system = message['content'] + '\\n\\n' %}"
    "{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] | trim + eos_token }}"
    "{%- else %}{{- '[INST] ' + ns.system + message['content'] | trim + ' [/INST]' }}{%- set ns.system = '' %}"
    "{%- endif %}{%- endfor %}"
)
PLAIN = (
    "{%- for message in messages %}{%- if message['role'] == 'assistant' %}"
    "{{- 'Answer: ' + message['content'] | trim + eos_token + '\\n' }}"
    "{%- elif message['role'] == 'system' %}{{- message['content'] | trim + '\\n\\n' }}"
    "{%- else %}{{- 'Question: ' + message['content'] | trim + '\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'Answer:' }}{%- endif %}"
)
NAMED: dict[str, str] = {
    "chatml": CHATML,
    "gemma": GEMMA,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "plain": PLAIN,
}


def choose_template(tokenizer: Any, chosen: str | None) -> str:
    """Set and return the chat template of a tokenizer.

    Args:
        tokenizer: a transformers tokenizer; its `chat_template` is replaced where `chosen` is given.
        chosen: a name of `NAMED`, a Jinja file, or None for the tokenizer's own.

    Raises:
        BpError: `CONFIG_TEMPLATE_MISSING` where the model has none and none was chosen;
            `CONFIG_TEMPLATE_UNKNOWN` for a name or file that is not there;
            `CONFIG_TEMPLATE_UNFIT` where the template's end-of-turn text is not one token of this vocabulary.
    """
    if chosen is None:
        if not tokenizer.chat_template:
            raise BpError(
                "CONFIG_TEMPLATE_MISSING",
                f"{tokenizer.name_or_path or 'the model'} is a base model without a chat template",
                "choose one: backprop train --chat-template plain … (or "
                + ", ".join(sorted(NAMED))
                + ", or a Jinja file)",
            )
        template = tokenizer.chat_template
        return template if isinstance(template, str) else template["default"]
    if chosen in NAMED:
        text = NAMED[chosen]
    elif Path(chosen).is_file():
        text = Path(chosen).read_text(encoding="utf-8")
    else:
        raise BpError(
            "CONFIG_TEMPLATE_UNKNOWN",
            f"{chosen!r} is neither a template's name nor a file",
            "choose one of " + ", ".join(sorted(NAMED)) + ", or give the path of a Jinja file",
        )
    for mark in ("<|im_end|>", "<end_of_turn>", "<|eot_id|>"):
        if mark in text and len(tokenizer(mark, add_special_tokens=False)["input_ids"]) != 1:
            raise BpError(
                "CONFIG_TEMPLATE_UNFIT",
                f"template {chosen!r} ends a turn with {mark}, which is not one token of this vocabulary",
                "choose another template, for a base model usually --chat-template plain",
            )
    tokenizer.chat_template = text
    return text
