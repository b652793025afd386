"""An adapter on the experts of Qwen3-MoE: merged and GGUF compute what PEFT computes."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import tiny_models
import torch
import transformers
from bp_export.formats.job import export
from bp_export.gguf.hparams import Hparams
from bp_export.gguf.metadata import check_qwen3moe
from bp_export.gguf.read import GgufFile
from bp_export.verify.gguf import log_softmax
from bp_export.verify.runtime import open_runtime
from bp_merge.common import BpError
from tiny_models import reference

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    # PEFT looks for patterns among modules only, and applies them to parameters all the same
    pytest.mark.filterwarnings("ignore:.*did not match any targeted module.*:RuntimeWarning"),
]


def model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )


def test_every_format_computes_what_peft_computes(tmp_path):
    base = tiny_models.build("qwen3moe", tmp_path / "base", num_experts_per_tok=2)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    adapted = peft.get_peft_model(model(base), config)
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in (p for p in adapted.parameters() if p.requires_grad):
            p.copy_(torch.randn(p.shape, generator=drawn) * 0.1)
    adapted.save_pretrained(path := tmp_path / "adapter")
    ids = [*range(260, 300)]
    with torch.no_grad():
        wanted = (
            peft.PeftModel.from_pretrained(model(base), path).eval()(torch.tensor([ids])).logits[0].numpy()
        )
    largest = np.abs(wanted).max()
    assert np.abs(reference(base)(ids) - wanted).max() / largest > 1e-2
    merged = export(path, format="merged", output=tmp_path / "merged")
    assert np.abs(reference(merged.path)(ids) - wanted).max() / largest < 1e-5
    written = export(path, format="gguf", quantization="f32", output=tmp_path / "f32.gguf")
    keys = GgufFile(written.path).keys
    assert (keys["qwen3moe.expert_count"], keys["qwen3moe.expert_used_count"]) == (4, 2)
    live = open_runtime(written.path, context=64)
    assert live is not None
    try:
        apart = np.abs(live.logits(ids) - log_softmax(wanted)).max() / largest
    finally:
        live.close()
    assert apart < 1e-5
    with pytest.raises(BpError) as caught:
        export(path, format="gguf-lora", output=tmp_path / "lora.gguf")
    assert caught.value.code == "INPUT_ADAPTER_NOT_EXPRESSIBLE"


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"norm_topk_prob": False}, "norm_topk_prob"), ({"mlp_only_layers": [0]}, "every layer")],
)
def test_experts_that_llama_cpp_computes_otherwise_are_refused(fields, named):
    config = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "norm_topk_prob": True,
    }
    check_qwen3moe(Hparams(config))
    with pytest.raises(BpError, match=named):
        check_qwen3moe(Hparams({**config, **fields}))
