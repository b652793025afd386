"""ORPO, SimPO and KTO: TRL's losses and gradients on the same ids, one trajectory each, and what the losses say by hand."""

from __future__ import annotations

import copy
import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bp_core import RunStore, Trainer
from bp_core.encoding.encode import Encoder
from bp_core.encoding.tokens import Tokens
from bp_core.encoding.traces import trace_of
from bp_core.models.adapters import add_adapter
from bp_core.models.device import choose_device
from bp_core.models.load import load_model, load_tokenizer
from bp_core.settings.resolve import resolve
from bp_core.training.batch import collate, micro_batches
from bp_core.training.forward import LanguageLoss
from bp_core.training.objectives.kto import Kto, balanced_weights, kto_loss
from bp_core.training.objectives.orpo import Orpo, log_odds, odds_ratio_loss
from bp_core.training.objectives.pairs import encode_pairs
from bp_core.training.objectives.simpo import Simpo, simpo_loss
from bp_core.training.step import objective_means, summed
from bp_data.example import Example, Rejected, Turn
from bp_export import resolve_base
from pairs import judged, pairs
from settled import settled
from stones import quiet, stones

STEPS = 6
BASE = {
    "learning_rate": 2e-3,
    "preview": 0,
    "eval_steps": 0,
    "save_steps": 0,
    "batch_size": 8,
    "gradient_accumulation": 1,
    "max_seq_length": 256,
    "rank": 8,
}
ROWS = {"orpo": pairs, "simpo": pairs, "kto": judged}


@pytest.fixture(scope="module")
def parts():
    """A tiny model with an adapter that has moved, and its encoder."""
    settings = resolve({"model": "tiny", "rank": 8, "alpha": 16.0, "target_modules": ("all-linear",)})
    folder = resolve_base("tiny").path
    model = add_adapter(load_model(folder, settings, choose_device(settings)), settled(settings))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    model.eval()
    return model, Encoder(load_tokenizer(folder, settings))


def ours(model, objective, tokens, micro=100):
    """Loss, gradients and mean metrics of one step over all units, as the step takes them."""
    forward = LanguageLoss(model, chunk=16, device=torch.device("cpu"), autocast=None)
    model.zero_grad()
    units = list(tokens)
    per = dict(objective.denominators(units))

    def batches(pieces):
        picked = [tuple(unit[k] for k in pieces) for unit in units]
        return [collate(part, 0) for part in micro_batches(picked, micro)]

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
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return total, gradients, means


def assert_gradients(mine, model):
    theirs = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert set(mine) == set(theirs)
    for name, gradient in theirs.items():
        assert float((mine[name] - gradient).abs().max()) <= 1e-5 * float(gradient.abs().max()), name
    model.zero_grad()


def trl_batch(tokens):
    """Our ids as the padded tensors of TRL's older trainers."""
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


def trl(cls, **attributes):
    """A trainer of TRL's whose loss is called without its data and training loop."""
    trainer = cls.__new__(cls)
    same = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x)
    trainer.__dict__.update(
        accelerator=same, is_encoder_decoder=False, aux_loss_enabled=False, padding_value=0, pad_token_id=0
    )
    trainer.__dict__.update(attributes)
    return trainer


def test_orpo_is_trls_term_by_term(parts, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo import ORPOTrainer

    model, encoder = parts
    tokens = Tokens.of(list(encode_pairs(encoder, pairs(8))), width=2)
    loss, gradients, means = ours(model, Orpo(beta=0.3), tokens)
    trainer, batch = trl(ORPOTrainer, beta=0.3), trl_batch(tokens)
    chosen, rejected, logits, *_ = trainer.concatenated_forward(model, batch)
    losses, _, _, ratio, _ = trainer.odds_ratio_loss(chosen, rejected)
    labels = torch.full((8, logits.shape[1] + 1), -100)
    labels[:, : batch["chosen_labels"].shape[1]] = batch["chosen_labels"]
    nll = F.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )  # on the answer alone
    (nll - losses.mean()).backward()
    assert loss == pytest.approx((nll - losses.mean()).item(), rel=1e-5)
    assert means["nll_loss"] == pytest.approx(nll.item(), rel=1e-5)
    assert means["log_odds_ratio"] == pytest.approx(ratio.item(), rel=1e-5)
    assert means["logps_chosen"] == pytest.approx(chosen.mean().item(), rel=1e-5)
    assert_gradients(gradients, model)


