"""What the documents of other tools name is accepted here, or the migration page names what stands for it."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest
from parity import choices, command, default, facts, flag, told

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


def same(theirs: str, ours: str) -> bool:
    """Whether two defaults are one: nothing, `auto` and what the program decides are; numbers by value."""
    nothing = ("", "unset", "auto", "required")
    if theirs.lower() in nothing and ours.lower() in nothing:
        return True
    if theirs.lower() in nothing:
        return " " in ours  # a sentence that says what is decided, and how
    try:
        return float(theirs) == float(ours)
    except ValueError:
        return theirs in (ours, *ours.replace(",", " ").replace(";", " ").replace(".", " ").split())


def each(kind: str):
    return pytest.mark.parametrize("fact", facts(kind), ids=str)


@each("verb")
def test_verb(fact):
    assert command(fact.name) is not None or told(fact.name)


@each("flag")
def test_flag(fact):
    names = fact.name.split()
    for name in names:
        assert flag(fact.where, name) is not None or told(name), name
    option = flag(fact.where, names[0])
    if option is not None and not same(fact.value, default(option)):
        assert any(map(told, names)), (fact.value, default(option))


@each("arguments")
def test_arguments(fact):
    owner = command(fact.where)
    takes = [p for p in owner.params if p.param_type_name == "argument"]
    assert len(takes) == int(fact.name) or any(p.nargs == -1 for p in takes)


@each("value")
def test_value(fact):
    from bp_core.settings.knobs import KEYWORDS
    from bp_core.settings.resolve import resolve

    verb, _, name = fact.where.rpartition(" ")
    option = flag(verb, name)
    assert option is not None
    if named := choices(option):
        assert fact.name.lower() in named or told(fact.name)
    elif name == "--metric":
        from bp_core.evaluation.metrics import get_metric

        get_metric(fact.name)
    elif name == "--merge-strategy":
        from bp_core.continual.merging import check

        check(resolve({"merge_strategy": fact.name}))
    elif verb in ("validate", "data report"):
        from bp_data.formats import NAMES

        assert fact.name in NAMES
    else:
        resolve({KEYWORDS[option.name]: fact.name})


@each("override")
def test_override(fact):
    from bp_core.settings.knobs import KEYWORDS

    assert fact.name in KEYWORDS


@each("exit")
def test_exit(fact):
    from bp_merge.common import Exit

    assert Exit[fact.value] == int(fact.name)


@each("error")
def test_error(fact):
    from bp_cli.codes import rows

    exits = {row.exit_code for row in rows() if row.code == fact.name}
    if not exits:
        assert told(fact.name)
    elif fact.value and int(fact.value) not in exits:
        assert told(fact.name), exits


@each("variable")
def test_variable(fact, monkeypatch):
    from bp_core.settings.knobs import GROUPS
    from bp_core.settings.variables import VARIABLES
    from bp_merge.common import knobs
    from bp_ui.settings import UiSettings

    own = {
        name: knob.help if knob.default is None else knob.default
        for group, cls in [*GROUPS.items(), ("ui", UiSettings)]
        for knob in knobs(cls)
        for name in (
            *knob.env,
            *(f"BACKPROPAGATE_{group}__{n}".upper() for n in (knob.name, *knob.keywords)),
        )
    } | dict.fromkeys(VARIABLES, "")
    if fact.name not in own:
        assert told(fact.name)
    elif fact.value and not same(fact.value, str(own[fact.name]).replace(str(Path.home()), "~")):
        assert told(fact.name), own[fact.name]


@each("keyword")
def test_keyword(fact):
    from bp_core import Trainer
    from bp_core.settings.knobs import KEYWORDS

    call = {
        "Trainer": Trainer.__init__,
        "Trainer.train": Trainer.train,
        "Trainer.export": Trainer.export,
        "Trainer.multi_run": getattr(Trainer, "multi_run", None),
    }[fact.where]
    session: set[str] = set()
    if fact.where == "Trainer.multi_run":
        from bp_core.settings.groups.session import SessionSettings
        from bp_merge.common import knobs

        session = {n for k in knobs(SessionSettings) for n in (k.name, *k.keywords)}
        session |= {"steps_per_run", "samples_per_run"}  # tests/core/test_continual.py calls with them
    known = {*inspect.signature(call).parameters, *KEYWORDS, *session} if call else set()
    if fact.where == "Trainer.export":
        from bp_export.formats.settings import ExportSettings
        from bp_merge.common import knobs

        known |= {n for k in knobs(ExportSettings) for n in (k.name, *k.keywords)}
    assert fact.name in known or told(fact.name)


@each("name")
def test_name(fact):
    import bp_core

    owner, _, name = fact.name.rpartition(".")
    found = getattr(bp_core, owner, None)
    ours = hasattr(found, name) or name in getattr(found, "__dataclass_fields__", ())
    assert ours or told(fact.name) or told(name)


@each("extra")
def test_extra(fact):
    assert fact.name in EXTRAS or told(fact.name)


@each("preset")
def test_preset(fact):
    from bp_core.memory.shortlist import listed

    assert listed(fact.name) is not None or told(fact.name)


@each("file")
def test_file(fact):
    assert (ROOT / fact.name).is_file() or told(fact.name)


@each("reward")
def test_reward(fact):
    from bp_core.rewards.presets import PRESETS

    assert fact.name in {preset.title for preset in PRESETS.values()}


@each("rest")
def test_rest(fact):
    from bp_ui.api.aliases import router

    known = {(r.path, m) for r in router.routes for m in r.methods}
    assert (fact.name, fact.where) in known or told(f"{fact.where} {fact.name}")


@each("event")
def test_event(fact):
    from bp_ui.api import stream

    assert fact.name in inspect.getsource(stream) or told(fact.name)


@each("dataset")
def test_dataset(fact):
    from bp_data.sources.streams import SUFFIXES

    assert f".{fact.name}" in SUFFIXES


@each("metric")
def test_metric(fact):
    from bp_core.evaluation.metrics import get_metric

    assert told(fact.name) or get_metric(fact.name)


def test_the_finder_finds():
    assert told("--push", "| `export --push` | `backprop push` |")
    assert not told("--pus", "| `export --push` | `backprop push` |")
    assert not told("push", "| `x` | `backprop push` |")
