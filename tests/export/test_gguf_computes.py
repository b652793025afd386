"""What config.json asks of a model and llama.cpp does not compute is refused or told."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
from bp_export.gguf import write_gguf
from bp_export.gguf.computes import check_computes, told, window_context
from bp_export.gguf.hparams import Hparams
from bp_export.gguf.read import GgufFile
from bp_export.verify.gguf import verify
from bp_merge.common import BpError

CONFIG = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "architectures": ["MistralForCausalLM"],
}


@pytest.mark.parametrize(
    ("family", "fields", "named"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("llama", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping"),
        ("llama", {"logits_scaling": 8.0}, "logits_scaling"),
        ("llama", {"num_local_experts": 8}, "num_local_experts"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("llama", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ("llama", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "longrope"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 2.0}},
            "attention_factor",
        ),
        ("qwen2", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("qwen2", {"mlp_bias": True}, "mlp_bias"),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 8}, "sliding_window"),
        ("gemma3", {"hidden_activation": "relu"}, "hidden_act"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "linear"),
        ("phi3", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
    ],
)
def test_what_the_graph_does_not_compute_is_refused_by_name(family, fields, named):
    check_computes(family, Hparams(CONFIG))
    with pytest.raises(BpError) as caught:
        check_computes(family, Hparams({**CONFIG, **fields}))
    assert caught.value.code == "INPUT_MODEL_UNSUPPORTED"
    assert named in caught.value.message


def test_unknown_fields_are_told_and_known_ones_are_not():
    assert told(CONFIG, "llama") == ()
    [note] = told({**CONFIG, "query_rescale": 3.0, "use_cache": True}, "llama")
    assert "query_rescale" in note
    assert "use_cache" not in note


@pytest.mark.parametrize("name", list(tiny_models.FAMILIES))
def test_the_fields_that_transformers_writes_are_all_known(name, tmp_path):
    from bp_export.gguf.arch import family

    kind, extra, _ = tiny_models.FAMILIES[name]
    import transformers

    config = getattr(transformers, kind)(**{**tiny_models.SMALL, **extra})
    made = {**config.to_dict(), "architectures": config.architectures}
    names = {"Llama": "Llama", "Mistral": "Mistral", "SmolLM3": "SmolLM3", "Qwen2": "Qwen2", "Qwen3": "Qwen3"}
    stem = kind.removesuffix("Config").removesuffix("Text")
    made["architectures"] = [f"{names.get(stem, stem)}ForCausalLM"]
    fam = family(made).name
    check_computes(fam, Hparams(made))
    assert not [n for n in told(made, fam) if "not known" in n]


def test_a_mistral_with_a_window_says_the_context_up_to_which_it_is_right(tmp_path):
    from bp_merge.checkpoint import Checkpoint

    folder = tiny_models.build("mistral", tmp_path / "m", sliding_window=8)
    path = tmp_path / "m.gguf"
    with Checkpoint.open(folder) as source:
        assert window_context("llama", Hparams(source.config)) == 8
        assert "context is 8" in told(source.config, "llama")[0]
        write_gguf(source, source.config, folder, path, "f32")
        reference = tiny_models.reference(folder)
        found = verify(path, reference, source=source, config=source.config, tokenizer_dir=folder)
    assert GgufFile(path).keys["llama.context_length"] == 8
    assert found.problems == ()
    if found.kl is not None:
        assert found.kl < 1e-6
        assert found.top1_agreement == 1.0
    assert np.isfinite(found.kl or 0.0)
