"""A LoRA adapter on a base model, fresh or in the shape of one that is gone on with.

- Adapter weights are fp32 whatever the base is.
- On a mixture of experts, all-linear means attention and the layers that every token passes.
- PiSSA (arXiv:2404.02948) and OLoRA (arXiv:2406.01775) take the adapter's start out of the base weights: what is saved is
  converted to the unchanged base (`bp_core.models.weights`), at twice the rank.
- EVA (arXiv:2410.07170) reads some batches of the data and spreads the ranks over the layers by what explains them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from bp_merge.common import BpError
from torch import nn

from bp_core.models.language import beside_language
from bp_core.models.peft_quietly import EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights
from bp_core.settings.decided import Decided

EVA_BATCHES = 512  # past these EVA has not settled and will not


def beside_experts(model: nn.Module) -> list[str]:
    """What `all-linear` adapts in a mixture of experts: attention and shared layers; empty for any other model.

    PEFT would adapt experts and router with it, which no exporter here can write; and experts in the place of a layer that
    has one MLP where others have experts, as both are called alike.
    """
    experts = [n.split(".") for n, p in model.named_parameters() if p.ndim == 3 and ".experts." in n]
    if not experts:
        return []
    places = {parts[-3] for parts in experts}  # "mlp"
    head = model.get_output_embeddings()  # type: ignore[operator]
    found = set()
    for name, module in model.named_modules():
        parts = name.split(".")
        alike = len(parts) > 1 and parts[-2] in places and parts[-1].endswith("_proj")
        if (
            isinstance(module, nn.Linear)
            and module is not head
            and not alike
            and not {"experts", "gate", "router"} & set(parts)
        ):
            found.add(
                ".".join(parts[-2:])
            )  # "shared_expert.up_proj", not "up_proj": PEFT turns that into experts
    return sorted(found)


def add_adapter(
    model: nn.Module,
    decided: Decided,
    *,
    like: Path | None = None,
    batches: Sequence[Mapping[str, torch.Tensor]] = (),
) -> Any:
    """Put a LoRA adapter on a model; its weights are fp32 whatever the base is.

    Args:
        model: the base model.
        decided: rank, scale, target modules, initialisation.
        like: folder of an adapter whose ranks by layer are taken over; its weights are loaded by the caller.
        batches: `input_ids` and `attention_mask` (B, T) of some passes, which EVA reads.

    Raises:
        BpError: `CONFIG_TARGET_MODULES` where no module of the model has such a name; `CONFIG_INVALID_SETTING` where EVA
            finds too little in the data.
    """
    lora = decided.settings.lora
    targets: Any = list(decided.target_modules)
    if targets == ["all-linear"]:
        targets = beside_experts(model) or "all-linear"
    shape: dict[str, Any] = {}
    if like is not None:
        stored = json.loads((like / "adapter_config.json").read_text(encoding="utf-8"))
        shape = {k: stored[k] for k in ("rank_pattern", "alpha_pattern") if stored.get(k)}
        if shape and isinstance(stored.get("target_modules"), list):
            targets = stored["target_modules"]  # EVA leaves layers out
    start: Any = True if lora.init_lora_weights == "default" else lora.init_lora_weights
    settled = start == "eva" and like is not None
    config = LoraConfig(
        r=decided.rank,
        lora_alpha=decided.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
        exclude_modules=beside_language(model),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        init_lora_weights=True if settled else start,
        eva_config=EvaConfig() if start == "eva" and not settled else None,
        task_type="CAUSAL_LM",
        **shape,
    )
    torch.manual_seed(decided.settings.training.seed)
    try:
        # EVA makes every A and B anew, in the base's number format
        adapted: Any = get_peft_model(model, config, low_cpu_mem_usage=start == "eva" and not settled)  # type: ignore[arg-type]
    except ValueError as error:
        linear = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise BpError(
            "CONFIG_TARGET_MODULES",
            f"no module is called {', '.join(decided.target_modules)} ({str(error).splitlines()[0][:120]})",
            f"use --target-modules all-linear, or some of: {', '.join(linear)}",
        ) from None
    if settled:
        config.init_lora_weights, config.eva_config = "eva", EvaConfig()
    elif start == "eva":
        _read_data(adapted, batches)
    return adapted


def _read_data(adapted: Any, batches: Sequence[Mapping[str, torch.Tensor]]) -> None:
    """EVA's pass over data: A becomes the main directions of each layer's inputs, ranks go where they explain most."""

    def forward(model: Any, inputs: Mapping[str, torch.Tensor]) -> None:
        model.get_base_model().get_decoder()(input_ids=inputs["input_ids"], use_cache=False)

    initialize_lora_eva_weights(
        adapted,
        _Bounded(batches),
        forward_fn=forward,
        show_progress_bar=False,
        gather_distributed_inputs=False,
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


class _Bounded:
    """The batches, again and again as EVA asks, up to a limit: PEFT goes on for ever where a layer does not settle."""

    def __init__(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> None:
        self.batches, self.left = batches, EVA_BATCHES

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Mapping[str, torch.Tensor]]:
        for batch in self.batches:
            self.left -= 1
            if self.left < 0:
                raise BpError(
                    "CONFIG_INVALID_SETTING",
                    f"EVA has not settled on its directions after {EVA_BATCHES} batches",
                    "use a lower --rank, or --init-lora-weights default",
                )
            yield dict(batch)