def test_simpo_is_trls_cpo_with_its_switches(parts, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo import CPOTrainer

    model, encoder = parts
    tokens = Tokens.of(list(encode_pairs(encoder, pairs(8))), width=2)
    loss, gradients, means = ours(model, Simpo(beta=2.5, gamma=0.8), tokens)
    trainer = trl(
        CPOTrainer,
        beta=2.5,
        simpo_gamma=0.8,
        loss_type="simpo",
        cpo_alpha=0.0,
        alpha=0.0,
        label_smoothing=0.0,
    )
    theirs, told = trainer.get_batch_loss_metrics(model, trl_batch(tokens))
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), rel=1e-5)
    assert_gradients(gradients, model)
    for mine, key in (
        ("logps_chosen", "logps/chosen"),
        ("rewards_margin", "rewards/margins"),
        ("rewards_accuracy", "rewards/accuracies"),
    ):
        assert means[mine] == pytest.approx(told[key], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("micro", [100, 3, 1])
def test_kto_is_trls_whatever_the_cut(parts, tmp_path, micro):
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    model, encoder = parts
    objective = Kto(beta=0.2, desirable_weight=1.5, undesirable_weight=0.7)
    tokens = Tokens.of(list(objective.encode(encoder, judged(8))), width=2)
    # near the truth, so that K is above 0 and counts
    forward = LanguageLoss(model, chunk=16, device=torch.device("cpu"), autocast=None)
    with torch.no_grad():
        everything = collate(list(tokens), 0)
        policy = everything.sum_by_piece(forward.log_probs(everything)).numpy()
    reference = (policy - np.random.default_rng(0).uniform(0, 4, tokens.pieces)).astype(np.float32)
    tokens = tokens.with_column("reference", reference)
    loss, gradients, means = ours(model, objective, tokens, micro)
    assert means["kl"] > 0.5
    if micro != 100:
        whole = ours(model, objective, tokens)
        assert loss == pytest.approx(whole[0], rel=1e-6)
        assert means == pytest.approx(whole[2], rel=1e-5, abs=1e-6)
        return
    rows = []
    for own, mate in tokens:
        start, other = (int(np.flatnonzero(p.mask)[0]) for p in (own, mate))
        assert own.ids[:start].tolist() == mate.ids[:other].tolist()
        rows.append(
            {
                "prompt_ids": own.ids[:start].tolist(),
                "completion_ids": own.ids[start:].tolist(),
                "KL_completion_ids": mate.ids[other:].tolist(),
                "label": bool(own.values["desirable"]),
                "ref_logps": own.values["reference"],
                "ref_KL_logps": mate.values["reference"],
            }
        )
    theirs = copy.deepcopy(model)
    trainer = KTOTrainer(
        theirs,
        args=KTOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,
            beta=0.2,
            desirable_weight=1.5,
            undesirable_weight=0.7,
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            report_to="none",
            max_length=None,
        ),
        train_dataset=Dataset.from_dict(
            {"prompt": ["a", "b"], "completion": ["c", "d"], "label": [True, False]}
        ),
        processing_class=encoder.tokenizer,
    )
    trainer.precompute_ref_logps = True
    theirs.eval()
    their_loss = trainer._compute_loss(theirs, trainer.data_collator(rows), return_outputs=False)
    their_loss.backward()
    assert loss == pytest.approx(their_loss.item(), rel=1e-5)
    told = {k: v[-1] for k, v in trainer._metrics["eval"].items()}
    for mine, key in (
        ("kl", "kl"),
        ("rewards_chosen", "rewards/chosen"),
        ("rewards_rejected", "rewards/rejected"),
        ("logps_chosen", "logps/chosen"),
    ):
        assert means[mine] == pytest.approx(told[key], rel=1e-5)
    their_gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert set(gradients) == set(their_gradients)
    for name, gradient in their_gradients.items():
        assert float((gradients[name] - gradient).abs().max()) <= 1e-5 * float(gradient.abs().max()), name


def test_the_losses_by_hand():
    zero = torch.zeros(1)
    assert log_odds(torch.tensor([-math.log(2)])).item() == pytest.approx(0, abs=1e-6)
    assert odds_ratio_loss(torch.tensor([-1.0]), torch.tensor([-1.0])).item() == pytest.approx(math.log(2))
    extreme = log_odds(torch.tensor([0.0, -1e-9, -80.0, -1e4], requires_grad=True))
    assert torch.isfinite(extreme).all()
    assert torch.isfinite(torch.autograd.grad(extreme.sum(), extreme, allow_unused=True)[0]).all()
    assert simpo_loss(zero, zero, gamma=1.0).item() == pytest.approx(1.3133, abs=1e-4)
    both = kto_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor(0.0), beta=0.1, weights=(2.0, 1.0))
    assert both.tolist() == pytest.approx([1.0, 0.5])
    assert balanced_weights(100, 200) == (2.0, 1.0)
    assert balanced_weights(400, 100) == (1.0, 3.0)
    assert balanced_weights(110, 100) == (1.0, 1.0)
    assert balanced_weights(5, 0) == (1.0, 1.0)


