"""What the pages say is what the code does."""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from bp_merge.method import get_method, method_names
from bp_merge.moments import Moments
from tiny_adapters import adapter

ROOT = Path(__file__).resolve().parents[2]


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


@pytest.fixture
def here(tmp_path):
    before = Path.cwd()
    for i, name in enumerate(("adapter-a", "adapter-b")):
        adapter(i).save(tmp_path / name)
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


@pytest.mark.parametrize("page", ["packages/bp-merge/README.md", "docs/guides/merge.md"])
def test_the_examples_run(here, page):
    (block,) = blocks(page)
    exec(compile(block, page, "exec"), {})
    assert (here / "merged" / "adapter_config.json").is_file()


def test_the_moments_example_runs(here):
    (block,) = blocks("docs/concepts/merge-moments.md")
    exec(block, {"inputs_of_the_attention": [np.ones((2, 3, 4096), np.float32)]})
    sketch, _ = Moments.load("moments.safetensors").read("model.layers.0.self_attn.k_proj", 4096)
    np.testing.assert_allclose(sketch.T @ sketch, 6.0, rtol=1e-5)


def test_the_page_of_methods_is_the_registry_s():
    found = runpy.run_path(str(ROOT / "docs" / "merge_methods.py"))
    page = found["PAGE"].read_text(encoding="utf-8")
    assert page == found["page"](), "run: python docs/merge_methods.py"
    figure = (ROOT / "docs" / "concepts" / "merge-methods.svg").read_text(encoding="utf-8")
    for name in method_names():
        assert f"## {name}\n" in page
        assert f">{name}</text>" in figure


@pytest.mark.parametrize("name", method_names())
def test_a_method_tells_when_to_use_it_and_what_it_costs(name):
    doc = get_method(name).function.__doc__
    assert "Use it" in doc
    assert "Cost:" in doc


def test_type_checkers_see_what_there_is():
    import bp_merge

    stub = Path(bp_merge.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    assert sorted(re.findall(r"import (\w+) as \1\n", stub)) == bp_merge.__all__
    modules = {p.stem for p in Path(bp_merge.__file__).parent.glob("*.py")}
    assert not modules & set(bp_merge.__all__)  # a module of the same name would hide it
