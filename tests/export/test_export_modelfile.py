"""The Modelfile grammar: what is written is read back the same, and what cannot be written is refused."""

from __future__ import annotations

import pytest
from bp_export.ollama.modelfile import Modelfile, parse
from bp_merge.common import BpError
from hypothesis import given
from hypothesis import strategies as st

_PRINTABLE = st.text(st.characters(exclude_categories=("C",), include_characters="\n"), max_size=60)
_TEXT = _PRINTABLE.filter(lambda t: '"""' not in t and not t.endswith('"'))
_WORD = st.text(
    st.characters(categories=("L", "N"), include_characters="./-_ "), min_size=1, max_size=20
).filter(lambda t: t == t.strip() and t)


@given(
    from_=_WORD,
    adapter=st.none() | _WORD,
    template=st.none() | _TEXT,
    system=st.none() | _TEXT,
    stop=st.lists(_TEXT, max_size=3),
    temperature=st.none() | st.floats(0, 2).map(lambda f: float(f"{f:g}")) | st.integers(0, 9),
    licence=st.lists(_TEXT, max_size=2),
    messages=st.lists(st.tuples(st.sampled_from(["user", "assistant"]), _TEXT), max_size=3),
)
def test_round_trip(from_, adapter, template, system, stop, temperature, licence, messages):
    parameters = {
        **({"temperature": temperature} if temperature is not None else {}),
        **({"stop": stop} if stop else {}),
    }
    file = Modelfile(from_, adapter, template, system, parameters, tuple(licence), tuple(messages))
    assert parse(file.render()) == file


def test_the_grammar():
    text = (
        '# a comment\nfrom llama3.2:1b\nPARAMETER stop <|a|>\nparameter stop "b c"\nPARAMETER num_ctx 4096\n'
        'PARAMETER use_mmap true\nSYSTEM "say "hi""\nTEMPLATE """line 1\nline 2"""\nMESSAGE user hello there\n'
        "REQUIRES 0.30.0\n"
    )
    file = parse(text)
    assert file.from_ == "llama3.2:1b"
    assert file.parameters == {"stop": ["<|a|>", "b c"], "num_ctx": 4096, "use_mmap": True}
    assert file.system == 'say "hi"'
    assert file.template == "line 1\nline 2"
    assert file.messages == (("user", "hello there"),)
    assert file.request() == {
        "requires": "0.30.0",
        "template": "line 1\nline 2",
        "system": 'say "hi"',
        "parameters": {"stop": ["<|a|>", "b c"], "num_ctx": 4096, "use_mmap": True},
        "messages": [{"role": "user", "content": "hello there"}],
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no FROM"),
        ("SYSTEM hi\n", "no FROM"),
        ("FROM x\nNONSENSE y\n", "line 2"),
        ('FROM x\nSYSTEM """never closed\n', "no end"),
        ("FROM x\nPARAMETER stop\n", "line 2"),
        ("FROM x\nMESSAGE robot hi\n", "robot is no role"),
    ],
)
def test_broken_files_are_refused_with_the_line(text, told):
    with pytest.raises(BpError, match=told) as caught:
        parse(text)
    assert caught.value.code == "INPUT_MODELFILE_INVALID"


@pytest.mark.parametrize("system", ['has """ inside', 'ends with "'])
def test_what_cannot_be_written_is_refused(system):
    with pytest.raises(BpError, match="cannot express"):
        Modelfile("x", system=system).render()


def test_lost_characters_are_told():
    text = Modelfile("x", template="a\tb").render()
    assert text.startswith("# `ollama create -f` drops U+0009")
    assert parse(text).template == "a\tb"