def test_kto_reads_judgements_and_pairs_and_puts_foreign_answers_behind_each_prompt(parts):
    encoder = Encoder(parts[1].tokenizer, max_length=100)
    rows = [*judged(3), pairs(1)[0], stones(1)[0]]
    long = dataclasses.replace(rows[0], turns=(rows[0].turns[0], Turn("assistant", "no " * 150)))
    out = list(Kto().encode(encoder, [*rows, long]))
    units = [o for o in out if not isinstance(o, Rejected)]
    assert len(units) == 5  # three judgements, a pair
    assert sorted(o.reason for o in out if isinstance(o, Rejected)) == ["too_long", "wrong_kind"]
    answers = [
        encoder.tokenizer.decode([i for i, m in zip(p.ids, p.mask, strict=True) if m]) for p, _ in units
    ]
    mates = [encoder.tokenizer.decode([i for i, m in zip(p.ids, p.mask, strict=True) if m]) for _, p in units]
    assert mates == [*answers[1:], answers[0]]
    assert [p.values["desirable"] for p, _ in units] == [1, 0, 1, 1, 0]


def trajectory(folder, method, **settings):
    trainer = Trainer("tiny", output=folder, tell=quiet, method=method, **{**BASE, **settings})
    result = trainer.train(ROWS[method](), steps=STEPS)
    store = RunStore(folder)
    names = ("loss", "grad_norm", "heldout_loss", "heldout_rewards_accuracy")
    return {n: [v for _, v in store.metrics(result.run_id, n)] for n in names}, result


@pytest.fixture(scope="module", params=["orpo", "simpo", "kto"])
def straight(request, tmp_path_factory):
    return request.param, trajectory(tmp_path_factory.mktemp(request.param), request.param)[0]


def test_each_method_learns_its_own_objective_on_rows_held_out(straight):
    method, curves = straight
    assert curves["heldout_loss"][-1] < curves["heldout_loss"][0], method
    assert curves["heldout_rewards_accuracy"][-1] > 0.5, method
    first = {"kto": 0.5}.get(method)
    if first is not None:
        wanted, unwanted = 20, 20
        assert curves["loss"][0] == pytest.approx(first, rel=1e-5)
        assert balanced_weights(wanted, unwanted) == (1.0, 1.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 1, "gradient_accumulation": 8},
        {"batch_size": 4, "gradient_accumulation": 2},
        {"packing": True},
    ],
    ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()),
)
def test_one_trajectory(tmp_path, straight, settings):
    method, whole = straight
    curves = trajectory(tmp_path, method, **settings)[0]
    for name in ("loss", "grad_norm"):
        drift = [abs(x - y) / max(abs(y), 1e-6) for x, y in zip(curves[name], whole[name], strict=True)]
        print(f"{method} {name}: drift at most {max(drift):.1e}, mean {sum(drift) / len(drift):.1e}")
        assert max(drift) < 1e-4
        assert sum(drift) / len(drift) < 2e-5


def test_reasoning_rows_are_kept_by_the_length_of_their_trace(tmp_path):
    rows = stones(8)

    def reasoning(row, text):
        answer = dataclasses.replace(row.turns[1], content=f"<think>{text}</think>" + row.turns[1].content)
        return dataclasses.replace(row, turns=(row.turns[0], answer))

    mixed = [
        *(reasoning(row, "it is a stone of the third kind") for row in rows[:5]),
        reasoning(rows[5], "so"),
        reasoning(rows[6], "long " * 60),
        rows[7],
    ]
    told = []
    trainer = Trainer(
        "tiny",
        output=tmp_path,
        tell=told.append,
        preview=0,
        reasoning_trace=True,
        min_trace_tokens=4,
        max_trace_tokens=40,
        heldout_ratio=0,
    )
    result = trainer.train(mixed, steps=1)
    assert result.rejections == {"trace_too_short": 1, "trace_too_long": 1, "trace_missing": 1}
    assert trainer.settings.model.max_seq_length == 8192
    assert trace_of(Turn("assistant", "<think> a\nb </think>c")) == "a\nb"
    assert trace_of(Turn("assistant", "c", reasoning="why")) == "why"
    assert Example("a", "b", 1, "chat").turns == ()
