"""A package adds a method by its entry point: the one in examples/, held to the laws it lists."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from bp_merge.cli import cli
from bp_merge.common import BpError, run_command
from bp_merge.engine import merge
from bp_merge.lowrank import norm
from bp_merge.method import get_method, method_names
from tiny_adapters import NAMES, adapter, apart, folders, part

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "merge-method"


def install(site, source, points):
    """What an installer leaves: the module on the path, and its entry points."""
    info = site / "plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[bp_merge.methods]\n{lines}")
    return [str(site), str(source)]


@pytest.fixture
def example(tmp_path, monkeypatch):
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    for path in install(tmp_path, EXAMPLE / "src", project["entry-points"]["bp_merge.methods"]):
        monkeypatch.syspath_prepend(path)
    return "median_norm"


def test_the_example_is_a_method_like_ours(example, tmp_path, capsys):
    assert example in method_names()
    found = [adapter(1), adapter(2, scale=5.0), adapter(3)]
    result = merge(found, example)
    sizes = sorted(norm(part(a.modules[NAMES[0]])) for a in found)
    want = sum(
        a.modules[NAMES[0]].delta() * sizes[1] / np.linalg.norm(a.modules[NAMES[0]].delta()) for a in found
    )
    np.testing.assert_allclose(result.adapter.modules[NAMES[0]].delta(), want / 3, atol=1e-5)
    argv = ["merge", *map(str, folders(tmp_path)), "--method", example, "--param", "power=0.5"]
    assert run_command(cli, [*argv, "--output", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == {"power": 0.5}
    with pytest.raises(BpError, match="power must be at most 1"):
        merge(found, example, power=2)


def test_it_obeys_the_laws_that_it_lists(example):
    made, one, other = get_method(example), adapter(1), adapter(2, scale=3.0)
    assert set(made.laws) == {"identity", "idempotent", "gauge", "symmetric"}
    assert apart(merge([one], example).adapter, one) < 1e-6
    assert apart(merge([one, one], example).adapter, one) < 1e-6
    assert apart(merge([one, other], example).adapter, merge([other, one], example).adapter) < 1e-6


def test_what_is_no_method_is_refused(tmp_path, monkeypatch):
    (tmp_path / "not_one.py").write_text("def not_one(parts, weights, context):\n    return parts[0]\n")
    for path in install(tmp_path, tmp_path, {"not_one": "not_one:not_one"}):
        monkeypatch.syspath_prepend(path)
    with pytest.raises(BpError, match="@method") as caught:
        get_method("not_one")
    assert caught.value.code == "INPUT_METHOD_INVALID"
