"""What can be wrong with one text, found by gates that cost next to nothing on clean text.

- Every pattern hides behind a test that runs at memory speed (`isascii`, one character `in` the text), so a clean
  2 kB text costs about 2 µs; only what passes a gate is searched.
- Quantifiers are bounded and nothing nests: hostile text cannot make a search slow.
- Findings are `(code, expected)`; who calls knows the path and the row.
"""

from __future__ import annotations

import html
import json
import re
import zlib
from collections.abc import Iterator

from bp_data.language import script

Finding = tuple[str, str]

NULLS = frozenset(
    {"n/a", "na", "none", "null", "nan", "nil", "undefined", "<noinput>", "<no input>", "tbd", "todo", "[object object]",
     "placeholder", "lorem ipsum", "...", "…", "-", "--", "?", "???", "xxx"}
)  # fmt: skip
_LONGEST_NULL = 16
_PRINTABLE = bytes(range(32, 127)) + b"\t\n\r"
_HARMLESS = bytes(byte for byte in _PRINTABLE if byte not in b"<[{#&`\\")
_SPECIAL = re.compile(
    r"<(?:\|(?:im_start|im_end|im_sep|endoftext|end|user|assistant|system|eot_id|eom_id|start_header_id|end_header_id"
    r"|begin_of_text|end_of_text|eot|channel|message|start|return)\|>|/?s>|bos>|eos>|pad>|unk>|(?:start|end)_of_turn>"
    r"|｜(?:User|Assistant|begin▁of▁sentence|end▁of▁sentence)｜>)"
)
_INST = re.compile(r"\[/?INST\]|\[/?(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]")
_HEADER = re.compile(r"^### (?:Response|Instruction|Input|Human|Assistant):", re.MULTILINE)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
# UTF-8 read as Latin-1 or cp1252: a lead byte's letter followed by what a continuation byte turns into.
_MOJIBAKE = re.compile("[ÃÂÅÐÑâ][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]{1,2}")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{2,5}|#x[0-9a-fA-F]{2,5});")
_FENCE = re.compile(r"```.*?```|`[^`\n]{0,200}`", re.DOTALL)
_REFUSAL = re.compile(
    r"\bas an ai\b|\b(?:as )?an? (?:artificial intelligence|(?:large |ai )?language model)\b|\bi(?:'|’)?m (?:just )?an ai\b"
    r"|^(?:i(?:'|’)?m|i am) (?:sorry|unable)[^.]{0,40}\b(?:can(?:'|’|no)t|unable|but)\b|^i can(?:'|’|no)t (?:assist|help|fulfill|comply)",
    re.IGNORECASE,
)
_HEAD = 200


def _may_refuse(text: str) -> bool:
    """Whether `_REFUSAL` can match: it always holds one of these words, which are found far sooner."""
    low = text[:_HEAD].lower()
    return (
        "an ai" in low
        or "sorry" in low
        or "language model" in low
        or "artificial i" in low
        or "unable" in low
        or "i can" in low
    )


def spotless(prompt: str, answer: str) -> bool:
    """Whether no check of this module can find anything in a question and its answer: the common row, at 2 µs.

    One `translate` tells whether a text is free of control characters and of every character that a finding starts
    with; the other tests are the gates of `target_findings`, and lengths that rule out copies of the prompt.
    """
    if not (_LONGEST_NULL < len(prompt) < len(answer) and prompt.isascii() and answer.isascii()):
        return False
    if prompt.encode().translate(None, _HARMLESS) or answer.encode().translate(None, _HARMLESS):
        return False
    if len(prompt) >= 20 and answer[:20] == prompt[:20]:
        return False
    if _may_refuse(answer):
        return False
    return len(answer) <= 500 or answer.count(answer[-24:], -1000) < 4


