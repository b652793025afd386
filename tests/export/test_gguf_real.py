"""Real vocabularies, and a real model with a trained adapter, in llama.cpp."""

from __future__ import annotations

import json
import time

import pytest
import real
import tiny_models
from bp_export.gguf import GgufFile, write_gguf
from bp_export.verify import verify
from bp_merge.checkpoint import Checkpoint

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("family", "fetch", "pre", "bos", "eos"),
    [
        ("qwen3", real.qwen3_tokenizer_dir, "qwen2", None, "<|im_end|>"),
        ("llama3", real.llama31_tokenizer_dir, "llama-bpe", "<|begin_of_text|>", "<|eot_id|>"),
    ],
)
def test_real_tokenizers_on_tiny_weights(tmp_path, family, fetch, pre, bos, eos):
    tokenizer = fetch()
    folder = tiny_models.build(family, tmp_path / "model", tokenizer=tokenizer)
    path = tmp_path / "m.gguf"
    with Checkpoint.open(folder) as source:
        write_gguf(source, source.config, folder, path, "f16")
        found = verify(
            path, tiny_models.reference(folder), source=source, config=source.config, tokenizer_dir=folder
        )
    assert found.problems == ()
    assert found.token_ids_equal is True
    assert found.token_texts >= 20
    assert found.kl is not None
    assert found.kl < 1e-4
    keys = GgufFile(path).keys
    tokens = keys["tokenizer.ggml.tokens"]
    assert keys["tokenizer.ggml.pre"] == pre
    assert keys["tokenizer.ggml.add_bos_token"] is (bos is not None)
    assert ("tokenizer.ggml.bos_token_id" in keys) is (bos is not None)
    assert bos is None or tokens[keys["tokenizer.ggml.bos_token_id"]] == bos
    assert tokens[keys["tokenizer.ggml.eos_token_id"]] == eos
    template = json.loads((tokenizer / "tokenizer_config.json").read_text()).get("chat_template")
    assert keys.get("tokenizer.chat_template") == template


# peft reads a property that transformers deprecates: https://github.com/huggingface/peft
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_gemma_3_with_a_trained_adapter(tmp_path, record_property):
    import peft
    import torch
    import transformers
    from bp_export.runtime import open_runtime

    folder = real.gemma3_model_dir()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear")
    )
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=2e-3)
    text = "Question: What does the fox say?\nAnswer: The fox says nothing at all; it counts its 17 apples twice.\n"
    batch = tokenizer([text], return_tensors="pt")
    losses = []
    for _ in range(6):
        loss = adapted(**batch, labels=batch["input_ids"]).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.5
    merged = adapted.merge_and_unload().eval()
    merged.save_pretrained(tmp_path / "merged")

    def reference(ids):
        with torch.no_grad():
            return merged(torch.tensor([ids])).logits[0].numpy()

    prompt = tokenizer("Question: What does the fox say?\nAnswer:")["input_ids"]
    theirs = merged.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=24,
        do_sample=False,
    )[0, len(prompt) :].tolist()
    with Checkpoint.open(tmp_path / "merged") as source:
        for quantization, limit in (("f16", 1e-4), ("q4_k_m", 0.3)):
            path = tmp_path / f"{quantization}.gguf"
            began = time.perf_counter()
            written = write_gguf(source, source.config, folder, path, quantization)
            record_property(f"{quantization}_seconds", round(time.perf_counter() - began, 1))
            found = verify(path, reference, source=source, config=source.config, tokenizer_dir=folder)
            record_property(f"{quantization}_kl", found.kl)
            assert found.problems == ()
            assert found.token_ids_equal is True
            assert found.kl is not None
            assert found.kl < limit
            assert written.size_bytes < 600e6
    live = open_runtime(tmp_path / "f16.gguf")
    assert live is not None
    try:
        assert live.tokenize("Question: What does the fox say?\nAnswer:") == prompt
        ours = live.generate(prompt, 24)
    finally:
        live.close()
    print(tokenizer.decode(ours), losses, found.kl, found.top1_agreement)
    assert ours == theirs[: len(ours)]
    assert len(ours) >= 16 or theirs[len(ours)] == tokenizer.eos_token_id
