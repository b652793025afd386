"""Checkpoints on disk: folders, shards, single files, row blocks, and what is refused."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from bp_merge.checkpoint import Checkpoint
from bp_merge.common import BpError
from safetensors.numpy import save_file

T = {
    "a": np.arange(12, dtype=np.float32).reshape(4, 3).astype(ml_dtypes.bfloat16),
    "b": np.linspace(0, 1, 5).astype(np.float16),
    "c": np.arange(24, dtype=np.float64).reshape(2, 3, 4),
    "ids": np.arange(3),
    "one": np.array(2.5, np.float32),
}


def sharded(folder, places):
    for file in set(places.values()):
        save_file({n: T[n] for n, f in places.items() if f == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.mark.parametrize("kind", ["file", "single", "shards"])
def test_open_and_read_rows(tmp_path, kind):
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    if kind == "shards":
        sharded(tmp_path, {n: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, n in enumerate(T)})
    else:
        save_file(T, tmp_path / "model.safetensors")
    with Checkpoint.open(tmp_path / "model.safetensors" if kind == "file" else tmp_path) as base:
        assert sorted(base.names) == sorted(T)
        assert base.config == ({} if kind == "file" else {"model_type": "x"})
        for name in ("a", "b", "c"):
            assert base.read(name).dtype == np.float32
            assert np.array_equal(base.read(name, 1, 3), T[name].astype(np.float32)[1:3])
            assert np.array_equal(base.read_raw(name, 1), T[name][1:])
        assert base.read("one") == 2.5
        assert base.read("one").shape == ()
        assert base.read("a", 3, 99).shape == (1, 3)
        assert base.read("a", 3, 1).shape == (0, 3)
        assert np.array_equal(base.elements("c", 5, 9), [5, 6, 7, 8])
        assert np.array_equal(base.read_raw("ids"), [0, 1, 2])
        assert (base.info("a").dtype, base.info("a").shape, base.info("a").nbytes) == ("BF16", (4, 3), 24)
        with pytest.raises(BpError) as caught:
            base.read("ids")
        assert caught.value.code == "INPUT_DTYPE_UNSUPPORTED"
        with pytest.raises(BpError) as caught:
            base.read("nothing")
        assert caught.value.code == "INPUT_TENSOR_MISSING"


def test_disagreement_of_index_and_files(tmp_path):
    places = dict.fromkeys(T, "m.safetensors")
    sharded(tmp_path, places)
    index = tmp_path / "model.safetensors.index.json"
    for text, cause in (
        (json.dumps({"weight_map": {**places, "lost": "m.safetensors"}}), "lost is not in"),
        (json.dumps({"weight_map": {**places, "a": "../m.safetensors"}}), "outside"),
        (json.dumps({"weight_map": {**places, "a": 3}}), "cannot be used"),
        (json.dumps({"weight_map": {**places, "a": "gone.safetensors"}}), "gone.safetensors is missing"),
        ("{", "cannot be used"),
        ("[]", "cannot be used"),
        ('{"weight_map": []}', "has no tensor a|cannot"),
    ):
        index.write_text(text)
        with pytest.raises(BpError, match=cause) as caught:
            Checkpoint.open(tmp_path).info("a")
        assert caught.value.code in ("INPUT_CHECKPOINT_INVALID", "INPUT_TENSOR_MISSING")


def test_folders_that_hold_no_checkpoint(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(BpError) as caught:
            Checkpoint.open(folder)
        assert caught.value.code == "INPUT_CHECKPOINT_INVALID"
