"""The part of Go's text/template that Ollama chat templates of ours use, for holding them against the Jinja."""

from __future__ import annotations

import re
from typing import Any

_ACTION = re.compile(r'\{\{(-\s)?\s*((?:"(?:[^"\\]|\\.)*"|[^"}]|\}(?!\}))*?)\s*(\s-)?\}\}')
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\(|\)|[^\s()]+')


def render(template: str, messages: list[dict[str, str]]) -> str:
    """What Ollama writes: equal roles in a row are merged, .System holds all system texts."""
    merged: list[dict[str, str]] = []
    for m in messages:
        if merged and merged[-1]["Role"] == m["role"]:
            merged[-1]["Content"] += "\n\n" + m["content"]
        else:
            merged.append({"Role": m["role"], "Content": m["content"]})
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    root = {"Messages": merged, "System": system, "Prompt": "", "Response": ""}
    tree, rest = _parse(_tokens(template))
    assert rest == [], rest
    return "".join(_run(tree, root, root, {}))


def _tokens(text: str) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    position, trim = 0, False
    for m in _ACTION.finditer(text):
        literal = text[position : m.start()]
        literal = literal.lstrip() if trim else literal
        out.append(("text", literal.rstrip() if m.group(1) else literal))
        out.append(("action", m.group(2)))
        position, trim = m.end(), bool(m.group(3))
    tail = text[position:]
    return [*out, ("text", tail.lstrip() if trim else tail)]


def _parse(tokens: list[tuple[str, str]]):
    nodes: list[Any] = []
    while tokens:
        kind, value = tokens[0]
        if kind == "text":
            nodes.append(("text", value))
        elif value == "end" or value.startswith("else"):
            return nodes, tokens
        elif value.startswith(("if ", "range ")):
            word, _, head = value.partition(" ")
            branches, condition = [], head
            tokens = tokens[1:]
            while True:
                body, tokens = _parse(tokens)
                branches.append((condition, body))
                closing, tokens = tokens[0][1], tokens[1:]
                if closing == "end":
                    break
                condition = closing.removeprefix("else").strip().removeprefix("if").strip() or None
            nodes.append((word, branches))
            continue
        else:
            nodes.append(("value", value))
        tokens = tokens[1:]
    return nodes, tokens


def _run(nodes, dot, root, names):
    for kind, value in nodes:
        if kind == "text":
            yield value
        elif kind == "value":
            yield str(_evaluate(value, dot, root, names))
        elif kind == "if":
            for condition, body in value:
                if condition is None or _evaluate(condition, dot, root, names):
                    yield from _run(body, dot, root, names)
                    break
        else:
            [(head, body)] = value
            variables, _, expression = head.rpartition(":=")
            keys = [v.strip() for v in variables.split(",")] if variables else []
            for i, item in enumerate(_evaluate(expression.strip(), dot, root, names)):
                yield from _run(body, item, root, {**names, **dict(zip(keys, (i, item), strict=False))})


def _evaluate(text: str, dot, root, names):
    words = _WORD.findall(text)
    value, rest = _call(words, dot, root, names)
    assert rest == [], text
    return value


def _call(words, dot, root, names):
    arguments = []
    head = words[0]
    functions = {
        "eq": lambda a, *b: any(a == x for x in b),
        "ne": lambda a, b: a != b,
        "le": lambda a, b: a <= b,
        "gt": lambda a, b: a > b,
        "len": len,
        "slice": lambda a, i, j=None: a[i:j],
        "not": lambda a: not a,
        "and": lambda *a: next((x for x in a if not x), a[-1]),
        "or": lambda *a: next((x for x in a if x), a[-1]),
    }
    name = head if head in functions else None
    words = words[1:] if name else words
    while words and words[0] != ")":
        if words[0] == "(":
            value, words = _call(words[1:], dot, root, names)
            words = words[1:]
        else:
            value, words = _atom(words[0], dot, root, names), words[1:]
        arguments.append(value)
    return (functions[name](*arguments) if name else arguments[0]), words


def _atom(word: str, dot, root, names):
    if word.startswith('"'):
        return word[1:-1]
    if word.lstrip("-").isdigit():
        return int(word)
    base, *path = word.split(".")
    value = root if base == "$" else names[base] if base.startswith("$") else dot
    for key in path:
        if key:
            value = value[key]
    return value
