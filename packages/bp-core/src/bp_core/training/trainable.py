"""The model with what is trained: all of it, or an adapter at its start, continued, or as it came with the model."""

from __future__ import annotations

from typing import Any

import torch

from bp_core.errors import BpError
from bp_core.models.adapters import add_adapter, beside_experts
from bp_core.models.language import language_parameters
from bp_core.models.load import load_model
from bp_core.models.peft_quietly import PeftModel
from bp_core.models.weights import AdapterWeights, Weights, WholeModel, changes_base
from bp_core.training.batch import collate
from bp_core.training.open import Opened

EVA_PIECES = 256  # of the data that EVA reads, where there are so many


def trainable(opened: Opened, model: Any = None) -> tuple[Any, Weights]:
    """The model of an opened run with what is trained, and how that is saved and loaded.

    Args:
        opened: by `open_run` or `reopen_run`.
        model: the base model where it is in memory already, maybe with the adapter to go on with.

    Raises:
        ValueError: where the model in memory has an adapter of another rank or scale, or the run's initialisation would
            change base weights that other runs share.
    """
    decided, settings = opened.decided, opened.settings
    start, shared = settings.lora.init_lora_weights, model is not None
    if model is None:
        model = load_model(opened.base.path, settings, opened.device)
    if settings.model.mode == "full":
        for parameter in language_parameters(model):
            parameter.requires_grad_(True)
        return model, WholeModel()
    if isinstance(model, PeftModel):
        config: Any = model.peft_config[model.active_adapter]  # type: ignore[index]
        if (config.r, config.lora_alpha) != (decided.rank, decided.alpha):
            raise ValueError(
                f"the model's adapter has rank {config.r} and alpha {config.lora_alpha:g}, "
                f"the run asks for {decided.rank} and {decided.alpha:g}"
            )
        weights = AdapterWeights()
    else:
        if shared and changes_base(start):
            raise ValueError(f"{start} changes the base weights: let each run load its own model")
        if decided.target_modules == ("all-linear",) and (beside := beside_experts(model)):
            opened.tell(
                f"mixture of experts: {', '.join(beside)} get an adapter, experts and router stay as they are"
            )
        like = opened.found.path if opened.found else settings.model.init_adapter
        batches = _read_by_eva(opened) if start == "eva" and like is None else ()
        model = add_adapter(model, decided, like=like, batches=batches)
        weights = AdapterWeights.of(model)
    if settings.model.init_adapter is not None:
        weights.load(model, settings.model.init_adapter)
    return model, weights


def _read_by_eva(opened: Opened) -> list[dict[str, torch.Tensor]]:
    """Batches for EVA: pieces spread over the data, each batch with more tokens than directions are looked for.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` where all the data has too few tokens.
    """
    tokens, rank = opened.prepared.train, opened.decided.rank
    pad, wanted = opened.encoder.tokenizer.pad_token_id or 0, 4 * rank  # EVA looks for 2 * rank
    batches: list[dict[str, torch.Tensor]] = []
    units, held = [], 0
    for i in range(0, len(tokens), max(1, len(tokens) // EVA_PIECES)):
        unit = tokens.unit(i)[:1]
        units.append(unit)
        held += len(unit[0].ids)
        if held >= wanted:
            lengths = torch.tensor([len(u[0].ids) for u in units])
            ids = collate(units, pad).input_ids
            batches.append(
                {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}
            )
            units, held = [], 0
    if not batches:
        raise BpError(
            "CONFIG_INVALID_SETTING",
            f"EVA needs {wanted} tokens for rank {rank}, the data has {held}",
            "use a lower --rank, or --init-lora-weights default",
        )
    return batches
