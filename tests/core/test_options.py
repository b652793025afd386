"""Every option changes what happens, or is refused with what to do instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bp_core import Callback, RunStore, Trainer
from bp_core.generation.load import Tuned
from bp_core.models.device import choose_device
from bp_core.settings.knobs import GROUPS
from bp_core.settings.resolve import resolve
from bp_data.example import Example, Turn
from bp_merge.common import BpError, knobs
from safetensors.torch import load_file
from stones import quiet, stones

BASE = {
    "preview": 0,
    "eval_steps": 0,
    "save_steps": 0,
    "batch_size": 4,
    "gradient_accumulation": 1,
    "max_seq_length": 256,
}


def train(folder: Path, rows=None, steps=4, **settings):
    trainer = Trainer("tiny", output=folder, tell=quiet, **{**BASE, **settings})
    return trainer.train(rows or stones(20), steps=steps if "epochs" not in settings else None)


def outcome(folder: Path, **settings):
    result = train(folder, **settings)
    store = RunStore(folder)
    config = json.loads((result.adapter_path / "adapter_config.json").read_text())
    names = ("loss", "grad_norm", "learning_rate", "tokens", "heldout_loss")
    return {
        "weights": load_file(result.adapter_path / "adapter_model.safetensors"),
        "config": {
            k: config[k]
            for k in (
                "r",
                "lora_alpha",
                "lora_dropout",
                "target_modules",
                "use_rslora",
                "use_dora",
                "init_lora_weights",
            )
        },
        "metrics": {n: store.metrics(result.run_id, n) for n in names},
        "checkpoints": sorted(p.name for p in (result.path / "checkpoints").iterdir()),
        "events": [e.code for e in store.events(result.run_id)],
        "steps": result.steps,
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return outcome(tmp_path_factory.mktemp("plain"))


def differs(one, other, *keys):
    return any(one[k] != other[k] for k in keys if k != "weights") or (
        "weights" in keys
        and (
            one["weights"].keys() != other["weights"].keys()
            or any(not torch.equal(t, other["weights"][k]) for k, t in one["weights"].items())
        )
    )


CHANGES = {  # option → (value, where the change shows)
    "rank": (4, "config"),
    "alpha": (7, "config"),
    "dropout": (0.3, "config"),
    "target_modules": (("q_proj", "v_proj"), "config"),
    "use_rslora": (True, "config"),
    "use_dora": (True, "config"),
    "init_lora_weights": ("gaussian", "config"),
    "preset": ("fast", "config"),
    "epochs": (2, "steps"),
    "batch_size": (2, "metrics"),
    "gradient_accumulation": (2, "metrics"),
    "learning_rate": (1e-3, "metrics"),
    "scheduler": ("constant", "metrics"),
    "warmup_steps": (3, "metrics"),
    "warmup_ratio": (0.8, "metrics"),
    "weight_decay": (0.5, "weights"),
    "max_grad_norm": (0.1, "weights"),
    "optim": ("sgd", "weights"),
    "seed": (5, "metrics"),
    "batching": ("random", "metrics"),
    "eval_steps": (2, "metrics"),
    "eval_samples": (1, "metrics"),
    "save_steps": (2, "checkpoints"),
    "keep_last": (1, "checkpoints"),
    "samples": (8, "metrics"),
    "heldout_ratio": (0.4, "metrics"),
    "preflight": (False, "events"),
    "log_prompts": (("Hello?",), "events"),
    "fast_lora": (False, "events"),
    "keep_best": (0, "checkpoints"),
    "max_checkpoint_gb": (1e-6, "checkpoints"),
}
EXTRA = {  # what else a run needs for the option to show
    "keep_last": {"save_steps": 1},
    "log_prompts": {"eval_steps": 1},
    "keep_best": {"save_steps": 1, "eval_steps": 1, "keep_last": 1, "learning_rate": 0.3},
    "max_checkpoint_gb": {"save_steps": 1, "keep_last": 3},
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_option_changes_what_happens(tmp_path, plain, name):
    value, where = CHANGES[name]
    extra = dict(EXTRA.get(name, {}))
    base = plain if not extra else outcome(tmp_path / "base", **extra)
    if name in ("preset",):
        extra["rank"] = None
    assert differs(outcome(tmp_path / "changed", **{**extra, name: value}), base, where)


REFUSED = {
    "fp8": ({"fp8": True}, "DEP_FP8_UNAVAILABLE"),
    "mlx": ({"backend": "mlx"}, "DEP_MLX_UNAVAILABLE"),
    "cuda": ({"backend": "cuda"}, "DEP_GPU_NOT_AVAILABLE"),
    "mps": ({"backend": "mps"}, "DEP_GPU_NOT_AVAILABLE"),
    "fp16 on the CPU": ({"dtype": "float16"}, "CONFIG_INVALID_SETTING"),
    "steps and epochs": ({"epochs": 1.0, "steps": 3}, "CONFIG_CONFLICT"),
    "temperatures": ({"pause_temperature": 99.0}, "CONFIG_INVALID_SETTING"),
    "tracker": ({"trackers": ("nothing",)}, "INPUT_TRACKER_UNKNOWN"),
    "targets": ({"target_modules": ("nope",)}, "CONFIG_TARGET_MODULES"),
    "template": ({"chat_template": "nope"}, "CONFIG_TEMPLATE_UNKNOWN"),
    "labels": ({"min_trainable": 0.999}, "INPUT_TOO_FEW_TRAINABLE"),
    "hours": ({"max_cpu_hours": 1e-9}, "DEP_GPU_NOT_AVAILABLE"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_and_nothing_is_written(tmp_path, name):
    settings, code = REFUSED[name]
    if code == "DEP_GPU_NOT_AVAILABLE" and torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path / "out", tell=quiet, **{**BASE, **settings}).train(stones(20))
    assert error.value.code == code
    assert error.value.hint
    if code in ("CONFIG_TARGET_MODULES", "INPUT_TOO_FEW_TRAINABLE") or name == "hours":
        # known only once data or model are read, for which there is a record: it says so, and holds nothing else
        (run,) = RunStore(tmp_path / "out").list()
        assert (run.status, run.result["error_code"]) == ("failed", code)
        assert not (run.path / "adapter").exists()
    else:
        assert not (tmp_path / "out").exists()


def test_the_gpu_of_apple_is_used_where_it_is_there_and_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    device = choose_device(resolve({"backend": "mps"}))
    assert (device.device.type, device.weights, device.autocast) == ("mps", torch.float32, None)
    assert choose_device(resolve({"backend": "mps", "dtype": "bfloat16"})).autocast is torch.bfloat16
    with pytest.raises(BpError, match="float16"):
        choose_device(resolve({"backend": "mps", "dtype": "float16"}))


def test_allow_cpu_insists(tmp_path):
    assert train(tmp_path, steps=1, max_cpu_hours=1e-9, allow_cpu=True).steps == 1


def test_too_long_is_rejected_or_cut(tmp_path):
    rows = [
        *stones(10),
        Example("long", "x", 99, "chat", (Turn("user", "Go"), Turn("assistant", "word " * 300))),
    ]
    assert train(tmp_path / "a", rows, heldout_ratio=0.0).rejections == {"too_long": 1}
    result = train(tmp_path / "b", rows, heldout_ratio=0.0, truncate=True)
    assert result.rejections == {}
    assert RunStore(tmp_path / "b").get(result.run_id).dataset["truncated_tokens"] > 0


def test_an_adapter_can_be_continued(tmp_path):
    first = train(tmp_path, steps=12)
    second = train(tmp_path, steps=1, init_adapter=first.adapter_path)
    losses = [RunStore(tmp_path).metrics(r.run_id, "loss")[0][1] for r in (first, second)]
    assert losses[1] < 0.5 * losses[0]
    with pytest.raises(BpError) as error:
        train(tmp_path, init_adapter=first.adapter_path, rank=4)
    assert error.value.code == "STATE_ADAPTER_MISMATCH"


def test_early_stopping_and_the_best_weights(tmp_path):
    # a rate that overshoots: the held-out loss rises after the first evaluations
    result = train(
        tmp_path,
        stones(20),
        steps=30,
        learning_rate=0.3,
        eval_steps=1,
        patience=2,
        keep="best",
        heldout_ratio=0.3,
    )
    store = RunStore(tmp_path)
    held = dict(store.metrics(result.run_id, "heldout_loss"))
    assert result.reason == "EARLY_STOPPED"
    assert result.steps < 30
    assert result.best_step is not None
    if result.best_step:
        assert result.heldout_loss_after == pytest.approx(min(held.values()))


def test_a_diverged_run_fails_and_keeps_the_last_good_state(tmp_path):
    with pytest.raises(BpError) as error:
        train(tmp_path, steps=40, learning_rate=100.0, save_steps=1, max_grad_norm=0.0, optim="adamw_torch")
    assert error.value.code in ("RUNTIME_LOSS_NOT_FINITE", "RUNTIME_LOSS_SPIKE", "RUNTIME_GRADIENT_ZERO")
    assert error.value.exit_code == 2
    store = RunStore(tmp_path)
    run = store.get(error.value.details["run_id"])
    assert run.status == "failed"
    for folder in (run.path / "checkpoints").glob("step-*"):
        assert all(torch.isfinite(t).all() for t in load_file(folder / "adapter_model.safetensors").values())
    assert not (run.path / "adapter").exists()


def test_a_disk_without_room_saves_and_stops(tmp_path):
    with pytest.raises(BpError) as error:
        train(tmp_path, steps=21, min_free_disk_gb=1e9)
    run = RunStore(tmp_path).get(error.value.details["run_id"])
    assert (run.status, run.result["error_code"]) == ("failed", error.value.code)
    assert [p.name for p in (run.path / "checkpoints").glob("step-*")] == ["step-00000020"]


def test_a_callback_that_raises_is_switched_off(tmp_path):
    seen = []

    class Bad(Callback):
        def on_step(self, info):
            seen.append(info.step)
            raise RuntimeError("mine")

    trainer = Trainer("tiny", output=tmp_path, tell=quiet, callbacks=[Bad()], **BASE)
    result = trainer.train(stones(20), steps=3)
    assert (result.steps, seen) == (3, [1])
    assert "CALLBACK_FAILED" in [e.code for e in RunStore(tmp_path).events(result.run_id)]


def test_the_adapter_is_plain_peft_and_answers_alike(tmp_path):
    trainer = Trainer("tiny", output=tmp_path, tell=quiet, **BASE)
    result = trainer.train(stones(20), steps=30, learning_rate=5e-3)
    modes = {path.stat().st_mode for path in result.adapter_path.iterdir()}
    assert len(modes) == 1, "whoever reads the configuration reads the weights"
    question = stones(20)[3].turns[0].content
    mine = trainer.generate(question, max_new_tokens=16)
    assert Tuned.load(result.adapter_path).answer(question, max_new_tokens=16) == mine
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    model = AutoPeftModelForCausalLM.from_pretrained(result.adapter_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(result.adapter_path)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    made = model.generate(**ids, max_new_tokens=16, do_sample=False)
    assert tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip() == mine


def test_save_copies_and_never_overwrites(tmp_path):
    trainer = Trainer("tiny", output=tmp_path / "out", tell=quiet, **BASE)
    with pytest.raises(BpError, match="nothing was trained"):
        trainer.save()
    result = trainer.train(stones(20), steps=1)
    assert trainer.save() == result.adapter_path
    copy = trainer.save(tmp_path / "mine")
    assert sorted(p.name for p in copy.iterdir()) == sorted(p.name for p in result.adapter_path.iterdir())
    with pytest.raises(BpError) as error:
        trainer.save(tmp_path / "mine")
    assert error.value.code == "INPUT_PATH_EXISTS"


PLANNED = {  # knob → (value, how the plan, what is told, or a refusal shows it), without a training
    "model": ("nowhere/at-all", "refused"),
    "backend": ("mlx", "refused"),
    "dtype": ("bfloat16", "base_weights_bytes"),
    "max_seq_length": (24, "refused"),
    "chat_template": ("plain", "tokens"),
    "data_format": ("preference", "refused"),
    "map": ("question=nowhere", "refused"),
    "min_trainable": (0.999, "refused"),
    "steps": (7, "steps"),
    "preview": (2, "told"),
    "fp8": (True, "refused"),
    "pause_temperature": (99.0, "refused"),
    "resume_temperature": (91.0, "refused"),
    "abort_temperature": (85.0, "refused"),
    "trackers": (("nothing",), "refused"),
    "max_cpu_hours": (1e-9, "refused"),
    "method": ("dpo", "refused"),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    from bp_data.render import to_row

    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(json.dumps(to_row(row)) + "\n" for row in stones(20)))
    return file


def planned(dataset, tmp_path, **settings):
    from bp_core.training.inputs import read_inputs
    from bp_core.training.refusals import refuse_early

    told = []
    given = {"model": "tiny", "data": str(dataset), "output": tmp_path, **BASE, "steps": 4, **settings}
    try:
        settings, base = refuse_early(resolve(given), told.append)
        plan = read_inputs(settings, base, choose_device(settings), tell=told.append).plan()
    except BpError as error:
        return {"refused": error.code}
    del plan["settings"]
    return {**plan, "told": told, "refused": ""}


@pytest.fixture(scope="module")
def usual(dataset, tmp_path_factory):
    found = planned(dataset, tmp_path_factory.mktemp("usual"))
    assert not found["refused"], found
    return found


@pytest.mark.parametrize("name", PLANNED)
def test_a_knob_changes_the_plan(tmp_path, dataset, usual, name):
    if name in ("max_cpu_hours",) and torch.cuda.is_available():
        pytest.skip("there is a card")
    value, where = PLANNED[name]
    assert planned(dataset, tmp_path, **{name: value})[where] != usual[where]


def test_the_data_and_the_held_out_file_are_those_that_are_named(tmp_path, dataset, usual):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(dataset.read_text().splitlines(keepends=True)[:9]))
    assert planned(other, tmp_path)["data"] != usual["data"]
    assert planned(dataset, tmp_path, heldout=str(other))["data"] != usual["data"]


def test_logs_are_as_the_settings_say(tmp_path):
    from bp_cli.shared import set_up_logs
    from bp_core.support import logs

    try:
        set_up_logs({}, resolve())
        usual = logs.settings()
        for changed in ({"log_level": "DEBUG"}, {"log_json": True}, {"log_file": tmp_path / "log"}):
            set_up_logs({}, resolve(changed))
            assert logs.settings() != usual, changed
    finally:
        set_up_logs({}, resolve())


# knob → the test that proves it otherwise, or, where no test here can, why
ELSEWHERE = {
    "min_free_disk_gb": "test_options.py::test_a_disk_without_room_saves_and_stops",
    "mode": "test_full.py::test_every_method_trains_the_whole_model_on_one_trajectory",
    "quantization": "test_quantised.py::test_from_training_on_a_quantised_base_to_a_merged_model",
    "load_in_4bit": "test_quantised.py::test_from_training_on_a_quantised_base_to_a_merged_model",
    "load_in_8bit": "test_quantised.py::test_from_training_on_a_quantised_base_to_a_merged_model",
    "full_ft_offload": "test_full.py::test_layers_in_main_memory_are_the_same_run",
    "full_ft_ceiling_billions": "test_full.py::test_the_ceiling_is_the_cards_or_the_one_that_is_given",
    "revision": "names a commit of a Hub repository: needs the network",
    "attn_implementation": "test_trajectory.py::test_one_trajectory",  # another kernel, the same figures
    "packing": "test_trajectory.py::test_one_trajectory",  # other rows, the same figures
    "trust_remote_code": "runs code of a Hub repository: needs the network",
    "init_adapter": "test_options.py::test_an_adapter_can_be_continued",
    "data": "test_options.py::test_the_data_and_the_held_out_file_are_those_that_are_named",
    "heldout": "test_options.py::test_the_data_and_the_held_out_file_are_those_that_are_named",
    "drop_keys": "test_dataset_keys.py::",
    "truncate": "test_options.py::test_too_long_is_rejected_or_cut",
    "reasoning_trace": "test_preference.py::test_reasoning_rows_are_kept_by_the_length_of_their_trace",
    "min_trace_tokens": "test_preference.py::test_reasoning_rows_are_kept_by_the_length_of_their_trace",
    "max_trace_tokens": "test_preference.py::test_reasoning_rows_are_kept_by_the_length_of_their_trace",
    "dpo_beta": "test_trl_equality.py::test_dpo",
    "dpo_loss": "test_trl_equality.py::test_dpo",
    "label_smoothing": "test_trl_equality.py::test_dpo",
    "orpo_beta": "test_trl_equality.py::test_orpo_term_by_term",
    "simpo_beta": "test_trl_equality.py::test_simpo_is_cpo_with_its_switches",
    "simpo_gamma": "test_trl_equality.py::test_simpo_is_cpo_with_its_switches",
    "kto_beta": "test_trl_equality.py::test_kto_whatever_the_cut",
    "kto_desirable_weight": "test_trl_equality.py::test_kto_whatever_the_cut",
    "kto_undesirable_weight": "test_trl_equality.py::test_kto_whatever_the_cut",
    "rewards": "test_rl.py::test_a_knob_of_rewards_acts",
    "run_code": "test_rl.py::test_a_knob_of_rewards_acts",
    "prompt_template": "test_rl.py::test_a_knob_of_rewards_acts",
    "pre_training_epochs": "test_pre_training.py::test_it_is_the_supervised_run_and_then_the_run_by_rewards",
    "pre_training_samples": "test_pre_training.py::test_it_is_the_supervised_run_and_then_the_run_by_rewards",
    "pre_training_learning_rate": "test_pre_training.py::test_it_is_the_supervised_run_and_then_the_run_by_rewards",
    "group_size": "test_rl.py::test_a_knob_of_rewards_acts",
    "max_completion_length": "test_rl.py::test_a_knob_of_rewards_acts",
    "temperature": "test_rl.py::test_a_knob_of_rewards_acts",
    "top_p": "test_rl.py::test_a_knob_of_rewards_acts",
    "kl_beta": "test_rl.py::test_a_knob_of_rewards_acts",
    "clip_low": "test_rl.py::test_a_knob_of_rewards_acts",
    "clip_high": "test_rl.py::test_a_knob_of_rewards_acts",
    "importance_level": "test_rl.py::test_a_knob_of_rewards_acts",
    "grpo_loss": "test_rl.py::test_a_knob_of_rewards_acts",
    "num_iterations": "test_rl.py::test_a_knob_of_rewards_acts",
    "rollouts": "test_rl.py::test_what_cannot_be_is_refused",
    "gradient_checkpointing": "test_trajectory.py::test_one_trajectory",  # saves memory, changes nothing else
    "length_buckets": "test_batches.py::test_a_few_lengths",
    "compile": "test_compile.py::test_compiled_layers_learn_the_same",
    "fused_layers": "test_kernels.py::test_what_is_not_there_is_refused",
    "recompute": "test_recompute.py::test_what_is_kept_for_the_backward_pass",
    "loss_chunk": "test_decide.py::test_a_chunk_that_was_asked_for_is_used",
    "eval_metrics": "test_assessment.py::test_training_measures_answers_and_keeps_the_best_by_them",
    "eval_answers": "test_assessment.py::test_training_measures_answers_and_keeps_the_best_by_them",
    "best_by": "test_assessment.py::test_training_measures_answers_and_keeps_the_best_by_them",
    "patience": "test_options.py::test_early_stopping_and_the_best_weights",
    "keep": "test_options.py::test_early_stopping_and_the_best_weights",
    "dataloader_workers": "test_trajectory.py::test_one_trajectory",  # who builds batches, not which
    "oom_recovery": "test_trajectory.py::test_oom_recovery_can_be_turned_off",
    "monitor": "test_training_heat.py::test_a_hot_card_pauses_the_run_until_it_is_cool",
    "spike_factor": "test_guards.py::test_a_loss_that_stays_up_stops_with_the_last_good_step",
    "allow_cpu": "test_options.py::test_allow_cpu_insists",
    "output": "test_options.py::test_save_copies_and_never_overwrites",
    "log_level": "test_options.py::test_logs_are_as_the_settings_say",
    "log_json": "test_options.py::test_logs_are_as_the_settings_say",
    "log_file": "test_options.py::test_logs_are_as_the_settings_say",
    "runs": "test_continual.py::test_what_cannot_be_is_refused_and_nothing_is_written",
    **dict.fromkeys(
        ("merge_mode", "merge_strategy", "ties_trim", "dare_drop_rate", "dare_seed", "merge_rank"),
        "test_continual.py::test_a_knob_changes_the_merge",
    ),
    **dict.fromkeys(
        ("start", "lr_decay", "session_patience", "eval_heldout", "compare_methods"),
        "test_continual.py::test_knobs_change_how_the_runs_of_a_session_go",
    ),
    **dict.fromkeys(
        ("replay_fraction", "replay_strategy"), "test_continual.py::test_shares_of_the_replay_strategies"
    ),
    **dict.fromkeys(
        ("drift_gate", "drift_threshold"), "test_continual.py::test_the_drift_gate_asks_for_its_cosine"
    ),
    **dict.fromkeys(
        ("eval_gate", "eval_max_regression"),
        "test_continual.py::test_the_evaluation_gate_trips_beyond_noise_alone",
    ),
    "on_reject": "test_continual.py::test_a_run_that_contradicts_is_left_out_whether_the_session_stops_or_goes_on",
    "moments": "test_continual.py::test_merging_anew_needs_no_training_and_gives_what_bp_merge_gives",
}


def test_every_knob_is_proved_to_act():
    named = {k.name for cls in GROUPS.values() for k in knobs(cls)}
    rows = [*CHANGES, *PLANNED, *ELSEWHERE]
    assert sorted(rows) == sorted(named), "one row a knob, in one of the three tables"
    for name, proof in ELSEWHERE.items():
        file, sign, test = proof.partition("::")
        if sign:
            text = (Path(__file__).parent / file).read_text(encoding="utf-8")
            assert f"def {test}" in text, f"{name}: {proof}"
