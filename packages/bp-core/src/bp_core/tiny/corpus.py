"""The text that `tiny` learns from: the docstrings of the running Python's standard library.

- On every machine that has Python, under its licence (PSF-2.0), read with `ast`; nothing is imported or run.
- Two views: documents (`module.name(args)` and its docstring) and conversations about their first sentence.
- Sorted by module and position, so that one Python version gives one corpus; `fingerprint` tells two apart.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "site-packages",
    "dist-packages",
    "__pycache__",
}
QUESTIONS = (
    "What does {name} do?",
    "Explain {name}.",
    "Tell me about {name}.",
    "What is {name} for?",
    "Can you describe {name}?",
    "When do I use {name}?",
)


def docstrings() -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of every documented module, class and function of the standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(root.rglob("*.py")):
        relative = file.relative_to(root)
        if LEFT_OUT & set(relative.parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in old modules
                tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        yield from _of(tree, module)


def _of(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text and len(text) > 20:
        yield name, text
    for child in node.body:
        if isinstance(
            child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and not child.name.startswith("_"):
            yield from _of(child, f"{name}.{child.name}")


def first_sentence(text: str) -> str:
    """The first sentence of a docstring on one line, or "" where it is none worth answering with."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.!?])\s", paragraph)[0]
    return sentence if 20 <= len(sentence) <= 160 and sentence[0].isalpha() and sentence[-1] == "." else ""


def entries() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(document, conversations) of each docstring: the text, and two phrasings of a question about its first sentence."""
    for i, (name, text) in enumerate(docstrings()):
        answer = first_sentence(text)
        short = ".".join(name.split(".")[-2:])
        asked = [QUESTIONS[(i + k) % len(QUESTIONS)].format(name=short) for k in (0, 3)] if answer else []
        yield f"{name}\n\n{text}", [(question, answer) for question in asked]


def fingerprint(texts: list[str]) -> str:
    """SHA-256 of the documents."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8") + b"\0")
    return digest.hexdigest()
