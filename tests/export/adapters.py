"""A small adapter directory, written with safetensors alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from bp_export.adapter import directory as adapter_dir
from safetensors.numpy import save_file

CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
    "base_model_name_or_path": "acme/base",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def write_adapter(
    folder: Path,
    *,
    base_ref: str = "acme/base",
    base_path: Path | None = None,
    out: int = 256,
    rows: int = 256,
    layers: int = 2,
    modules: tuple[str, ...] = ("self_attn.q_proj",),
    scale: float = 0.02,
    seed: int = 0,
    record: bool = True,
    config: dict | None = None,
) -> Path:
    """An adapter of rank 4 on some modules of every layer; (out, rows) is the shape of each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for module in modules:
            key = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{key}.lora_A.weight"] = rng.normal(0, scale, (4, rows)).astype(np.float32)
            tensors[f"{key}.lora_B.weight"] = rng.normal(0, scale, (out, 4)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {**CONFIG, "target_modules": sorted({m.rsplit(".", 1)[-1] for m in modules})}
    settings |= {"base_model_name_or_path": base_ref, **(config or {})}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    if record:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
        adapter_dir.write(
            folder,
            base_ref=base_ref,
            base_path=base_path,
            method="sft",
            run_id="run-1234",
            licence="apache-2.0",
            training={"learning_rate": 2e-4, "num_train_epochs": 1},
            datasets=[
                {"name": "acme/facts"},
                {"name": "/home/me/secret/mine.jsonl", "fingerprint": "abcdef"},
            ],
            evaluation=[
                {"task": "text-generation", "dataset": "held-out split", "metric": "loss", "value": 1.25}
            ],
            loss_curve=[(1, 2.5), (2, 2.0), (3, 1.25)],
        )
    return folder
