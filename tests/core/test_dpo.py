"""DPO: TRL's loss, gradients and log-probabilities on the same ids; one trajectory; the step-0 model as reference."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from bp_core import RunStore, Trainer
from bp_core.encoding.encode import Encoder
from bp_core.encoding.tokens import Tokens
from bp_core.models.adapters import add_adapter
from bp_core.models.device import choose_device
from bp_core.models.load import load_model, load_tokenizer
from bp_core.settings.resolve import resolve
from bp_core.training.batch import collate
from bp_core.training.forward import LanguageLoss
from bp_core.training.objectives.dpo import LOSSES, Dpo, dpo_loss
from bp_core.training.objectives.pairs import encode_pairs
from bp_data.example import Example, Rejected, Turn
from bp_export import resolve_base
from bp_merge.common import BpError
from pairs import pairs
from safetensors.torch import load_file
from settled import settled
from stones import quiet, stones

STEPS = 8
BASE = {
    "method": "dpo",
    "learning_rate": 2e-3,
    "preview": 0,
    "eval_steps": 0,
    "save_steps": 0,
    "batch_size": 8,
    "gradient_accumulation": 1,
    "max_seq_length": 256,
    "rank": 8,
}


@pytest.fixture(scope="module")
def parts():
    """A tiny model with an adapter that has moved, its encoder, and eight pairs."""
    settings = resolve({"model": "tiny", "rank": 8, "alpha": 16.0, "target_modules": ("all-linear",)})
    folder = resolve_base("tiny").path
    model = add_adapter(load_model(folder, settings, choose_device(settings)), settled(settings))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    encoder = Encoder(load_tokenizer(folder, settings))
    tokens = Tokens.of(list(encode_pairs(encoder, pairs(8))), width=2)
    return model, encoder, tokens


def trl_columns(tokens: Tokens) -> dict:
    """Our own ids as the columns that TRL makes by tokenising."""
    columns = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for chosen, rejected in tokens:
        start = int(np.flatnonzero(chosen.mask)[0])
        assert chosen.ids[:start].tolist() == rejected.ids[:start].tolist()
        columns["prompt_ids"].append(chosen.ids[:start].tolist())
        columns["chosen_ids"].append(chosen.ids[start:].tolist())
        columns["rejected_ids"].append(rejected.ids[start:].tolist())
    return columns


@pytest.mark.parametrize(
    ("kind", "smoothing"), [("sigmoid", 0.0), ("hinge", 0.0), ("ipo", 0.0), ("robust", 0.1)]
)
def test_loss_gradients_and_log_probabilities_are_trls(parts, tmp_path, kind, smoothing):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, encoder, tokens = parts
    reference = np.random.default_rng(0).normal(-20, 3, tokens.pieces).astype(np.float32)
    tokens = tokens.with_column("reference", reference)
    theirs = copy.deepcopy(model)
    columns = trl_columns(tokens)
    columns["ref_chosen_logps"] = reference[0::2].tolist()
    columns["ref_rejected_logps"] = reference[1::2].tolist()
    trainer = DPOTrainer(
        theirs,
        args=DPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,
            beta=0.1,
            loss_type=[kind],
            label_smoothing=smoothing,
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            precompute_ref_log_probs=False,
            report_to="none",
            max_length=None,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}),
        processing_class=encoder.tokenizer,
    )
    trainer.precompute_ref_logps = True
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    theirs.eval()  # no dropout either way; metrics tell of which mode they are
    loss = trainer._compute_loss(theirs, trainer.data_collator(rows), return_outputs=False)
    loss.backward()

    model.eval()
    model.zero_grad()
    forward = LanguageLoss(model, chunk=16, device=torch.device("cpu"), autocast=None)
    objective = Dpo(beta=0.1, kind=kind, label_smoothing=smoothing)
    units = list(tokens)
    ours = objective.terms(forward, collate(units, 0), objective.denominators(units))
    ours.loss.backward()
    assert ours.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    their_gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    our_gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(our_gradients) == set(
        their_gradients
    )  # TRL's copy for the reference, an adapter too, has none
    for name, b in their_gradients.items():
        assert float((our_gradients[name] - b).abs().max()) <= 1e-5 * float(b.abs().max()), name
    told = {k: v[-1] for k, v in trainer._metrics["eval"].items()}
    for name, key in (
        ("logps_chosen", "logps/chosen"),
        ("logps_rejected", "logps/rejected"),
        ("rewards_margin", "rewards/margins"),
        ("rewards_accuracy", "rewards/accuracies"),
    ):
        assert float(ours.metrics[name]) / len(units) == pytest.approx(
            float(told[key]), rel=1e-5, abs=1e-6
        ), name
    model.zero_grad()


def test_the_losses_by_hand():
    zero = torch.zeros(1)
    assert dpo_loss(zero, zero, beta=0.1).item() == pytest.approx(math.log(2))
    assert dpo_loss(zero, zero, beta=0.1, kind="robust", label_smoothing=0.2).item() == pytest.approx(
        math.log(2)
    )
    assert dpo_loss(zero, zero, beta=0.1, kind="hinge").item() == 1
    assert dpo_loss(zero, zero, beta=0.1, kind="ipo").item() == pytest.approx(25)
    gap = torch.tensor([2.0])
    smoothed = dpo_loss(
        gap, zero, beta=0.5, label_smoothing=0.1
    ).item()  # conservative DPO: a weighted sum of both
    assert smoothed == pytest.approx(0.9 * math.log1p(math.exp(-1)) + 0.1 * math.log1p(math.e))
    with pytest.raises(ValueError, match="sigmoid"):
        dpo_loss(zero, zero, beta=0.1, kind="dpo")


def test_a_pair_shares_its_prompt_and_is_never_half_taken(parts):
    encoder = Encoder(parts[1].tokenizer, max_length=100)
    rows = pairs(3)
    long = Example(
        **{
            **{f: getattr(rows[0], f) for f in rows[0].__slots__},
            "rejected": (Turn("assistant", "no " * 150),),
        }
    )
    same = Example(**{**{f: getattr(rows[0], f) for f in rows[0].__slots__}, "rejected": rows[0].chosen})
    out = list(encode_pairs(encoder, [rows[0], long, same, *stones(1), rows[1]]))
    assert [type(o).__name__ for o in out] == ["tuple", "Rejected", "Rejected", "Rejected", "tuple"]
    assert [(o.reason, o.field) for o in out if isinstance(o, Rejected)] == [
        ("too_long", "rejected"),
        ("pair_same", "rejected"),
        ("wrong_kind", ""),
    ]


def trajectory(folder, **settings):
    result = Trainer("tiny", output=folder, tell=quiet, **{**BASE, **settings}).train(pairs(), steps=STEPS)
    store = RunStore(folder)
    names = ("loss", "grad_norm", "rewards_margin", "rewards_accuracy")
    return {n: [v for _, v in store.metrics(result.run_id, n)] for n in names}, result


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return trajectory(tmp_path_factory.mktemp("straight"))


def test_the_first_loss_is_ln_2_and_pairs_are_learnt(straight):
    curves, result = straight
    assert curves["loss"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert curves["rewards_margin"][0] == pytest.approx(0, abs=1e-5)
    assert curves["loss"][-1] < 0.5
    assert curves["rewards_accuracy"][-1] == 1
    store = RunStore(result.path.parent)
    before, after = (
        [v for _, v in store.metrics(result.run_id, "heldout_rewards_accuracy")][i] for i in (0, -1)
    )
    assert before == 0.5
    assert after > before


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 1, "gradient_accumulation": 8},
        {"batch_size": 4, "gradient_accumulation": 2},
        {"packing": True},
        {"loss_chunk": 0},
        {"gradient_checkpointing": True},
        {"preflight": False},
    ],
    ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()),
)
def test_one_trajectory(tmp_path, straight, settings):
    curves = trajectory(tmp_path, **settings)[0]
    for name in ("loss", "grad_norm"):
        drift = [abs(x - y) / max(abs(y), 1e-6) for x, y in zip(curves[name], straight[0][name], strict=True)]
        print(f"{name}: drift at most {max(drift):.1e}, mean {sum(drift) / len(drift):.1e}")
        assert max(drift) < 1e-4
        assert sum(drift) / len(drift) < 2e-5


def test_a_resumed_run_has_the_step_0_model_as_its_reference(tmp_path):
    def settings(folder):
        return {**BASE, "output": folder, "tell": quiet, "save_steps": 3, "dropout": 0.1}

    whole = Trainer("tiny", **settings(tmp_path / "whole")).train(pairs(), steps=6)

    from bp_core import Callback

    class Ask(Callback):
        def on_step(self, info):
            if info.step == 3:
                RunStore(tmp_path / "cut").request(info.run_id, "stop-and-save")

    trainer = Trainer("tiny", callbacks=[Ask()], **settings(tmp_path / "cut"))
    cut = trainer.train(pairs(), steps=6)
    assert cut.steps < 6
    stored = Tokens.load(cut.path / "tokens" / "train")
    assert set(stored.columns) == {"reference"}
    resumed = Trainer("tiny", output=tmp_path / "cut", tell=quiet).resume(cut.run_id)
    one, other = (load_file(r.adapter_path / "adapter_model.safetensors") for r in (whole, resumed))
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_what_does_nothing_or_would_cut_an_answer_is_refused_or_told(tmp_path):
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path, tell=quiet, method="dpo", truncate=True).train(pairs())
    assert error.value.code == "CONFIG_CONFLICT"
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path, tell=quiet, method="dpo", dpo_loss="ipo", label_smoothing=0.1).train(
            pairs()
        )
    assert error.value.code == "CONFIG_CONFLICT"
    told = []
    Trainer("tiny", output=tmp_path, tell=told.append, dpo_beta=0.3, preview=0).train(stones(8), steps=1)
    assert any("--dpo-beta" in line for line in told)
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path, tell=quiet, method="dpo").train(stones(8), steps=1)
    assert error.value.code == "INPUT_DATASET_EMPTY"
    assert "wrong_kind" in error.value.message
    assert LOSSES == ("sigmoid", "ipo", "hinge", "robust")
