"""The tables of codes say what the sources use: no code without a meaning, no meaning without a use."""

import ast
import re
from pathlib import Path

import bp_core
from bp_core.errors import CODES, EVENTS

SOURCES = [p for p in Path(bp_core.__file__).parent.rglob("*.py") if p.name != "errors.py"]
ERROR = re.compile(r"(INPUT|CONFIG|DEP|RUNTIME|STATE)_[A-Z0-9_]+")
EVENT_CALLS = {"event", "add_event", "say", "on_event", "_on_event"}


def literals(node):
    """The strings that an argument may be: a constant, or either arm of `a if x else b`."""
    if isinstance(node, ast.IfExp):
        return literals(node.body) + literals(node.orelse)
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def used():
    errors, events = set(), set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and ERROR.fullmatch(node.value):
                errors.add(node.value)
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in EVENT_CALLS and node.args:
                events |= set(literals(node.args[0]))
            if name == "Verdict" and len(node.args) > 1:
                events |= set(literals(node.args[1]))
            if name in ("_stop", "_abort"):
                events |= {
                    v for a in node.args for v in literals(a) if v.isupper() and not ERROR.fullmatch(v)
                }
            if name == "insert_event":
                events |= {v for a in node.args for v in literals(a) if v.isupper()}
    return errors, events


def test_every_error_code_has_a_meaning_and_a_use():
    errors, _ = used()
    assert errors == set(CODES)


def test_every_event_code_has_a_meaning_and_a_use():
    _, events = used()
    assert events == set(EVENTS)


def test_meanings_are_one_line():
    for table in (CODES, EVENTS):
        for code, told in table.items():
            assert re.fullmatch(r"[A-Z][A-Z0-9_]+", code)
            for text in [told] if isinstance(told, str) else told:
                assert text
                assert "\n" not in text
                assert not text.endswith(".")
                assert len(text) <= 110
