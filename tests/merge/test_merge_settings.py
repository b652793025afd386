"""`merge`, `models`, `bake` and `slao` are declared once: the Python calls have the flags' defaults and refusals."""

from __future__ import annotations

import inspect

import bp_merge
import numpy as np
import pytest
from bp_merge import models, slao
from bp_merge.bake import bake
from bp_merge.cli import cli
from bp_merge.common import BpError, knobs
from bp_merge.method import get_method, method_names
from bp_merge.settings import BakeSettings, MergeSettings, ModelsSettings, SlaoSettings
from tiny_adapters import adapter

CALLS = (
    ("merge", bp_merge.merge, MergeSettings, ()),
    ("models", models.merge_models, ModelsSettings, ()),
    ("bake", bake, BakeSettings, ("weights",)),
    ("slao", slao.step, SlaoSettings, ()),
)


@pytest.mark.parametrize(("command", "call", "cls", "elsewhere"), CALLS)
def test_a_knob_is_a_flag_and_a_keyword_with_one_default(command, call, cls, elsewhere):
    asked = inspect.signature(call).parameters
    flags = {f for p in cli.commands[command].params for f in p.opts}
    for k in knobs(cls):
        assert k.flag in flags
        if k.name not in elsewhere:
            name = next(n for n in (k.name, *k.keywords) if n in asked)
            assert asked[name].default == k.default, name


WRONG = {
    "weights": (lambda p: bp_merge.merge([adapter(1)], weights="one"), "weights must be a number"),
    "seed": (lambda p: bp_merge.merge([adapter(1)], seed=1.5), "seed must be a whole number"),
    "rank": (lambda p: bp_merge.merge([adapter(1)], rank="many"), "rank must be a whole number"),
    "energy": (lambda p: bp_merge.plan_merge([adapter(1)], energy=0), "energy must be greater than 0"),
    "missing": (lambda p: bp_merge.merge([adapter(1)], missing="one"), "missing must be one of error, zero"),
    "models": (lambda p: models.merge_models(p, [p], output=p / "o", seed="x"), "seed must be a whole"),
    "dtype": (lambda p: models.plan_models(p, [p], output=p / "o", dtype="int4"), "dtype must be one of"),
    "untie": (lambda p: bake(p, [adapter(1)], p / "o", untie="perhaps"), "untie must be true or false"),
    "variant": (lambda p: slao.step(None, adapter(1), variant="papr"), "variant must be one of paper"),
    "cosine": (lambda p: slao.step(None, adapter(1), min_cosine="nan"), "min_cosine must be a finite"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_call_refuses_what_its_flag_refuses(tmp_path, name):
    call, cause = WRONG[name]
    with pytest.raises(BpError) as error:
        call(tmp_path)
    assert error.value.code == "INPUT_VALIDATION_FAILED"
    assert cause in error.value.message
    assert error.value.hint.startswith("bp-merge ")


def test_a_value_is_read_alike_from_text_and_typed():
    one, two = adapter(1), adapter(2)
    typed = bp_merge.merge([one, two], "linear", [1.0, 0.5], rank=4, missing="zero")
    for weights in ("1,0.5", np.array([1, 0.5]), (x for x in (1, 0.5))):
        text = bp_merge.merge([one, two], "linear", weights, rank="4", missing="ZERO")
        assert text.weights == typed.weights == [1.0, 0.5]
        assert text.rank == typed.rank == 4


def test_the_default_of_a_parameter_is_a_value_that_it_takes():
    for name in method_names():
        made = get_method(name)
        defaults = {n: p.default for n, p in made.parameters.items()}
        assert made.check(defaults) == defaults
        for parameter in made.parameters:
            with pytest.raises(BpError, match=parameter):
                made.check({parameter: [object()]})
