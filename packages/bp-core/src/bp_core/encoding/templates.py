"""Chat templates for models that carry none, by name.

- A template is chosen by the user, never guessed: a base model without one is refused until `--chat-template` says.
- Each ends an assistant turn with one token of the model's own vocabulary, so that the model learns to stop.
- `plain` needs no special token but the model's end of sequence; it fits any base model.
- Tools, calls, results and reasoning stand in the family's own form; where it has none, the template or the encoder
  refuses the row.
- BOS is not part of a template here: the encoder adds it where the tokenizer would.

    name      tool calls                               results            reasoning
    chatml    <tool_call>{"name", "arguments"}         <tool_response>    <think>; earlier turns without
    llama3    {"name", "parameters"}, one, alone       role ipython       refused
    mistral   [TOOL_CALLS] [{…, "id"}]                 [TOOL_RESULTS]     refused
    gemma     refused                                  refused            refused
    plain     refused                                  refused            refused
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bp_merge.common import BpError

NAMED: dict[str, str] = {
    file.stem: file.read_text(encoding="utf-8").rstrip("\n")
    for file in sorted((Path(__file__).parent / "chat_templates").glob("*.jinja"))
}
CHATML = NAMED["chatml"]


def fitting_template(tokenizer: Any) -> str:
    """The named template that says most in this vocabulary: chatml, or mistral, which needs no token of its own."""
    return "chatml" if len(tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"]) == 1 else "mistral"


def refuse_template(chosen: str | None) -> None:
    """Refuse a name of no template that is no file either.

    Raises:
        BpError: `CONFIG_TEMPLATE_UNKNOWN`.
    """
    if chosen is not None and chosen not in NAMED and not Path(chosen).is_file():
        raise BpError(
            "CONFIG_TEMPLATE_UNKNOWN",
            f"{chosen!r} is neither a template's name nor a file",
            "choose one of " + ", ".join(sorted(NAMED)) + ", or give the path of a Jinja file",
        )


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
                "choose one: add --chat-template plain to the command (or "
                + ", ".join(sorted(NAMED))
                + ", or a Jinja file)",
            )
        template = tokenizer.chat_template
        return template if isinstance(template, str) else template["default"]
    refuse_template(chosen)
    text = NAMED[chosen] if chosen in NAMED else Path(chosen).read_text(encoding="utf-8")
    for mark in ("<|im_end|>", "<end_of_turn>", "<|eot_id|>"):
        if mark in text and len(tokenizer(mark, add_special_tokens=False)["input_ids"]) != 1:
            raise BpError(
                "CONFIG_TEMPLATE_UNFIT",
                f"template {chosen!r} ends a turn with {mark}, which is not one token of this vocabulary",
                "choose another template, for a base model usually --chat-template plain",
            )
    tokenizer.chat_template = text
    return text