def text_findings(text: str) -> Iterator[Finding]:
    """What is wrong with any text, prompt or answer."""
    if len(text) <= _LONGEST_NULL and text.strip().lower() in NULLS:
        yield "null_literal", f"a real text instead of {text.strip()!r}, or no row"
    if text.isascii():
        if text.encode().translate(None, _PRINTABLE):
            yield _control(text)
    else:
        yield from _beyond_ascii(text)
    if ("<" in text and (found := _SPECIAL.search(text))) or ("[" in text and (found := _INST.search(text))):
        yield (
            "special_token_in_content",
            f"the text without {found.group()!r}; the template adds its own tokens",
        )
    elif "#" in text and (found := _HEADER.search(text)):
        yield "special_token_in_content", f"the turn alone, without the prompt header {found.group()!r}"
    if "&" in text and _ENTITY.search(text):
        bare = _FENCE.sub("", text) if "`" in text else text
        if found := _ENTITY.search(bare):
            yield "html_escaped", f"{html.unescape(found.group())!r} instead of {found.group()}"
    if "\\" in text and text.count("\\n") > 1 and "\n" not in text:
        yield "escaped_newlines", "real newlines instead of the two characters \\n"


def _control(text: str) -> Finding:
    found = _CONTROL.search(text)
    what = f"U+{ord(found.group()):04X} at character {found.start() + 1}" if found else "them"
    return "control_character", f"the text without {what}"


def _beyond_ascii(text: str) -> Iterator[Finding]:
    if found := _CONTROL.search(text):
        yield (
            "control_character",
            f"the text without U+{ord(found.group()):04X} at character {found.start() + 1}",
        )
    if "\ufffd" in text:
        yield "replacement_char", f"the lost character at {text.index(chr(0xFFFD)) + 1}, from the source"
    if found := _MOJIBAKE.search(text):
        try:
            meant = found.group().encode("cp1252").decode()
        except (UnicodeEncodeError, UnicodeDecodeError):
            meant = "" if len(found.group()) < 3 else "the character meant"
        if meant:
            yield "mojibake", f"{meant} instead of {found.group()!r}; the text was decoded as Latin-1"
    if found := _INVISIBLE.search(text):
        yield (
            "invisible_character",
            f"the text without U+{ord(found.group()):04X} at character {found.start() + 1}",
        )


def target_findings(text: str) -> list[Finding]:
    """What is wrong with a text that is to be learnt, beyond `text_findings`."""
    out: list[Finding] = []
    if _may_refuse(text) and _REFUSAL.search(text, 0, _HEAD):
        out.append(("refusal", "an answer to the question, or no row"))
    if "`" in text and text.count("```") % 2:
        out.append(("truncated_target", "a closing ``` for the code fence"))
    elif text[0] in "{[" and text[-1] not in "}]" and _open_json(text):
        out.append(("truncated_target", "JSON that closes"))
    if "<" in text:
        out.extend(think_findings(text))
    if len(text) > 500 and text.count(text[-24:], -1000) >= 4 and (looped := repetition(text)):
        out.append(("repetition", looped))
    return out


def think_findings(text: str) -> Iterator[Finding]:
    """Thinking tags that do not pair.

    Example:
        >>> list(think_findings("6 × 7</think>42"))[0][0]
        'think_unbalanced'
    """
    depth = 0
    if "hink" not in text and "reasoning>" not in text:
        return
    for found in re.finditer(r"<(/?)(?:think|thinking|reasoning)>", text):
        depth += -1 if found.group(1) else 1
        if depth not in (0, 1):
            break
    if depth:
        yield "think_unbalanced", "<think>…</think> once, opened before it is closed"


def repetition(text: str) -> str:
    """Why a long text counts as a loop, or ""."""
    tail = text[-24:]
    data = text.encode("utf-8", "replace")
    ratio = len(zlib.compress(data, 1)) / len(data)
    words = text.split()
    grams: dict[tuple[str, ...], int] = {}
    for at in range(len(words) - 3):
        gram = tuple(words[at : at + 4])
        grams[gram] = grams.get(gram, 0) + 1
    share = max(grams.values(), default=0) * 4 / max(len(words), 1)
    if ratio < 0.1 or share > 0.2:
        return f"an answer that does not repeat {tail.strip()[:20]!r} {text.count(tail)} times"
    return ""


def _open_json(text: str) -> bool:
    """Whether a text is JSON that was cut off: it fails to parse exactly at its end."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
    except RecursionError:
        return False
    return False


def main_script(text: str) -> str:
    """The commonest script of the first 400 characters, Japanese counted as Han; "" below 20 letters."""
    if sum(map(str.isalpha, text[:400])) < 20:
        return ""
    name = script(text)
    return "Han" if name == "Kana" else name
