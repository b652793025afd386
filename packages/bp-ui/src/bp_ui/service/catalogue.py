"""What many people train on: well-known public datasets and model families. Names and figures only; nothing is fetched."""

from __future__ import annotations

from typing import Any

# id on the Hub, title, task, rows, licence, how its fields are read ("" where detection knows)
DATASETS: tuple[dict[str, Any], ...] = tuple(
    dict(zip(("id", "title", "task", "rows", "licence", "map"), row, strict=True))
    for row in (
        ("tatsu-lab/alpaca", "Alpaca", "General", 52_002, "CC BY-NC 4.0", ""),
        ("openai/gsm8k:train", "GSM8K", "Math", 7_473, "MIT", "question=prompt,answer=completion"),
        (
            "nvidia/OpenMathInstruct-2:train_1M",
            "OpenMath",
            "Math",
            1_000_000,
            "CC BY 4.0",
            "problem=prompt,generated_solution=completion",
        ),
        ("sahil2801/CodeAlpaca-20k", "Code Alpaca", "Coding", 20_022, "CC BY 4.0", ""),
        (
            "databricks/databricks-dolly-15k",
            "Dolly",
            "General",
            15_011,
            "CC BY-SA 3.0",
            "instruction=prompt,response=completion",
        ),
        (
            "microsoft/orca-math-word-problems-200k",
            "Orca Math",
            "Math",
            200_035,
            "MIT",
            "question=prompt,answer=completion",
        ),
        ("rajpurkar/squad_v2", "SQuAD v2", "Q&A", 130_319, "CC BY-SA 4.0", ""),
    )
)

# family, sizes in billions of parameters with the Hub id
MODELS: tuple[dict[str, Any], ...] = tuple(
    dict(zip(("family", "id", "billions", "licence"), row, strict=True))
    for row in (
        ("Backprop", "tiny", 0.0009, "MIT"),
        ("Qwen3", "Qwen/Qwen3-0.6B", 0.6, "Apache-2.0"),
        ("Qwen3", "Qwen/Qwen3-1.7B", 1.7, "Apache-2.0"),
        ("Qwen3", "Qwen/Qwen3-4B", 4.0, "Apache-2.0"),
        ("Qwen3", "Qwen/Qwen3-8B", 8.2, "Apache-2.0"),
        ("Qwen2.5", "Qwen/Qwen2.5-7B-Instruct", 7.6, "Apache-2.0"),
        ("Llama", "meta-llama/Llama-3.2-1B-Instruct", 1.2, "Llama 3.2"),
        ("Llama", "meta-llama/Llama-3.2-3B-Instruct", 3.2, "Llama 3.2"),
        ("Llama", "meta-llama/Llama-3.1-8B-Instruct", 8.0, "Llama 3.1"),
        ("Mistral", "mistralai/Mistral-7B-Instruct-v0.3", 7.2, "Apache-2.0"),
        ("Phi", "microsoft/Phi-4-mini-instruct", 3.8, "MIT"),
        ("Gemma", "google/gemma-3-1b-it", 1.0, "Gemma"),
        ("Gemma", "google/gemma-3-4b-it", 4.3, "Gemma"),
        ("SmolLM", "HuggingFaceTB/SmolLM2-1.7B-Instruct", 1.7, "Apache-2.0"),
    )
)
