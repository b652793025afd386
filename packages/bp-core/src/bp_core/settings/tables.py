"""What a run takes where the user gave nothing: by preset, by method, else. Nothing here is a knob."""

from __future__ import annotations

from typing import Any

MANY = 10**9  # above what any run counts; a number past it is a mistake, and arithmetic on it may not end
RL_METHODS = ("grpo", "gspo", "rloo")  # those that learn from rewards of answers that they draw
METHODS = ("sft", "dpo", "orpo", "simpo", "kto", *RL_METHODS)
DEFAULT_MODEL = "Qwen/Qwen2.5-7B-Instruct"
# What a preset decides where the user did not.
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"rank": 16, "target_modules": ("q_proj", "v_proj")},
    "balanced": {"rank": 32, "target_modules": ("all-linear",)},
    "quality": {"rank": 256, "target_modules": ("all-linear",)},
}
# Peak learning rate of each method, by what is trained, where the user gave none. Supervised, an adapter wants ten times
# that of the whole model (Schulman et al. 2025, "LoRA Without Regret"); the rest of the second row are their papers'.
LEARNING_RATES = {
    "lora": {
        "sft": 2e-4,
        "dpo": 5e-6,
        "orpo": 8e-6,
        "simpo": 1e-6,
        "kto": 1e-6,
        **dict.fromkeys(RL_METHODS, 1e-5),
    },
    "full": {"sft": 2e-5, "dpo": 5e-7, "orpo": 8e-6, "simpo": 1e-6, "kto": 5e-7},
}
# Past this one a method is known to come apart: a rate that the user gave is kept, and that is said.
HIGH_RATES = {
    "lora": {
        "sft": 5e-3,
        "dpo": 1e-4,
        "orpo": 1e-4,
        "simpo": 1e-5,
        "kto": 5e-6,
        **dict.fromkeys(RL_METHODS, 1e-3),
    },
    "full": {"sft": 2e-4, "dpo": 1e-5, "orpo": 5e-5, "simpo": 1e-5, "kto": 5e-6},
}
TRACE_LENGTH = 8192  # tokens of an example with a reasoning trace, where the user gave no length
STEP_EXAMPLES = 16  # examples of an optimizer step, where neither batch size nor accumulation is given
STEPS = 100  # optimizer steps, where neither steps nor epochs are given
PARTS = 5  # evaluations, and checkpoints, of a run where nothing else is asked
CHUNK_LOGITS = 2**26  # numbers of a chunk of logits, 256 MB in fp32, where no chunk is given


def loss_chunk(vocabulary: int) -> int:
    """Positions whose logits exist at a time, where no chunk is given.

    Example:
        128,256 tokens give 523 positions, 8,000 the most, 1,024.
    """
    return max(64, min(1024, CHUNK_LOGITS // vocabulary))
