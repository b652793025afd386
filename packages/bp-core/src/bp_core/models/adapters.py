"""A fresh LoRA adapter on a base model.

- Adapter weights are fp32 whatever the base is.
- On a mixture of experts, all-linear means attention and the layers that every token passes.
"""

from __future__ import annotations

from typing import Any

import torch
from bp_merge.common import BpError
from peft import LoraConfig, get_peft_model
from torch import nn

from bp_core.settings.decided import Decided


def beside_experts(model: nn.Module) -> list[str]:
    """What `all-linear` adapts in a mixture of experts: attention and shared layers; empty for any other model.

    PEFT would adapt experts and router with it, which no exporter here can write.
    """
    if not any(p.ndim == 3 and ".experts." in n for n, p in model.named_parameters()):
        return []
    head = model.get_output_embeddings()  # type: ignore[operator]
    found = set()
    for name, module in model.named_modules():
        parts = name.split(".")
        if (
            isinstance(module, nn.Linear)
            and module is not head
            and not {"experts", "gate", "router"} & set(parts)
        ):
            found.add(
                ".".join(parts[-2:])
            )  # "shared_expert.up_proj", not "up_proj": PEFT turns that into experts
    return sorted(found)


def add_adapter(model: nn.Module, decided: Decided) -> Any:
    """Put a fresh LoRA adapter on a model; its weights are fp32 whatever the base is.

    Raises:
        BpError: `CONFIG_TARGET_MODULES` where no module of the model has such a name.
    """
    lora = decided.settings.lora
    targets: Any = list(decided.target_modules)
    if targets == ["all-linear"]:
        targets = beside_experts(model) or "all-linear"
    start: Any = True if lora.init_lora_weights == "default" else lora.init_lora_weights
    config = LoraConfig(
        r=decided.rank,
        lora_alpha=decided.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        init_lora_weights=start,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(decided.settings.training.seed)
    try:
        return get_peft_model(model, config)  # type: ignore[arg-type]
    except ValueError as error:
        linear = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise BpError(
            "CONFIG_TARGET_MODULES",
            f"no module is called {', '.join(decided.target_modules)} ({str(error).splitlines()[0][:120]})",
            f"use --target-modules all-linear, or some of: {', '.join(linear)}",
        ) from None
