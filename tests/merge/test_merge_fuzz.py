"""Any text in the small files of a model folder: it is read, or refused with a code; never a traceback."""

from __future__ import annotations

import json
import os

import numpy as np
from bp_merge.bake import bake
from bp_merge.inspection import describe, inspect
from bp_merge.models import merge_models
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tiny_adapters import NAMES, adapter, code_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CONFIG = st.dictionaries(
    st.sampled_from(
        [
            "architectures",
            "tie_word_embeddings",
            "quantization_config",
            "text_config",
            "torch_dtype",
            "dtype",
            "model_type",
            "vocab_size",
            "vision_config",
        ]
    ),
    JSON,
    max_size=4,
)
TOKENIZER = st.fixed_dictionaries({}, optional={"model": JSON, "added_tokens": JSON})
INDEX = st.fixed_dictionaries({}, optional={"metadata": JSON, "weight_map": JSON})
DEEP = b"deep"  # stands for a text that is nested too deep, which a failure should not print
BAD = st.one_of(st.just(b""), st.just(b"\xff\xfe{"), st.just(DEEP), st.binary(max_size=20))


def model(folder, config, tokenizer=None, index=None):
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {f"{n}.weight": rng.normal(size=(12, 16)).astype(np.float32) for n in NAMES}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for name, value in (
        ("config.json", config),
        ("tokenizer.json", tokenizer),
        ("model.safetensors.index.json", index),
    ):
        if value is not None:
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            (folder / name).write_bytes(b"[" * 100_000 if raw == DEEP else raw)
    return folder


def refused_or_done(run, output):
    code = code_of(run)
    assert code is None or code.startswith("INPUT_")
    assert output.exists() == (code is None)


@settings(max_examples=120, deadline=None)
@given(config=CONFIG | BAD | JSON, index=st.none() | INDEX | BAD)
@example(config={"architectures": 1.0}, index=None)
@example(config={"text_config": {"tie_word_embeddings": []}, "quantization_config": [1]}, index=None)
def test_a_base_with_any_configuration_and_index(tmp_path_factory, config, index):
    folder = tmp_path_factory.mktemp("f")
    base = model(folder / "base", config, index=index)
    refused_or_done(lambda: bake(base, [adapter(1)], folder / "out", dtype="bf16"), folder / "out")
    code_of(lambda: describe(inspect(base)))


@settings(max_examples=80, deadline=None)
@given(first=CONFIG | BAD, second=CONFIG, one=st.none() | TOKENIZER | BAD, two=st.none() | TOKENIZER | JSON)
def test_models_with_any_configurations_and_tokenizers(tmp_path_factory, first, second, one, two):
    folder = tmp_path_factory.mktemp("f")
    base = model(folder / "base", first, one)
    tuned = [model(folder / n, second, two) for n in "ab"]
    refused_or_done(lambda: merge_models(base, tuned, output=folder / "out", method="linear"), folder / "out")


def test_an_output_below_a_file_is_a_coded_error(tmp_path):
    base = model(tmp_path / "base", {})
    (tmp_path / "file").write_text("x")
    for run in (
        lambda: bake(base, [adapter(1)], tmp_path / "file" / "out"),
        lambda: adapter(1).save(tmp_path / "file" / "out"),
    ):
        assert code_of(run) in ("RUNTIME_WRITE_FAILED", "INPUT_PATH_EXISTS")
    if os.name == "posix" and os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        assert (
            code_of(lambda: bake(base, [adapter(1)], tmp_path / "closed" / "out")) == "RUNTIME_WRITE_FAILED"
        )
