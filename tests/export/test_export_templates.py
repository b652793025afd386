"""Chat templates: the Go template derived from a Jinja writes the same text, and invents nothing."""

from __future__ import annotations

import json

import pytest
from bp_export.ollama.register import compose
from bp_export.ollama.template import probe, render_jinja, renders_tools
from go_template import render as render_go
from hypothesis import given, settings
from hypothesis import strategies as st

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    + CHATML
)
LLAMA3 = (
    "{{- bos_token }}{% for m in messages %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{{- m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA31 = (
    "{{- bos_token }}{% if messages[0]['role'] == 'system' %}{% set sys = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% else %}{% set sys = '' %}{% endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n' + sys + '<|eot_id|>' }}"
    "{% for m in messages %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set first = '' %}{% set loop_messages = messages %}{% endif %}"
    "{% for m in loop_messages %}{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}"
    "{% set role = m['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}"
    "{{ m['content'] | trim }}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set sys = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% if loop.last and sys is defined %}{{ '[INST] ' + sys + '\n\n' + m['content'] + '[/INST]' }}{% else %}"
    "{{ '[INST] ' + m['content'] + '[/INST]' }}{% endif %}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set sys = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set sys = false %}{% endif %}"
    "{% for m in loop_messages %}{% if loop.index0 == 0 and sys %}"
    "{% set content = '<<SYS>>\n' + sys + '\n<</SYS>>\n\n' + m['content'] %}{% else %}{% set content = m['content'] %}"
    "{% endif %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content + ' [/INST]' }}{% else %}"
    "{{ ' ' + content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SMOLLM3 = (
    "{% set today = strftime_now('%d %B %Y') %}<|im_start|>system\n{{ '## Metadata\nToday: ' + today + '\n\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% else %}{{ 'You are a helper.' }}{% endif %}"
    "<|im_end|>\n{% for m in messages %}{% if m['role'] != 'system' %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BRACES = (
    "{% for m in messages %}{{ '{{' + m['role'] + '}}: ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '{{assistant}}: ' }}{% endif %}"
)

FAMILIES = {
    "chatml": (CHATML, None, "<|im_end|>", False),
    "chatml-default": (CHATML_DEFAULT, None, "<|im_end|>", False),
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>", True),
    "llama3.1": (LLAMA31, "<|begin_of_text|>", "<|eot_id|>", True),
    "gemma3": (GEMMA3, "<bos>", "<eos>", True),
    "gemma2": (GEMMA2, "<bos>", "<eos>", True),
    "mistral": (MISTRAL, "<s>", "</s>", True),
    "llama2": (LLAMA2, "<s>", "</s>", True),
    "phi3": (PHI3, None, "<|endoftext|>", False),
    "smollm3": (SMOLLM3, None, "<|im_end|>", False),
    "braces": (BRACES, None, "<eos>", False),
}
STOPS = {
    "chatml": {"<|im_start|>", "<|im_end|>"},
    "llama3": {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
    "gemma3": {"<start_of_turn>", "<end_of_turn>"},
    "mistral": {"[INST]", "[/INST]"},
    "phi3": {"<|user|>", "<|assistant|>", "<|system|>", "<|end|>"},
}
_TEXT = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)


def _conversation(texts, system=None):
    turns = [{"role": "assistant" if i % 2 else "user", "content": t} for i, t in enumerate(texts)]
    return [{"role": "system", "content": system}, *turns] if system else turns


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(texts=st.lists(_TEXT, min_size=1, max_size=7).filter(lambda t: len(t) % 2), system=st.none() | _TEXT)
def test_go_template_writes_what_the_jinja_writes(name, texts, system):
    jinja, bos, eos, adds_bos = FAMILIES[name]
    found = probe(jinja, bos=bos, eos=eos, adds_bos=adds_bos)
    assert found is not None
    conversation = _conversation(texts, system)
    wanted = render_jinja(jinja, conversation, bos=bos, eos=eos)
    if name == "gemma2" and system:
        assert wanted is None
        wanted = render_jinja(jinja, _conversation([f"{system}\n\n{texts[0]}", *texts[1:]]), bos=bos, eos=eos)
    assert wanted is not None
    wanted = wanted.removeprefix(bos) if adds_bos else wanted
    assert render_go(found.go_template(), conversation) == wanted
    assert found.render(conversation) == wanted


@pytest.mark.parametrize("name", STOPS)
def test_stop_texts_are_the_markers_of_the_format(name):
    jinja, bos, eos, adds_bos = FAMILIES[name]
    found = probe(jinja, bos=bos, eos=eos, adds_bos=adds_bos)
    assert found is not None
    assert STOPS[name] <= set(found.stop)
    assert bos not in found.stop


def test_bos_stays_where_the_tokenizer_does_not_add_it():
    found = probe(LLAMA3, bos="<|begin_of_text|>", eos="<|eot_id|>", adds_bos=False)
    assert found is not None
    assert found.go_template().startswith("<|begin_of_text|>")


