"""The safetensors layer against the reference library, and against damaged files."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from bp_merge.casts import DTYPES, from_f32, to_f32
from bp_merge.common import BpError
from bp_merge.stfile import AtomicFile, Reader, read_header, write_file
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import deserialize
from safetensors.numpy import save


def open_file(path):
    tensors, _ = read_header(path)
    return tensors, Reader(path)


SHAPES = st.lists(st.integers(0, 5), min_size=0, max_size=3).map(tuple)
KINDS = st.sampled_from(["F32", "BF16", "F16", "F64", "I64", "U8", "BOOL"])


@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(KINDS, SHAPES), max_size=5), st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_reads_and_writes_what_the_library_does(tmp_path_factory, spec, seed):
    spec.pop("__metadata__", None)
    rng = np.random.default_rng(seed)
    tensors = {n: np.asarray(rng.standard_normal(s) * 9).astype(DTYPES[k]) for n, (k, s) in spec.items()}
    path = tmp_path_factory.mktemp("st") / "a.safetensors"
    path.write_bytes(save(tensors, {"format": "pt"}))
    infos, reader = open_file(path)
    assert set(infos) == set(tensors)
    for name, want in tensors.items():
        got = reader.rows(infos[name])
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert got.tobytes() == want.tobytes() == reader.elements(infos[name], 0, want.size).tobytes()
    reader.close()
    write_file(path, tensors)
    back = dict(deserialize(path.read_bytes()))
    assert all(bytes(back[n]["data"]) == a.tobytes() for n, a in tensors.items())
    assert all(tuple(back[n]["shape"]) == a.shape for n, a in tensors.items())


GOOD = save(
    {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float16)}, {"format": "pt"}
)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_never_tracebacks(tmp_path_factory, data):
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] + data.draw(st.binary(max_size=9))
    path = tmp_path_factory.mktemp("st") / "a.safetensors"
    path.write_bytes(raw)
    try:
        infos, reader = open_file(path)
    except BpError as error:
        refused = error
    else:
        refused = None
    if refused:
        assert refused.code == "INPUT_FILE_INVALID"
        return
    deserialize(bytes(raw))  # what we accept, the reference accepts
    for info in infos.values():
        reader.rows(info)
    reader.close()


def header(entries, size=12):
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return len(text).to_bytes(8, "little") + text + b"\0" * size


F32 = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"", "cut off"),
        ((1 << 40).to_bytes(8, "little"), "cut off"),
        ((99).to_bytes(8, "little") + b"{}", "cut off"),
        (header(b"[]", 0), "not an object"),
        (header(b"{" * 50000, 0), "no JSON"),
        (header('{"a":1}'.encode("utf-16"), 0), "no JSON"),
        (header(b'{"a":1,"a":2}', 0), "repeated"),
        (header({"a": {**F32, "dtype": "F33"}}), "malformed"),
        (header({"a": {**F32, "shape": [-3]}}), "malformed"),
        (header({"a": {**F32, "shape": [True]}}), "malformed"),
        (header({"a": {**F32, "shape": [4]}}), "malformed"),
        (header({"a": {**F32, "shape": 3}}), "malformed"),
        (header({"a": {**F32, "data_offsets": [12, 0]}}), "malformed"),
        (header({"a": F32, "b": F32}), "overlap"),
        (header({"a": {**F32, "data_offsets": [4, 16]}}, 16), "gaps"),
        (header({"a": F32}, 11), "bytes where its header says"),
        (header({"a": F32}, 13), "bytes where its header says"),
        (header({"a": {**F32, "more": 1}}), "malformed"),
        (header({"__metadata__": {"a": 1}, "a": F32}), "not text"),
    ],
)
def test_each_damage_has_its_cause(tmp_path, raw, cause):
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw)
    with pytest.raises(BpError, match=cause) as caught:
        read_header(path)
    assert caught.value.code == "INPUT_FILE_INVALID"


def test_a_file_that_shrinks_while_it_is_open(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(GOOD)
    infos, reader = open_file(path)
    with path.open("r+b") as other:
        other.truncate(len(GOOD) - 4)
    with pytest.raises(BpError, match="ends before"):
        [reader.rows(i) for i in infos.values()]
    reader.close()


def test_nothing_is_left_of_an_uncommitted_file(tmp_path):
    with pytest.raises(RuntimeError), AtomicFile(tmp_path / "x") as file:
        file.write(b"half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_bf16_and_f16_round_once_to_nearest_even():
    bits = np.arange(1 << 16, dtype=np.uint16)
    for name, kind in (("F16", np.float16), ("BF16", ml_dtypes.bfloat16)):
        exact = bits.view(kind)
        finite = exact[np.isfinite(exact.astype(np.float32))]
        assert from_f32(to_f32(finite), name).tobytes() == finite.tobytes()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 1 << 32, 400_000, dtype=np.uint32).view(np.float32)
    halves = to_f32(np.arange(0x7C00, dtype=np.uint16).view(np.float16))
    middle = (halves[1:] + halves[:-1]) / 2  # ties
    edges = np.float32([0, -0.0, 65504, 65519.99, 65520, np.inf, -np.inf, 6e-8, 2.98e-8, 2.9802322e-8, 1e-45])
    x = np.concatenate([x[~np.isnan(x)], middle, -middle, np.nextafter(middle, np.float32(9e9)), edges])
    with np.errstate(over="ignore"):
        assert from_f32(x, "F16").tobytes() == x.astype(np.float16).tobytes()
    assert np.isnan(from_f32(np.float32([np.nan, -np.nan]), "F16")).all()
