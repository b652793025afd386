"""TRL as the oracle of the preference methods: its loss, gradients and metrics of one step over our own token ids."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from bp_core.encoding.tokens import Tokens
from bp_core.training.batch import collate, micro_batches
from bp_core.training.forward import LanguageLoss
from bp_core.training.objectives.base import Objective
from bp_core.training.step import objective_means, summed
from torch import nn


class Step(NamedTuple):
    """What one step gives: its loss, the gradient of each trained weight, mean metrics under our names."""

    loss: float
    gradients: dict[str, torch.Tensor]
    means: dict[str, float]


def forward_of(model: nn.Module) -> LanguageLoss:
    """The model as objectives see it, on the CPU in fp32."""
    return LanguageLoss(model, chunk=16, device=torch.device("cpu"), autocast=None)


def ours(model: nn.Module, objective: Objective, tokens: Tokens, micro: int = 100, packed: int = 0) -> Step:
    """One step over all units, as the trainer takes it."""
    forward = forward_of(model)
    model.zero_grad()
    units = list(tokens)
    per: dict[str, Any] = dict(objective.denominators(units))

    def batches(pieces: tuple[int, ...]) -> list[Any]:
        picked = [tuple(unit[k] for k in pieces) for unit in units]
        return [collate(p, 0, packed=bool(packed)) for p in micro_batches(picked, micro, packed=packed)]

    if objective.measured:
        with torch.no_grad():
            per |= summed(objective.statistic(forward, b, per) for b in batches(objective.measured))
    total, told = 0.0, []
    for batch in batches(objective.learnt):
        loss, metrics = objective.terms(forward, batch, per)
        loss.backward()
        total += loss.item()
        told.append(metrics)
    means = {k: v.item() for k, v in objective_means(objective, summed(told), per).items()}
    return Step(total, _gradients(model), means)


def near_reference(model: nn.Module, tokens: Tokens) -> Tokens:
    """`tokens` with a reference a little below the model's own log-probabilities, so that KTO's KL is above 0 and counts."""
    with torch.no_grad():
        everything = collate(list(tokens), 0)
        policy = everything.sum_by_piece(forward_of(model).log_probs(everything)).numpy()
    return tokens.with_column("reference", policy - np.random.default_rng(0).uniform(0, 4, tokens.pieces))


def dpo(model: nn.Module, tokenizer: Any, tokens: Tokens, folder: Path, kind: str, smoothing: float) -> Step:
    """`DPOTrainer` with beta 0.1; `tokens` have their reference."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [
        {
            "prompt_ids": _prompt(chosen),
            "chosen_ids": _answer(chosen),
            "rejected_ids": _answer(rejected),
            "ref_chosen_logps": chosen.values["reference"],
            "ref_rejected_logps": rejected.values["reference"],
        }
        for chosen, rejected in tokens
        if _prompt(chosen) == _prompt(rejected)
    ]
    assert len(rows) == len(tokens)
    theirs = copy.deepcopy(model)
    config = DPOConfig(
        **_quiet(folder, len(rows)),
        beta=0.1,
        loss_type=[kind],
        label_smoothing=smoothing,
        precompute_ref_log_probs=False,
    )
    trainer = DPOTrainer(
        theirs,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}),
        processing_class=tokenizer,
    )
    names = {
        "logps_chosen": "logps/chosen",
        "logps_rejected": "logps/rejected",
        "rewards_margin": "rewards/margins",
        "rewards_accuracy": "rewards/accuracies",
    }
    return _by_trainer(trainer, theirs, rows, names)


def kto(
    model: nn.Module, tokenizer: Any, tokens: Tokens, folder: Path, beta: float, weights: tuple[float, float]
) -> Step:
    """`KTOTrainer`; `tokens` have their reference."""
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    rows = [
        {
            "prompt_ids": _prompt(own),
            "completion_ids": _answer(own),
            "KL_completion_ids": _answer(mate),
            "label": bool(own.values["desirable"]),
            "ref_logps": own.values["reference"],
            "ref_KL_logps": mate.values["reference"],
        }
        for own, mate in tokens
        if _prompt(own) == _prompt(mate)
    ]
    assert len(rows) == len(tokens)
    theirs = copy.deepcopy(model)
    config = KTOConfig(
        **_quiet(folder, len(rows)),
        beta=beta,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )
    data = {"prompt": ["a", "b"], "completion": ["c", "d"], "label": [True, False]}
    trainer = KTOTrainer(
        theirs, args=config, train_dataset=Dataset.from_dict(data), processing_class=tokenizer
    )
    names = {
        "kl": "kl",
        "rewards_chosen": "rewards/chosen",
        "rewards_rejected": "rewards/rejected",
        "logps_chosen": "logps/chosen",
    }
    return _by_trainer(trainer, theirs, rows, names)


