"""Licences of base models: which one it is, and what it asks of whoever passes a fine-tune on.

- The id is read from the README's front matter that Hub repositories carry, else known from the family's name.
- Only what a licence asks of derivatives is told; this is a notice, not legal advice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# id or family → (id, what it asks, where the text is)
_NOTICES: tuple[tuple[str, str, str, str], ...] = (
    (
        r"gemma",
        "gemma",
        "the Gemma terms bind derivatives: pass on the terms and the prohibited-use policy, and say that files changed",
        "https://ai.google.dev/gemma/terms",
    ),
    (
        r"llama[-_ ]?4",
        "llama4",
        'the Llama 4 community licence binds derivatives: name them "Llama-…", show "Built with Llama", pass it on',
        "https://www.llama.com/llama4/license/",
    ),
    (
        r"llama[-_ ]?3\.3",
        "llama3.3",
        'the Llama 3.3 community licence binds derivatives: name them "Llama-…", show "Built with Llama", pass it on',
        "https://www.llama.com/llama3_3/license/",
    ),
    (
        r"llama[-_ ]?3\.2",
        "llama3.2",
        'the Llama 3.2 community licence binds derivatives: name them "Llama-…", show "Built with Llama", pass it on',
        "https://www.llama.com/llama3_2/license/",
    ),
    (
        r"llama[-_ ]?3\.1",
        "llama3.1",
        'the Llama 3.1 community licence binds derivatives: name them "Llama-…", show "Built with Llama", pass it on',
        "https://www.llama.com/llama3_1/license/",
    ),
    (
        r"llama[-_ ]?3",
        "llama3",
        'the Llama 3 community licence binds derivatives: name them "Llama 3…", show "Built with Meta Llama 3"',
        "https://www.llama.com/llama3/license/",
    ),
    (
        r"llama[-_ ]?2",
        "llama2",
        "the Llama 2 community licence binds derivatives: pass on the licence and its notice",
        "https://www.llama.com/llama2/license/",
    ),
    (
        r"cc-by-nc",
        "cc-by-nc-4.0",
        "the base is for non-commercial use only, and so is what is made from it",
        "https://creativecommons.org/licenses/by-nc/4.0/",
    ),
    (
        r"qwen-research",
        "other",
        "the Qwen research licence allows non-commercial use only",
        "https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE",
    ),
)


@dataclass(frozen=True)
class Licence:
    """A licence id as the Hub writes it, and the notice for whoever passes the model on ("" where it asks little)."""

    id: str | None = None
    notice: str = ""
    link: str = ""


def licence_of(base: Path | None, ref: str | None = None, known: str | None = None) -> Licence:
    """The licence of a base model.

    Args:
        base: its folder, whose README.md front matter is read.
        ref: its name, from which a family with known terms is told.
        known: an id recorded before; it wins.

    >>> licence_of(None, "meta-llama/Llama-3.2-1B").id
    'llama3.2'
    >>> licence_of(None, "Qwen/Qwen2.5-0.5B")
    Licence(id=None, notice='', link='')
    """
    found = known or _front_matter(base, "license")
    if found == "other":
        found = _front_matter(base, "license_name") or found
    for text in (found, Path(ref).name if ref else None, base.name if base else None):
        if not text:
            continue
        for pattern, identifier, notice, link in _NOTICES:
            if re.search(pattern, text, re.IGNORECASE):
                return Licence(found if text == found else identifier, f"{notice} ({link})", link)
        if text == found:
            return Licence(found)
    return Licence(found)


def _front_matter(base: Path | None, key: str) -> str | None:
    if base is None or not (base / "README.md").is_file():
        return None
    text = (base / "README.md").read_text("utf-8", errors="replace")[:20_000]
    match = re.match(r"\s*---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    line = (
        re.search(rf"^{key}:[ \t]*[\"']?([A-Za-z0-9._-]+)", match.group(1), re.MULTILINE) if match else None
    )
    return line.group(1) if line else None
