"""Every code of bp-merge, provoked through its public calls, and caught by `bp_merge.BpError`."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import namedtuple

import bp_merge
import numpy as np
import pytest
from bp_merge import slao
from bp_merge.bake import bake, plan_bake
from bp_merge.errors import CODES
from provoked import provoke, without_a_row
from safetensors.numpy import save_file
from test_bake import H, Q, V, base, lora, tie  # noqa: F401 - a fixture
from test_merge_plugin import install
from tiny_adapters import NAMES, adapter


class Place:
    """A folder with a base model, and what each row needs of the surroundings."""

    def __init__(self, folder, model, monkeypatch):
        self.folder, self.base, self.patch = folder, model, monkeypatch
        self.out = folder / "out"

    def config(self, file, **fields):
        path = self.folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    def text(self, name, text=""):
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)
        return self.folder / name

    def one(self, **fields):
        path = adapter(1).save(self.folder / "one")
        if fields:
            self.config("one/adapter_config.json", **fields)
        return path

    def model(self, name, tensors=None, **config):
        folder = self.folder / name
        folder.mkdir()
        save_file(tensors or {"w": np.ones((4, 4), np.float32)}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "x", **config}))
        return folder


def load(p, **fields):
    return bp_merge.Adapter.load(p.one(**fields))


def cut(p):
    path = p.one()
    file = path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    return bp_merge.Adapter.load(path)


def nan(p):
    broken = adapter(1)
    broken.modules[NAMES[0]].a[0, 0] = np.nan
    return bp_merge.Adapter.load(broken.save(p.folder / "nan"))


def full_disk(p):
    usage = namedtuple("usage", "total used free")
    p.patch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 0))
    bake(p.base, [lora()], p.out)


def interrupted(p):
    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        bake(p.base, [lora()], p.out, dtype="f32", progress=stop)
    bake(p.base, [lora()], p.out, dtype="bf16")


def plugin(p):
    (p.folder / "site").mkdir()
    for path in install(p.folder / "site", p.folder, {"nothing": "json:loads"}):
        p.patch.syspath_prepend(path)
    bp_merge.merge([adapter(1), adapter(2)], "nothing")


def tied(p):
    tie(p.base)
    bake(p.base, [lora(["lm_head"], shape=(V, H))], p.out)


def resized(p):
    whole = bp_merge.Adapter(
        lora().modules, lora().config, full={"model.embed_tokens.weight": np.ones((V + 2, H), np.float32)}
    )
    bake(p.base, [whole], p.out)


def moments(p, modules=NAMES):
    file = p.folder / "moments.safetensors"
    width = 16 if len(modules) == 1 else 5  # the adapter's is 16
    sketch = bp_merge.Sketch(width)
    sketch.update(np.ones((3, width), np.float32))
    bp_merge.save_moments(file, {"k": sketch}, dict.fromkeys(modules, "k"))
    bp_merge.merge([adapter(1), adapter(2)], "regmean", moments=[file, file])


def models(p, count=2, **more):
    made = [p.model(f"m{i}") for i in range(count)]
    bp_merge.merge_models(p.model("b"), made, output=p.out, **more)


def quantised(p):
    p.config("base/config.json", quantization_config={"quant_method": "gptq"})
    bake(p.base, [lora()], p.out)


def checkpoint_read(p, name):
    with bp_merge.Checkpoint.open(p.model("m", {"ids": np.arange(3), "w": np.ones(2, np.float32)})) as found:
        found.read(name)


def state(p, text):
    p.text("state/slao.json", text)
    bp_merge.SlaoState.load(p.folder / "state")


def pair():
    return [adapter(1), adapter(2)]


ROWS = {
    # files
    "weights cut": ("INPUT_FILE_INVALID", "adapter_model.safetensors", cut),
    "no safetensors file": (
        "INPUT_FILE_INVALID",
        "cut off",
        lambda p: bp_merge.inspect(p.text("x.safetensors", "hello")),
    ),
    "moments are not there": (
        "INPUT_FILE_INVALID",
        "No such file",
        lambda p: bp_merge.Moments.load(p.folder / "no"),
    ),
    "no model folder": (
        "INPUT_CHECKPOINT_INVALID",
        "no such folder",
        lambda p: bp_merge.Checkpoint.open("no"),
    ),
    "an empty model folder": (
        "INPUT_CHECKPOINT_INVALID",
        "neither model.safetensors",
        lambda p: bp_merge.Checkpoint.open(p.text("m/config.json", "{}").parent),
    ),
    "a damaged index": (
        "INPUT_CHECKPOINT_INVALID",
        "cannot be used",
        lambda p: bp_merge.Checkpoint.open(p.text("m/model.safetensors.index.json", "[1").parent),
    ),
    "a shard is missing": (
        "INPUT_CHECKPOINT_INVALID",
        "is missing",
        lambda p: bp_merge.Checkpoint.open(
            p.text("m/model.safetensors.index.json", '{"weight_map": {"a": "b.safetensors"}}').parent
        ),
    ),
    "no such tensor": ("INPUT_TENSOR_MISSING", "no tensor nothing", lambda p: checkpoint_read(p, "nothing")),
    "a tensor of integers": (
        "INPUT_DTYPE_UNSUPPORTED",
        "is stored as I64",
        lambda p: checkpoint_read(p, "ids"),
    ),
    # adapters
    "no adapter folder": ("INPUT_ADAPTER_INVALID", "no such folder", lambda p: bp_merge.Adapter.load("no")),
    "no configuration": (
        "INPUT_ADAPTER_INVALID",
        "no adapter_config.json",
        lambda p: bp_merge.Adapter.load(p.text("a/x").parent),
    ),
    "a pickle": (
        "INPUT_ADAPTER_INVALID",
        "pickle is not read",
        lambda p: bp_merge.Adapter.load(
            (p.text("a/adapter_model.bin"), p.text("a/adapter_config.json", '{"peft_type": "LORA"}'))[
                0
            ].parent
        ),
    ),
    "the configuration is a list": (
        "INPUT_ADAPTER_INVALID",
        "is no object",
        lambda p: bp_merge.Adapter.load(p.text("a/adapter_config.json", "[]").parent),
    ),
    "targets of numbers": ("INPUT_ADAPTER_INVALID", "target_modules", lambda p: load(p, target_modules=[1])),
    "an infinite alpha": (
        "INPUT_ADAPTER_INVALID",
        "finite numbers",
        lambda p: load(p, lora_alpha=float("inf")),
    ),
    "a broken pattern": (
        "INPUT_ADAPTER_INVALID",
        "no regular expression",
        lambda p: load(p, rank_pattern={"(": 4}),
    ),
    "another rank": ("INPUT_ADAPTER_INVALID", "has rank 3", lambda p: load(p, r=5)),
    "another kind of adapter": ("INPUT_ADAPTER_UNSUPPORTED", "IA3", lambda p: load(p, peft_type="IA3")),
    "experts": (
        "INPUT_ADAPTER_UNSUPPORTED",
        "mixture of experts",
        lambda p: load(p, target_parameters=["gate_up_proj"]).save("never-written"),
    ),
    "weights of NaN": ("INPUT_NOT_FINITE", "NaN", nan),
    "inputs of NaN": (
        "INPUT_NOT_FINITE",
        "NaN",
        lambda p: bp_merge.Sketch(3).update(np.full((1, 3), np.nan, np.float32)),
    ),
    # merging
    "an unknown method": (
        "INPUT_VALIDATION_FAILED",
        "did you mean ties",
        lambda p: bp_merge.merge(pair(), "tise"),
    ),
    "an unknown parameter": (
        "INPUT_VALIDATION_FAILED",
        "dens",
        lambda p: bp_merge.merge(pair(), "ties", dens=0.5),
    ),
    "a density out of bounds": (
        "INPUT_VALIDATION_FAILED",
        "density",
        lambda p: bp_merge.merge(pair(), "ties", density=3),
    ),
    "weights that are too many": (
        "INPUT_VALIDATION_FAILED",
        "weights",
        lambda p: bp_merge.merge(pair(), weights=[1, 2, 3]),
    ),
    "weights of NaN in a merge": (
        "INPUT_VALIDATION_FAILED",
        "",
        lambda p: bp_merge.merge(pair(), weights=[1, float("nan")]),
    ),
    "nothing to merge": ("INPUT_VALIDATION_FAILED", "", lambda p: bp_merge.merge([])),
    "slerp of three": (
        "INPUT_VALIDATION_FAILED",
        "two adapters",
        lambda p: bp_merge.merge([*pair(), adapter(3)], "slerp"),
    ),
    "moments for a method that reads none": (
        "INPUT_VALIDATION_FAILED",
        "reads no input moments",
        lambda p: bp_merge.merge(pair(), "linear", moments=["x"]),
    ),
    "too few moments": (
        "INPUT_VALIDATION_FAILED",
        "one file of input moments",
        lambda p: bp_merge.plan_merge(pair(), "regmean", moments=["x"]),
    ),
    "a negative rank": ("INPUT_VALIDATION_FAILED", "rank", lambda p: bp_merge.merge(pair(), rank=0)),
    "an energy above one": (
        "INPUT_VALIDATION_FAILED",
        "energy",
        lambda p: bp_merge.merge(pair(), energy=2.0),
    ),
    "adapters of other modules": (
        "INPUT_ADAPTERS_MISMATCH",
        "lacks",
        lambda p: bp_merge.merge([adapter(1), adapter(2, names=NAMES[:1])]),
    ),
    "adapters of other shapes": (
        "INPUT_ADAPTERS_MISMATCH",
        "shapes",
        lambda p: bp_merge.merge([adapter(1), adapter(2, n=8)]),
    ),
    "a comparison of other shapes": (
        "INPUT_ADAPTERS_MISMATCH",
        "in one and",
        lambda p: bp_merge.compare(adapter(1), adapter(2, n=8)),
    ),
    "an entry point that is no method": ("INPUT_METHOD_INVALID", "was not made with @method", plugin),
    "moments without a module": (
        "INPUT_MOMENTS_INVALID",
        "lacks moments",
        lambda p: moments(p, modules=NAMES[:1]),
    ),
    "moments of another width": ("INPUT_MOMENTS_INVALID", "do not fit", moments),
    "a file without moments": (
        "INPUT_MOMENTS_INVALID",
        "holds no moments",
        lambda p: bp_merge.Moments.load(p.one() / "adapter_model.safetensors"),
    ),
    # models
    "models of another vocabulary": (
        "INPUT_MODELS_MISMATCH",
        "differ in",
        lambda p: bp_merge.merge_models(
            p.model("b"), [p.model("m"), p.model("n", {"v": np.ones(3, np.float32)})], output=p.out
        ),
    ),
    "an unknown method of models": (
        "INPUT_VALIDATION_FAILED",
        "no method for models",
        lambda p: models(p, method="tiez"),
    ),
    "one model for slerp": ("INPUT_VALIDATION_FAILED", "exactly two", lambda p: models(p, 1, method="slerp")),
    "weights of models": ("INPUT_VALIDATION_FAILED", "need 2 finite", lambda p: models(p, weights=[1])),
    "a quantised model": (
        "INPUT_QUANTIZED_BASE",
        "quantised",
        lambda p: bp_merge.merge_models(
            p.model("q", quantization_config={"quant_method": "awq"}),
            [p.model("m"), p.model("n")],
            output=p.out,
        ),
    ),
    # baking
    "a module that the base lacks": (
        "INPUT_WRONG_BASE",
        "layers.9",
        lambda p: bake(p.base, [lora(["model.layers.9.self_attn.q_proj"])], p.out),
    ),
    "a shape that the base has not": (
        "INPUT_WRONG_BASE",
        "16 × 25",
        lambda p: plan_bake(p.base, [lora(shape=(Q, H + 1))], p.out),
    ),
    "a quantised base": ("INPUT_QUANTIZED_BASE", "gptq", quantised),
    "one side of a tie": ("INPUT_TIED_EMBEDDING", "tied", tied),
    "a resized vocabulary": ("INPUT_EMBEDDINGS_MISSING", "vocabulary was resized", resized),
    "an output that exists": ("INPUT_PATH_EXISTS", "", lambda p: bake(p.base, [lora()], p.base)),
    "values past f16": (
        "RUNTIME_OVERFLOW",
        "65504",
        lambda p: bake(p.base, [lora(scale=1e5)], p.out, dtype="f16"),
    ),
    "another number type": (
        "INPUT_VALIDATION_FAILED",
        "int4",
        lambda p: bake(p.base, [lora()], p.out, dtype="int4"),
    ),
    "begun with other settings": ("STATE_RESUME_MISMATCH", "never finished", interrupted),
    "a full disk": ("RUNTIME_DISK_FULL", "GB are free", full_disk),
    "a folder below a file": (
        "RUNTIME_WRITE_FAILED",
        "Not a directory",
        lambda p: bp_merge.merge(pair(), output=p.text("file") / "below"),
    ),
    # SLAO
    "a damaged state": ("STATE_INVALID", "no usable SLAO state", lambda p: state(p, "{")),
    "a state of another version": ("STATE_INVALID", "no usable SLAO state", lambda p: state(p, "[]")),
    "a weight beyond one": (
        "INPUT_VALIDATION_FAILED",
        "within [0, 1]",
        lambda p: slao.step(slao.step(None, adapter(1)).state, adapter(2), weight=3.0),
    ),
    "another variant": (
        "INPUT_VALIDATION_FAILED",
        "variant must be one of paper, delta",
        lambda p: slao.step(None, adapter(1), variant="x"),
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_one_class_catches_it_with_cause_and_hint(row, tmp_path, base, monkeypatch):  # noqa: F811
    code, cause, call = ROWS[row]
    provoke(bp_merge.BpError, code, cause, lambda: call(Place(tmp_path, base, monkeypatch)))


def test_every_code_has_a_row():
    assert without_a_row(CODES, ROWS) == set()
    assert len(ROWS) > 40


@pytest.mark.parametrize(
    "call",
    [
        lambda: bp_merge.save_moments("x", {}, {"m": "k"}),
        lambda: bp_merge.merge(3),
        lambda: bp_merge.Adapter.load(None),
    ],
)
def test_a_wrong_argument_to_a_function_is_pythons_own_error(call):
    with pytest.raises((TypeError, ValueError)):
        call()
