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


def test_predictions_that_are_no_numbers_are_no_agreement(written):
    folder, path = written
    for number in (np.nan, np.inf):
        found = verify(
            path, lambda ids, x=number: np.full((len(ids), 500), x, np.float32), tokenizer_dir=folder
        )
        assert not found.verified
        assert (found.kl, found.top1_agreement) == (None, None)
        assert "no number" in found.problems[0]
        json.dumps(found.to_dict(), allow_nan=False)


def test_a_token_that_the_reference_rules_out_is_no_fault(written):
    folder, path = written
    whole = tiny_models.reference(folder)

    def masked(ids):
        logits = np.array(whole(ids), np.float32)
        logits[:, logits.mean(0).argmin()] = -np.inf
        return logits

    found = verify(path, masked, tokenizer_dir=folder)
    assert found.problems == ()
    assert found.kl is not None
    assert found.kl > 0


def test_one_model_is_in_memory_at_a_time(written, tmp_path, monkeypatch):
    import bp_export.verify.gguf as checks

    folder, path = written
    live, most = [], []
    real = checks.open_runtime

    def counted(*args, **kwargs):
        runtime = real(*args, **kwargs)
        live.append(runtime)
        most.append(len(live))
        close = runtime.close
        runtime.close = lambda: (close(), live.remove(runtime))
        return runtime

    monkeypatch.setattr(checks, "open_runtime", counted)
    assert verify(path, path, tokenizer_dir=folder).kl == 0.0
    assert (most, live) == ([1, 1], [])


def test_the_answer_of_the_server_is_read_as_json_would():
    from bp_export.verify.runtime import log_probabilities

    texts = ['"id":7', '\\"logprob":1', 'x"id', "}", "é\n", '"top_logprobs":', ""]
    items = [
        {"id": i, "token": t, "bytes": list(t.encode()), "logprob": -1.5e-7 * i - 0.25}
        for i, t in reversed(list(enumerate(texts)))
    ]
    head = {"id": 99, "token": "a", "logprob": -9.0, "top_logprobs": items}
    answer = json.dumps({"completion_probabilities": [head]}, separators=(",", ":")).encode()
    assert log_probabilities(answer).tolist() == [
        np.float32(p["logprob"]) for p in sorted(items, key=lambda p: p["id"])
    ]
    items[0]["logprob"] = None
    row = log_probabilities(json.dumps({"top_logprobs": items}, separators=(",", ":")).encode())
    assert np.isnan(row).tolist() == [False] * 6 + [True]
    for wrong in (
        b"",
        b'{"top_logprobs":[{"id":1,"logprob":-1}]}',
        b'{"top_logprobs":[{"id":0},{"id":0,"logprob":1}]}',
    ):
        with pytest.raises(ValueError, match="log-probabilities"):
            log_probabilities(wrong)


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