def orpo(model: nn.Module, tokens: Tokens, beta: float) -> Step:
    """`ORPOTrainer`'s two terms, the likelihood on the answer alone."""
    from trl.experimental.orpo import ORPOTrainer

    model.zero_grad()
    trainer, batch = _bare(ORPOTrainer, beta=beta), _padded(tokens)
    chosen, rejected, logits, *_ = trainer.concatenated_forward(model, batch)
    losses, _, _, ratio, _ = trainer.odds_ratio_loss(chosen, rejected)
    labels = torch.full((len(tokens), logits.shape[1] + 1), -100)
    labels[:, : batch["chosen_labels"].shape[1]] = batch["chosen_labels"]
    nll = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    loss = nll - losses.mean()
    loss.backward()
    means = {
        "nll_loss": nll.item(),
        "log_odds_ratio": ratio.item(),
        "logps_chosen": chosen.mean().item(),
        "logps_rejected": rejected.mean().item(),
    }
    return Step(loss.item(), _gradients(model), means)


def simpo(model: nn.Module, tokens: Tokens, beta: float, gamma: float) -> Step:
    """`CPOTrainer` with the switches that make it SimPO."""
    from trl.experimental.cpo import CPOTrainer

    model.zero_grad()
    off = dict.fromkeys(("cpo_alpha", "alpha", "label_smoothing"), 0.0)
    trainer = _bare(CPOTrainer, beta=beta, simpo_gamma=gamma, loss_type="simpo", **off)
    loss, told = trainer.get_batch_loss_metrics(model, _padded(tokens))
    loss.backward()
    names = {
        "logps_chosen": "logps/chosen",
        "rewards_margin": "rewards/margins",
        "rewards_accuracy": "rewards/accuracies",
    }
    return Step(loss.item(), _gradients(model), {ours: float(told[key]) for ours, key in names.items()})


def assert_equal(mine: Step, theirs: Step, *, rel: float = 1e-5) -> None:
    """Loss, every gradient (against its largest entry) and every metric that both have."""
    assert abs(mine.loss - theirs.loss) <= rel * abs(theirs.loss), (mine.loss, theirs.loss)
    for name, value in theirs.means.items():
        assert abs(mine.means[name] - value) <= rel * abs(value) + 1e-6, (name, mine.means[name], value)
    assert set(mine.gradients) == set(theirs.gradients)
    for name, gradient in theirs.gradients.items():
        off = float((mine.gradients[name] - gradient).abs().max())
        assert off <= rel * float(gradient.abs().max()), (name, off)


# ------------------------------------------------------------------------------------------------- parts


def _gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def _start(piece: Any) -> int:
    return int(np.flatnonzero(piece.mask)[0])


def _prompt(piece: Any) -> list[int]:
    return piece.ids[: _start(piece)].tolist()


def _answer(piece: Any) -> list[int]:
    return piece.ids[_start(piece) :].tolist()


def _quiet(folder: Path, rows: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": rows,
        "bf16": False,
        "use_cpu": True,
        "activation_checkpointing": False,
        "report_to": "none",
        "max_length": None,
    }


def _by_trainer(trainer: Any, model: nn.Module, rows: list[dict[str, Any]], names: dict[str, str]) -> Step:
    trainer.precompute_ref_logps = True
    model.eval()  # no dropout either way; metrics tell of which mode they are
    loss = trainer._compute_loss(model, trainer.data_collator(rows), return_outputs=False)
    loss.backward()
    told = {k: v[-1] for k, v in trainer._metrics["eval"].items()}
    return Step(loss.item(), _gradients(model), {ours: float(told[key]) for ours, key in names.items()})


def _padded(tokens: Tokens) -> dict[str, torch.Tensor]:
    """Our ids as the padded tensors of TRL's older trainers; answers of a mask with holes are no such thing."""
    batch = {}
    for name, k in (("chosen", 0), ("rejected", 1)):
        pieces = [unit[k] for unit in tokens]
        width = max(len(p.ids) for p in pieces)
        ids, mask, labels = (np.full((len(pieces), width), v, np.int64) for v in (0, 0, -100))
        for row, piece in enumerate(pieces):
            n = len(piece.ids)
            ids[row, :n], mask[row, :n] = piece.ids, 1
            labels[row, :n] = np.where(piece.mask, piece.ids, -100)
        for key, value in (("input_ids", ids), ("attention_mask", mask), ("labels", labels)):
            batch[f"{name}_{key}"] = torch.from_numpy(value)
    return batch


def _bare(cls: Any, **attributes: Any) -> Any:
    """A trainer of TRL's whose loss is called without its data and training loop."""
    trainer = cls.__new__(cls)
    same = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x)
    trainer.__dict__.update(
        accelerator=same, is_encoder_decoder=False, aux_loss_enabled=False, padding_value=0, pad_token_id=0
    )
    trainer.__dict__.update(attributes)
    return trainer
