"""What each package offers is a promise: the names stand here in words, and the stub tells a type checker the same."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = {
    "bp_core": """
        BpError Callback RunResult RunStore Settings StepInfo Trainer register_with_ollama resolve
    """,
    "bp_data": """
        BpError CODES CleanSettings Cleaned Conversion Detection Example FORMATS FieldMap Issue KINDS KeyAccount Limits
        REASONS Reader Rejected Report ReportSettings Split SplitSettings TASKS Turn ValidateSettings Validation check
        clean convert detect propose read refused report split to_arrow to_dataset to_messages to_prompt_completion
        to_row validate
    """,
    "bp_export": """
        AdapterInfo BpError ExportPlan ExportResult ExportSettings GgufResult Ollama PushResult RegisterResult ResolvedBase
        VerifyResult export open_runtime pull push register resolve_base shelf write_gguf write_gguf_lora
    """,
    "bp_merge": """
        Adapter Baked BpError Checkpoint LoraModule LowRank MergeResult Method Moments Sketch SlaoState compare
        get_method greedy_soup inspect merge merge_models method_names plan_merge save_moments
    """,
}


@pytest.mark.parametrize("package", NAMES)
def test_no_public_name_vanishes(package):
    assert set(NAMES[package].split()) - set(importlib.import_module(package).__all__) == set()


@pytest.mark.parametrize("package", NAMES)
def test_a_new_public_name_is_written_down(package):
    added = set(importlib.import_module(package).__all__) - set(NAMES[package].split())
    assert added == set(), "a public name is kept for good: list it in NAMES"


@pytest.mark.parametrize("package", NAMES)
def test_the_stub_names_the_same_objects(package):
    module = importlib.import_module(package)
    stub = ast.parse(Path(str(module.__file__)).with_suffix(".pyi").read_text("utf-8"))
    told = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(told) == set(module.__all__)
    for name, full in told.items():
        home, _, inner = full.rpartition(".")
        assert getattr(module, name) is getattr(importlib.import_module(home), inner), name
