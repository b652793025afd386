"""Real vocabularies, and a real model with a trained adapter, in llama.cpp."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import real
import tiny_models
from bp_export.adapter import directory as adapter_dir
from bp_export.gguf import GgufFile, write_gguf
from bp_export.verify.gguf import verify
from bp_export.verify.probe_texts import PROMPTS
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


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# Mean KL from PEFT's own logits, nats, and the texts it is measured on.
BOUNDS = {"f16": (1e-4, ("In 1969, the fox counted",)), "q4_k_m": (0.3, PROMPTS)}


# peft reads a property that transformers deprecates: https://github.com/huggingface/peft
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_gemma_3_with_a_trained_adapter(tmp_path, record_property):
    """Training, one pass to GGUF by the command, llama.cpp: the same ids, template and greedy text as in PEFT.

    The base was a q4_k_m file itself, so that its weights lie on that grid: of a small change most falls back on the grid
    point it came from when it is quantized to q4_k_m again. The export must say so.
    """
    import peft
    import torch
    import transformers
    from bp_export.verify.runtime import open_runtime

    folder, adapter = real.gemma3_model_dir(), tmp_path / "fox"
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
    adapted.eval().save_pretrained(adapter)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(adapter)
    adapter_dir.write(adapter, base_ref=str(folder), base_path=folder, method="sft", run_id="fox")

    def reference(ids):
        with torch.no_grad():
            return adapted(torch.tensor([ids])).logits[0].numpy()

    prompt = tokenizer("Question: What does the fox say?\nAnswer:")["input_ids"]
    theirs = adapted.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=24,
        do_sample=False,
    )[0, len(prompt) :].tolist()
    for quantization, (limit, prompts) in BOUNDS.items():
        command = ["-m", "bp_export", "export", str(adapter), "-f", "gguf", "--quantization", quantization]
        done = subprocess.run([sys.executable, *command, "--json"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        found = verify(Path(made["path"]), reference, tokenizer_dir=adapter, prompts=prompts)
        figures = {k: made[k] for k in ("seconds", "peak_rss_mb", "size_bytes")}
        figures |= {"kl": found.kl, "top1": found.top1_agreement, "share": made["delta"]["share"]}
        record_property(quantization, json.dumps(figures))
        print(quantization, figures)
        assert found.problems == ()
        assert (found.vocabulary_equal, found.template_equal, found.token_ids_equal) == (True, True, True)
        assert found.token_texts >= 20
        assert found.kl is not None
        assert found.kl < limit
        drowns = quantization == "q4_k_m"
        assert (made["delta"]["share"] < 0.5) is drowns
        assert any("of the fine-tune is left" in n for n in made["notices"]) is drowns
        assert made["size_bytes"] < 600e6
        assert made["peak_rss_mb"] < 600
        keys = GgufFile(Path(made["path"])).keys
        tokens = keys["tokenizer.ggml.tokens"]
        assert keys["tokenizer.chat_template"] == TEMPLATE
        assert keys["tokenizer.ggml.add_bos_token"] is True
        assert keys["tokenizer.ggml.add_eos_token"] is False
        assert tokens[keys["tokenizer.ggml.bos_token_id"]] == "<bos>"
        assert tokens[keys["tokenizer.ggml.eos_token_id"]] == tokenizer.eos_token
        assert keys["backprop.run_id"] == "fox"
    live = open_runtime(next((adapter / "gguf").glob("*F16.gguf")))
    assert live is not None
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What does the fox say?"}], tokenize=False, add_generation_prompt=True
    )
    try:
        assert live.tokenize("Question: What does the fox say?\nAnswer:") == prompt
        rendered = tokenizer(chat, add_special_tokens=False)["input_ids"]
        assert live.tokenize(chat, add_special=False) == rendered
        assert rendered.count(tokenizer.bos_token_id) == 1
        ours = live.generate(prompt, 24)
    finally:
        live.close()
    print(repr(tokenizer.decode(ours)), losses)
    assert ours == theirs[: len(ours)]
    assert len(ours) >= 16 or theirs[len(ours)] == tokenizer.eos_token_id
