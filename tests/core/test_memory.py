"""Memory before the run, without torch: sizes of known models, what moves an estimate, verdicts, the command."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from bp_cli.root import cli
from bp_core.memory.estimate import COMPONENTS, Overhead, estimate, weight_bytes
from bp_core.memory.machine import machine, read_measured, write_measured
from bp_core.memory.settings import EstimateSettings
from bp_core.memory.shapes import Shapes, UnknownShapesError
from bp_core.memory.shortlist import listed, shortlist
from bp_core.memory.verdict import CARDS, GB, best, changes, disk, recommended, verdict
from bp_core.memory.workload import Workload
from bp_core.models.calibrate import overhead_of
from bp_core.settings.tables import DEFAULT_MODEL
from click.testing import CliRunner

QWEN = listed(DEFAULT_MODEL).shapes

# as each model's card or weight index states them
PUBLISHED = {
    "qwen-2.5-0.5b": 494_032_768,
    "qwen-2.5-1.5b": 1_543_714_304,
    "qwen-2.5-3b": 3_085_938_688,
    "qwen-2.5-7b": 7_615_616_512,
    "qwen-3-4b": 4_022_468_096,
    "qwen-3-8b": 8_190_735_360,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "mistral-7b": 7_248_023_552,
    "gemma-3-1b": 999_885_952,
    "phi-4-mini-3.8b": 3_836_021_760,
    "smollm2-135m": 134_515_008,
    "smollm3-3b": 3_075_098_624,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    assert listed(name).shapes.parameters == PUBLISHED[name]


def test_every_model_of_the_shortlist_is_named_once_and_counted():
    rows = shortlist()
    assert len({m.id for m in rows}) == len({m.name for m in rows}) == len(rows) > 20
    for model in rows:
        assert model.licence
        assert model.template
        assert model.tasks
        assert listed(model.id.upper()) is model
        assert listed(model.name) is model
        assert model.shapes.context >= 4096


def test_the_default_run_fits_16_gb():
    row = next(r for r in recommended(QWEN, Workload()) if r.vram_gb == 16)
    assert row.choice is not None
    assert row.choice.preset == "balanced"
    assert row.choice.load.quantization == "nf4"


@pytest.mark.parametrize(
    ("change", "component", "sign"),
    [
        ({"rank": 64}, "adapter", 1),
        ({"dora": True}, "adapter", 1),
        ({"targets": ("q_proj", "v_proj")}, "adapter", -1),
        ({"quantization": "nf4"}, "weights", -1),
        ({"quantization": "int8"}, "weights", -1),
        ({"weight_bytes": 4, "half": False}, "weights", 1),
        ({"optim": "paged_adamw_8bit"}, "optimizer", -1),
        ({"optim": "sgd"}, "optimizer", -1),
        ({"optim": "adafactor"}, "optimizer", -1),
        ({"mode": "full"}, "gradients", 1),
        ({"checkpointing": False}, "activations", 1),
        ({"batch": 2}, "activations", 1),
        ({"length": 4096}, "activations", 1),
        ({"method": "dpo"}, "activations", 1),
        ({"batch": 4, "packing": True}, "activations", 0),
        ({"accumulation": 1}, "gradients", -1),
        ({"loss_chunk": 2048, "checkpointing": True}, "logits", 1),
    ],
)
def test_a_setting_moves_its_component(change, component, sign):
    before = estimate(QWEN, Workload(loss_chunk=512)).components
    after = estimate(QWEN, dataclasses.replace(Workload(loss_chunk=512), **change)).components
    assert set(after) == set(COMPONENTS)
    difference = after[component] - before[component]
    assert (difference > 0) - (difference < 0) == sign


def test_nf4_takes_just_over_half_a_byte_and_leaves_embeddings_alone():
    whole, small = (weight_bytes(QWEN, Workload(quantization=q)) for q in ("none", "nf4"))
    assert whole == 2 * QWEN.parameters
    assert (whole - small) / QWEN.linear_parameters == pytest.approx(2 - 0.516, abs=1e-3)


def test_a_group_of_completions_needs_its_logits_and_a_cache():
    plain = estimate(QWEN, Workload(length=512 + 256))
    group = estimate(QWEN, Workload(method="grpo", length=512, completion=256, batch=8))
    assert group.total > plain.total
    assert group.total < estimate(QWEN, Workload(method="grpo", length=512, completion=512, batch=8)).total


def test_verdicts_have_room():
    assert [verdict(x, 16) for x in (14.7, 14.8, 16, 16.1)] == ["fits", "tight", "tight", "too large"]


@pytest.mark.parametrize("name", [m.name for m in shortlist()])
def test_a_larger_card_never_takes_less(name):
    shapes = listed(name).shapes
    rows = recommended(shapes, Workload())
    fits = [r.choice is not None for r in rows]
    assert fits == sorted(fits)
    for row, gb in zip(rows, CARDS, strict=True):
        if row.choice:
            assert verdict(row.choice.estimate.total, gb * GB) == "fits"
            assert estimate(shapes, row.choice.load).total == row.choice.estimate.total
    lengths = [r.longest for r in rows if r.choice and r.choice.load.quantization == "nf4"]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("gb", [8, 12, 16, 24])
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_what_would_do_does(gb, mode):
    load = Workload(mode=mode, batch=16, accumulation=1, checkpointing=False)
    for change in changes(QWEN, load, gb * GB):
        assert change.verdict in ("fits", "tight")
        assert change.total <= gb * GB
    assert best(QWEN, load, 1e9) is None
    assert not changes(QWEN, load, 1e9)


def test_disk_counts_the_base_and_every_checkpoint():
    space = disk(QWEN, Workload(mode="full", optim="adamw_torch_fused"))
    assert space.download == 2 * QWEN.parameters
    assert space.checkpoint == pytest.approx(3 * 2 * QWEN.parameters)
    assert space.needed(3) == space.download + 4 * space.checkpoint + space.result


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "mamba", "hidden_size": 8},
        {"model_type": "qwen3", "num_experts": 8, "hidden_size": 8},
        {"model_type": "llama", "hidden_size": "wide"},
        {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 0},
        {"model_type": "gemma3", "text_config": None},
        {"model_type": ["llama"]},
    ],
)
def test_what_is_not_counted_is_refused_by_name(config):
    with pytest.raises(UnknownShapesError):
        Shapes.of(config)


def test_a_measured_card_is_remembered_for_the_versions_it_was_measured_with(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKPROPAGATE_MEMORY_DIR", str(tmp_path))
    assert read_measured("Card 1/2") is None
    file = write_measured("Card 1/2", Overhead(5e8, 0.07))
    assert read_measured("Card 1/2") == Overhead(5e8, 0.07)
    file.write_text(json.dumps({"fixed": 1, "share": 1, "torch": "0.1"}))
    assert read_measured("Card 1/2") is None
    file.write_text("[")
    assert read_measured("Card 1/2") is None


def test_what_was_measured_becomes_what_a_card_takes():
    gib = 2**30
    taken = overhead_of(in_use=10 * gib, held=9 * gib, most_held=9 * gib, most=8 * gib, settled=4 * gib)
    assert (taken.fixed, taken.share) == (gib, 0.25)
    assert overhead_of(in_use=0, held=1, most_held=1, most=1, settled=1) == Overhead(0.0, 0.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_there_is_not_measured():
    told = run("tiny", "--calibrate")
    assert told.exception.code == "DEP_GPU_NOT_AVAILABLE"
    assert "names another" in run("tiny", "--calibrate", "--vram-gb", "8").output


def test_without_a_card_main_memory_counts():
    here = machine(cpu=True)
    assert here.device == "cpu"
    assert here.capacity > 1e8
    assert machine(24).capacity == 24 * GB


def run(*args):
    return CliRunner().invoke(cli, ["estimate-vram", *args])


def test_the_command_answers_with_a_table_and_json():
    told = json.loads(run("--vram-gb", "16", "--json").output)
    assert told["verdict"] == "fits"
    assert told["settings"]["quantization"] == "nf4"
    assert sum(told["components"].values()) == told["total_bytes"]
    assert [r["vram_gb"] for r in told["recommended"]] == list(CARDS)
    text = run("llama-3.2-1b", "--vram-gb", "12").output
    assert "meta-llama/Llama-3.2-1B-Instruct" in text
    assert "80 GB" in text
    assert run("qwen-2.5-7b", "--vram-gb", "16", "-q").output == "fits\n"


def test_what_is_given_is_kept():
    told = json.loads(
        run(
            "--vram-gb", "8", "--batch-size", "4", "--quantization", "none", "--no-gradient-checkpointing", "--rank", "8",
            "--json",
        ).output
    )  # fmt: skip
    assert told["verdict"] == "too large"
    assert told["settings"]["batch_size"] == 4
    assert told["settings"]["rank"] == 8
    assert told["settings"]["gradient_checkpointing"] is False
    assert told["changes"]


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(EstimateSettings)])
def test_every_flag_of_the_command_changes_its_answer(field):
    flag = "--" + field.replace("_", "-")
    value = {
        "vram_gb": ["24"], "mode": ["full"], "method": ["dpo"], "max_seq_length": ["512"], "batch_size": ["1"],
        "gradient_accumulation": ["2"], "preset": ["quality"], "rank": ["4"], "target_modules": ["q_proj"],
        "use_dora": [], "quantization": ["int8"], "dtype": ["float32"], "optim": ["sgd"], "gradient_checkpointing": [],
        "loss_chunk": ["0"], "packing": [], "full_ft_offload": [], "max_completion_length": ["1024"], "keep_last": ["7"], "keep_best": ["7"],
    }[field]  # fmt: skip
    base = ["qwen-2.5-0.5b", "--json", *([] if field == "vram_gb" else ["--vram-gb", "16"])]
    if field == "max_completion_length":
        base += ["--method", "grpo"]
    if field == "full_ft_offload":
        base += ["--mode", "full"]
    if field == "packing":
        base += ["--batch-size", "8"]
    before, after = (run(*base, *more) for more in ([], [flag, *value]))
    assert before.exit_code == after.exit_code == 0, after.output
    assert json.loads(before.output) != json.loads(after.output)
