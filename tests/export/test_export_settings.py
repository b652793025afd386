"""`push`, `pull` and `register` are declared once: the Python calls have the flags' defaults and refusals."""

from __future__ import annotations

import inspect

import bp_export
import pytest
from bp_export.formats.settings import ExportSettings
from bp_export.hub.settings import PullSettings, PushSettings
from bp_export.ollama.settings import RegisterSettings, ServerSettings
from bp_merge.common import BpError, knobs

CALLS = (
    (bp_export.push, PushSettings),
    (bp_export.pull, PullSettings),
    (bp_export.register, RegisterSettings),
)


@pytest.mark.parametrize(("call", "cls"), CALLS)
def test_a_call_has_a_keyword_per_knob_with_its_default(call, cls):
    asked = inspect.signature(call).parameters
    for k in knobs(cls):
        name = next(n for n in (k.name, *k.keywords) if n in asked)
        assert asked[name].default == k.default, name


WRONG = (
    (lambda p: bp_export.push(p, "me/x", card="perhaps"), "card must be true or false"),
    (lambda p: bp_export.push(p, "me/x", token_file=""), "token_file must be a path"),
    (lambda p: bp_export.push(p, "me/x", revision=7), "revision must be text"),
    (lambda p: bp_export.pull("me/x", ""), "output must be a path"),
    (lambda p: bp_export.pull("me/x", p, no_overwrite="perhaps"), "no_overwrite must be true or false"),
    (lambda p: bp_export.register(p, 7, client=None), "name must be text"),
    (lambda p: bp_export.register(p, client=None, base=["a"]), "base_model must be text"),
    (lambda p: bp_export.register(p, client=None, smoke="perhaps"), "smoke must be true or false"),
)


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_call_refuses_what_its_flag_refuses(tmp_path, number):
    call, cause = WRONG[number]
    with pytest.raises(BpError) as error:
        call(tmp_path)
    assert error.value.code == "INPUT_VALIDATION_FAILED"
    assert cause in error.value.message
    assert error.value.hint.startswith("backprop ")


def test_export_takes_over_what_register_and_the_server_declare():
    every = {k.name: k for k in knobs(ExportSettings)}
    for name, cls, theirs in (
        ("modelfile", RegisterSettings, "modelfile"),
        ("system", RegisterSettings, "system"),
        ("smoke", RegisterSettings, "smoke"),
        ("ollama_host", ServerSettings, "host"),
        ("hub_token_file", PullSettings, "token_file"),
    ):
        other = {k.name: k for k in knobs(cls)}[theirs]
        ours = every[name]
        assert (ours.type, ours.default, ours.bounds) == (other.type, other.default, other.bounds)
