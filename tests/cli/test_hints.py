"""Every hint in the sources: no command that does not exist, no flag that it lacks, no dots to fill in."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from bp_cli.codes import rows
from hints import problem

ROOT = Path(__file__).parents[2]
# helpers that take a hint as their last argument
LAST = {"refuse", "_refuse", "_invalid", "unsupported", "_failed"}


def text_of(node: ast.expr) -> list[str]:
    """The texts that an expression may be, with X where a value stands; [] where it is no text of its own."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(map(_part, node.values))]
    if isinstance(node, ast.IfExp):
        return text_of(node.body) + text_of(node.orelse)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left) or ["X"], text_of(node.right) or ["X"]
        return [a + b for a in left for b in right]
    return []


def _part(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    shown = node.value if isinstance(node, ast.FormattedValue) else node
    return (
        "" if isinstance(shown, ast.Attribute) and shown.attr == "flag" else "X"
    )  # ` --output DIR`, or nothing


def hints():
    found = {}
    for file in sorted(ROOT.glob("packages/*/src/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "hint" for t in node.targets
            ):
                told = node.value
            elif not isinstance(node, ast.Call):
                continue
            else:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                given = [k.value for k in node.keywords if k.arg == "hint"]
                place = 2 if name == "BpError" else len(node.args) - 1 if name in LAST else 0
                if place and len(node.args) > place:
                    given.append(node.args[place])
                if not given:
                    continue
                told = given[0]
            for text in text_of(told):
                where = (
                    f"{file.relative_to(ROOT / 'packages').as_posix().partition('/src/')[2]}:{node.lineno}"
                )
                found.setdefault(where, []).append(text)
    return found


FOUND = hints()


def test_hints_are_found():
    assert len(FOUND) > 200


@pytest.mark.parametrize("package", sorted({w.split("/")[0] for w in FOUND}))
def test_every_hint_is_a_command_that_exists_or_a_plain_sentence(package):
    wrong = {
        f"{where}: {text}": why
        for where, texts in FOUND.items()
        if where.startswith(f"{package}/")
        for text in texts
        if text and (why := problem(text))
    }
    assert wrong == {}


def test_what_mends_an_error_holds_only_commands_that_exist():
    wrong = {row.code: why for row in rows() if (why := problem(row.mend))}
    assert wrong == {}


@pytest.mark.parametrize(
    ("hint", "fault"),
    [
        ("backprop dentist", "no command dentist"),
        ("look: backprop train --previw 5", "no --previw"),
        ("backprop merge", "needs a command"),
        ("backprop train --data X …", "ellipsis"),
        ("--weights 1,2", "flag alone"),
        ("check the path", "not what"),
        ("run it again: bp-merge bake BASE A --untied", "no --untied"),
        ("backprop merge bake BASE A --output M --untie  (a remark), or wait", ""),
        ("backprop runs -o output", ""),
        ("free some space, then run the same command again", ""),
    ],
)
def test_the_judge_of_hints_sees_what_is_wrong(hint, fault):
    assert (fault in problem(hint)) if fault else problem(hint) == ""
