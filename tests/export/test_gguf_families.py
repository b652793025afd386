"""Every family, written by us and run by llama.cpp: token ids, logits, and the mixed recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models
from bp_export.gguf import GgufFile, write_gguf
from bp_export.gguf.arch import ARCHITECTURES, FAMILIES, rename
from bp_export.verify.gguf import verify
from bp_merge.common import BpError

# Mean KL in nats and top-1 agreement against transformers in f32, on random weights (far flatter than a trained
# model's: the numbers of a real one are smaller). Bounds are about three times the worst measured family.
BOUNDS = {
    "f32": (1e-6, 1.0),
    "f16": (1e-4, 0.9),
    "bf16": (2e-3, 0.85),
    "q8_0": (2e-2, 0.8),
    "q4_k_m": (1.0, 0.1),
}


@pytest.fixture(scope="module", params=list(tiny_models.FAMILIES))
def model(request, tmp_path_factory):
    from bp_merge.checkpoint import Checkpoint

    folder = tiny_models.build(request.param, tmp_path_factory.mktemp(request.param))
    with Checkpoint.open(folder) as source:
        yield source, folder, tiny_models.reference(folder)


@pytest.mark.parametrize("quantization", list(BOUNDS))
def test_llama_cpp_gives_the_logits_and_token_ids_of_transformers(model, tmp_path, quantization):
    source, folder, reference = model
    path = tmp_path / "model.gguf"
    written = write_gguf(source, source.config, folder, path, quantization)
    found = verify(path, reference, source=source, config=source.config, tokenizer_dir=folder)
    assert found.problems == ()
    assert found.token_ids_equal is True
    assert found.vocabulary_equal is True
    assert found.template_equal is True
    assert found.unchecked == {}
    kl, top1 = BOUNDS[quantization]
    assert found.kl is not None
    assert found.kl <= kl
    assert found.top1_agreement is not None
    assert found.top1_agreement >= top1
    assert written.size_bytes == path.stat().st_size
    assert written.tensors == found.tensors
    assert sum(written.types.values()) == written.tensors


def test_names_agree_with_the_gguf_library():
    import gguf

    arches = {name: getattr(gguf.MODEL_ARCH, name.upper()) for name in FAMILIES}
    for name, fam in FAMILIES.items():
        theirs = gguf.get_tensor_name_map(arches[name], 2)
        modules = [f"model.layers.1.{m}" for m in fam.layer] + ["model.embed_tokens", "model.norm"]
        for module in modules:
            if module.endswith("dt_bias"):  # a name of its own in the checkpoint, a bias in the file
                continue
            ours = rename(fam, module if module.endswith("A_log") else module + ".weight")
            assert ours is not None
            assert ours.removesuffix(".weight") == theirs.get_name(module), module


def test_long_factors_of_phi_apply_beyond_the_original_context(tmp_path):
    import numpy as np
    from bp_export.verify.gguf import log_softmax
    from bp_export.verify.runtime import open_runtime
    from bp_merge.checkpoint import Checkpoint

    folder = tiny_models.build("phi4", tmp_path / "phi4")
    with Checkpoint.open(folder) as source:
        write_gguf(source, source.config, folder, tmp_path / "m.gguf", "f32")
    ids = np.random.default_rng(0).integers(260, 500, 280).tolist()
    live = open_runtime(tmp_path / "m.gguf", context=512)
    assert live is not None
    try:
        ours = log_softmax(live.logits(ids, 270))
    finally:
        live.close()
    theirs = log_softmax(tiny_models.reference(folder)(ids)[270:])
    assert np.abs(ours - theirs).max() < 1e-3


def test_an_unknown_architecture_is_refused_by_name_before_anything_is_written(tmp_path):
    with pytest.raises(BpError, match="MambaForCausalLM") as caught:
        write_gguf(object(), {"architectures": ["MambaForCausalLM"]}, tmp_path, tmp_path / "out" / "m.gguf")  # type: ignore[arg-type]
    assert caught.value.code == "INPUT_ARCHITECTURE_UNKNOWN"
    assert all(name in caught.value.message for name in ARCHITECTURES)
    assert "--format merged" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("family", "fields", "cause"),
    [
        ("gemma2", {"query_pre_attn_scalar": 200}, "query_pre_attn_scalar"),
        ("gemma3", {"layer_types": ["full_attention"] * 6}, "full attention"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}, "rope-free"),
        ("qwen2", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path, family, fields, cause):
    from bp_merge.checkpoint import Checkpoint

    folder = tiny_models.build(family, tmp_path / family)
    config = json.loads((folder / "config.json").read_text()) | fields
    with Checkpoint.open(folder) as source, pytest.raises(BpError, match=cause) as caught:
        write_gguf(source, config, folder, tmp_path / "m.gguf", "f16")
    assert caught.value.code == "INPUT_MODEL_UNSUPPORTED"
    assert not (tmp_path / "m.gguf").exists()


def test_metadata_of_llama_3_names_rope_factors_bos_and_template(tmp_path):
    from bp_merge.checkpoint import Checkpoint

    folder = tiny_models.build("llama3", tmp_path / "llama3")
    general = {
        "general.name": "My Phi-3 Llama",
        "general.license": "mit",
        "general.base_model.count": 1,
        "general.base_model.0.name": "tiny",
        "backprop.run_id": "r-1",
    }
    with Checkpoint.open(folder) as source:
        write_gguf(source, source.config, folder, tmp_path / "m.gguf", "q4_k_m", general=general)
    file = GgufFile(tmp_path / "m.gguf")
    assert file.keys["general.architecture"] == "llama"
    assert file.keys["general.file_type"] == 15
    assert "phi" not in file.keys["general.name"].lower()  # llama.cpp acts upon that name
    assert file.keys["general.license"] == "mit"
    assert file.keys["general.base_model.0.name"] == "tiny"
    assert file.keys["backprop.run_id"] == "r-1"
    assert file.keys["tokenizer.ggml.pre"] == "llama-bpe"
    assert file.keys["tokenizer.ggml.add_bos_token"] is True
    tokens = file.keys["tokenizer.ggml.tokens"]
    assert tokens[file.keys["tokenizer.ggml.bos_token_id"]] == "<|begin_of_text|>"
    assert tokens[file.keys["tokenizer.ggml.eos_token_id"]] == "<|eot_id|>"
    assert "<|im_start|>" in file.keys["tokenizer.chat_template"]
    assert file.tensors["rope_freqs.weight"].type == "f32"
    assert len(tokens) == file.tensors["token_embd.weight"].shape[0]
    # two layers: the second is one of those that get more bits
    assert file.tensors["blk.0.attn_v.weight"].type == "q4_k"
    assert file.tensors["blk.1.attn_v.weight"].type == "q6_k"
    assert file.tensors["token_embd.weight"].type == "q6_k"  # tied: the embedding is the output


def test_the_gguf_library_reads_what_was_written(tmp_path):
    import gguf
    import numpy as np
    from bp_merge.checkpoint import Checkpoint

    folder = tiny_models.build("qwen3", tmp_path / "qwen3")
    path = tmp_path / "m.gguf"
    with Checkpoint.open(folder) as source:
        write_gguf(source, source.config, folder, path, "q5_k_m")
    theirs, ours = gguf.GGUFReader(path), GgufFile(path)
    assert [t.name for t in theirs.tensors] == list(ours.tensors)
    for t in theirs.tensors:
        assert tuple(reversed(t.shape.tolist())) == ours.tensors[t.name].shape
        raw = ours.read_raw(t.name)
        assert np.array_equal(raw.reshape(-1), np.ascontiguousarray(t.data).view(np.uint8).reshape(-1))
    for key, value in ours.keys.items():
        stored = theirs.fields[key].contents()
        assert stored == pytest.approx(value) if isinstance(value, float) else stored == value


def test_bare_names(tmp_path: Path):
    fam = FAMILIES["qwen3"]
    assert rename(fam, "model.language_model.layers.12.mlp.down_proj.weight") == "blk.12.ffn_down.weight"
    assert rename(fam, "model.layers.0.self_attn.q_proj.bias") == "blk.0.attn_q.bias"
    assert rename(fam, "model.layers.0.mlp.experts.3.weight") is None
