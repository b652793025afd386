"""Reading: whatever is cut or damaged is a coded error, and the check sees what is wrong in a whole file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_models
from bp_export.gguf import GgufFile, write_gguf
from bp_export.verify.gguf import verify
from bp_merge.checkpoint import Checkpoint
from bp_merge.common import BpError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tiny_models.build("llama3", tmp_path_factory.mktemp("llama3"))
    path = folder / "m.gguf"
    with Checkpoint.open(folder) as source:
        write_gguf(source, source.config, folder, path, "q8_0")
    return folder, path


@given(share=st.floats(0, 0.9999))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_anywhere(written, tmp_path, share):
    data = written[1].read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BpError) as caught:
        GgufFile(cut)
    assert caught.value.code == "INPUT_GGUF_INVALID"


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 8))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_headers_are_coded_or_read(written, tmp_path, seed, count):
    data = bytearray(written[1].read_bytes()[:40_000])
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, len(data), count):
        data[at] = rng.integers(256)
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(bytes(data) + written[1].read_bytes()[40_000:])
    codes = []
    try:
        file = GgufFile(damaged)
        for name in file.tensors:
            file.read_raw(name, 0, 1)
    except BpError as error:
        codes.append(error.code)
    assert set(codes) <= {"INPUT_GGUF_INVALID"}


def test_no_file(tmp_path):
    with pytest.raises(BpError, match="does not exist") as caught:
        GgufFile(tmp_path / "none.gguf")
    assert caught.value.code == "INPUT_GGUF_INVALID"


def _spoil(path, out, name, change):
    """A copy of a file with the bytes of one tensor changed."""
    t = GgufFile(path).tensors[name]
    data = bytearray(path.read_bytes())
    raw = np.frombuffer(data, np.uint8, t.nbytes, t.start)
    change(raw)
    out.write_bytes(data)
    return out


def test_a_scale_that_is_nan(written, tmp_path):
    path = written[1]
    bad = _spoil(
        path,
        tmp_path / "b.gguf",
        "blk.1.ffn_up.weight",
        lambda raw: raw.__setitem__(slice(0, 2), (0xFF, 0x7F)),
    )
    found = verify(bad)
    assert found.finite is False
    assert not found.verified
    assert "blk.1.ffn_up.weight" in found.problems[0]
    with pytest.raises(BpError, match="not finite") as caught:
        found.require()
    assert caught.value.code == "RUNTIME_GGUF_CHECK_FAILED"


def test_swapped_rows(written, tmp_path):
    folder, path = written

    def swap(raw):
        half = len(raw) // 2
        raw[:] = np.concatenate([raw[half:], raw[:half]])

    bad = _spoil(path, tmp_path / "b.gguf", "blk.0.attn_q.weight", swap)
    with Checkpoint.open(folder) as source:
        found = verify(bad, source=source, config=source.config, tokenizer_dir=folder)
    assert any("blk.0.attn_q.weight" in p for p in found.problems)
    assert found.unchecked["kl"] == "the file is wrong already"


def test_another_template_and_another_vocabulary(written, tmp_path):
    folder, path = written
    other = tmp_path / "tokenizer"
    other.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (other / name).write_bytes((folder / name).read_bytes())
    config = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(
        json.dumps(config | {"chat_template": "{{ messages }}", "eos_token": "<|im_end|>"})
    )
    found = verify(path, tokenizer_dir=other)
    assert found.template_equal is False
    assert found.vocabulary_equal is False
    assert "eos_token_id" in found.problems[0]


def test_logits_of_another_model(written, tmp_path):
    folder, path = written
    stranger = tiny_models.build("llama3", tmp_path / "other", seed=7)
    found = verify(path, tiny_models.reference(stranger), tokenizer_dir=folder, reference_name="a stranger")
    assert found.kl is not None
    assert found.kl > 0.1
    assert not found.verified
    assert "a stranger" in found.problems[0]


def test_a_gguf_file_as_reference_and_what_was_not_checked(written, tmp_path):
    folder, path = written
    with Checkpoint.open(folder) as source:
        write_gguf(source, source.config, folder, tmp_path / "f32.gguf", "f32")
    found = verify(path, tmp_path / "f32.gguf", tokenizer_dir=folder)
    assert found.problems == ()
    assert found.reference is not None
    assert "f32.gguf" in found.reference
    assert 0 < (found.kl or 0) < 1e-2
    assert found.round_trip is None
    assert "source" in found.unchecked["round_trip"]
    alone = verify(path, runtime=False)
    assert alone.verified
    assert set(alone.unchecked) == {
        "round_trip",
        "vocabulary_equal",
        "template_equal",
        "token_ids_equal",
        "top1_agreement",
        "kl",
    }
    json.dumps(alone.to_dict())


def test_what_llama_cpp_refuses_is_coded(written, tmp_path):
    from bp_export.verify.runtime import open_runtime

    data = (
        written[1]
        .read_bytes()
        .replace(
            b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama",
            b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0lluma",
        )
    )
    (tmp_path / "b.gguf").write_bytes(data)
    with pytest.raises(BpError) as caught:
        open_runtime(tmp_path / "b.gguf")
    assert caught.value.code == "RUNTIME_LLAMA_LOAD_FAILED"


def test_greedy_text_is_that_of_transformers(written):
    import torch
    import transformers
    from bp_export.verify.runtime import open_runtime

    folder, _ = written
    path = folder / "f32.gguf"
    with Checkpoint.open(folder) as source:
        write_gguf(source, source.config, folder, path, "f32")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    ids = list(range(270, 290))
    theirs = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, 20, dtype=torch.long),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, 20:].tolist()
    live = open_runtime(path)
    assert live is not None
    try:
        ours = live.generate(ids, 16)
    finally:
        live.close()
    assert ours == theirs[: len(ours)]
    assert ours