def test_a_template_that_is_more_than_a_frame_is_left_alone():
    counted = "{% for m in messages %}{{ loop.index0 ~ m['content'] ~ '\n' }}{% endfor %}"
    assert probe(counted) is None
    assert probe("{{ messages | length }}") is None
    assert probe("{% broken") is None


def test_a_hostile_template_reaches_nothing():
    hostile = (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    assert probe(hostile) is None


@pytest.mark.real
@pytest.mark.parametrize("name", ["qwen3", "llama31"])
def test_real_templates_are_written_as_go(name):
    import real
    from bp_export.adapter.tokenizer_files import chat_template, special_tokens

    folder = {"qwen3": real.qwen3_tokenizer_dir, "llama31": real.llama31_tokenizer_dir}[name]()
    jinja, special = chat_template(folder), special_tokens(folder)
    assert jinja is not None
    found = probe(jinja, bos=special.bos, eos=special.eos, adds_bos=bool(special.bos))
    assert found is not None
    for texts in (["Hi"], ["What is 2 {{+}} 2?", "4", "Sure?"], ["a", "b", "c", "d", "e"]):
        for system in (None, "Be brief.\nAlways."):
            conversation = _conversation(texts, system)
            wanted = render_jinja(jinja, conversation, bos=special.bos, eos=special.eos)
            assert wanted is not None
            assert render_go(found.go_template(), conversation) == wanted.removeprefix(special.bos or "")


HERMES = (
    "{% if tools %}<|im_start|>system\n{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' }}"
    "{% endif %}<tools>{% for t in tools %}{{ '\n' }}{{ t | tojson }}{% endfor %}\n</tools><|im_end|>\n"
    "{% elif messages[0]['role'] == 'system' %}<|im_start|>system\n{{ messages[0]['content'] }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m['role'] != 'system' %}<|im_start|>{{ m['role'] + '\n' + m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ '<tool_call>\n' }}{{ c.function | tojson }}{{ '\n</tool_call>' }}{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM_ONLY = (
    "{% for m in messages %}{% if m['role'] == 'system' %}<|im_start|>system\n{{ m['content'] }}"
    "{% if tools %}{{ tools | tojson }}{% endif %}<|im_end|>\n{% else %}"
    "<|im_start|>{{ m['role'] + '\n' + m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MACRO = (
    "{% macro say(t) %}{{ t | tojson }}{% endmacro %}{% for t in tools or [] %}{{ say(t) }}{% endfor %}"
    + CHATML
)
CALLS_ONLY = CHATML.replace(
    "{% endfor %}", "{% for c in m.tool_calls or [] %}{{ c.function.arguments }}{% endfor %}{% endfor %}", 1
)
RAISES = "{% if tools %}{{ raise_exception('no tools') }}{% endif %}" + CHATML


@pytest.mark.parametrize(
    "jinja", [HERMES, SYSTEM_ONLY, MACRO, CALLS_ONLY], ids=["hermes", "system-only", "macro", "calls-only"]
)
def test_a_template_that_writes_tools_is_left_to_the_jinja(jinja):
    keys = {"tokenizer.chat_template": jinja, "tokenizer.ggml.tokens": ["<|im_end|>"]}
    file, origin = compose("./m.gguf", keys)
    assert (file.template, origin) == (None, "native")
    assert "# The chat template inside the GGUF file is used (Ollama 0.30" in file.render()
    assert "TEMPLATE" not in file.render()
    assert "<|im_end|>" in file.parameters["stop"]


@pytest.mark.parametrize("jinja", [RAISES, *(FAMILIES[n][0] for n in FAMILIES)], ids=["raises", *FAMILIES])
def test_a_template_without_tools_keeps_its_go_text(jinja):
    assert renders_tools(jinja) is False
    told = compose("./m.gguf", {"tokenizer.chat_template": jinja})[0].render()
    assert (
        "# This TEMPLATE writes system, user and assistant; messages of the role tool are left out." in told
    )


def test_an_older_server_gets_the_frame():
    file, origin = compose("./m.gguf", {"tokenizer.chat_template": HERMES}, native=False)
    assert origin == "derived"
    assert file.template is not None


def test_generation_marks_write_their_body():
    marked = CHATML.replace("{{ '<|im_start|>'", "{% generation %}{{ '<|im_start|>'", 1).replace(
        "+ '\n' }}{% endfor %}", "+ '\n' }}{% endgeneration %}{% endfor %}"
    )
    found = probe(marked, eos="<|im_end|>")
    assert found is not None
    assert found == probe(CHATML, eos="<|im_end|>")


def test_a_real_template_with_tools_is_left_to_the_jinja():
    import real

    folder = real.qwen3_tokenizer_dir()
    jinja = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))["chat_template"]
    file, origin = compose("./m.gguf", {"tokenizer.chat_template": jinja})
    assert (file.template, origin) == (None, "native")
    assert file.parameters["stop"]
