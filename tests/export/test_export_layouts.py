"""The command lines that a result prints, and the place where LM Studio looks."""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path

import pytest
from bp_export.formats.job import export
from bp_export.formats.runners import commands_for, line, lm_studio
from bp_merge.common import BpError
from tiny_models import build


def test_lines_survive_a_shell():
    words = ["llama-cli", "-m", "a folder/it's.gguf"]
    assert shlex.split(line(words), posix=True) == words


@pytest.mark.parametrize("format", ["lora", "merged", "gguf", "gguf-lora", "ollama-adapter"])
def test_every_format_has_its_lines(format):
    commands = commands_for(format, Path("out put"), "acme/base", name="m:1" if "gguf" in format else None)
    assert commands
    assert all("out put" in " ".join(shlex.split(c)) or "ollama run m:1" in c for c in commands.values())


def test_vllm_is_told_of_high_ranks():
    assert "--max-lora-rank" not in commands_for("lora", Path("a"), "x/y", rank=16)["vllm"]
    assert commands_for("lora", Path("a"), "x/y", rank=48)["vllm"].endswith("--max-lora-rank 64")


def test_the_transformers_line_runs(tmp_path):
    model = build("smollm2", tmp_path / "model")
    code = shlex.split(commands_for("merged", model, "x/y")["transformers"])
    assert code[:2] == ["python", "-c"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code[2].replace("max_new_tokens=20", "max_new_tokens=2"), {})
    assert "generated_text" in out.getvalue()


def test_lm_studio_finds_the_file(tmp_path, monkeypatch):
    model = build("smollm2", tmp_path / "model")
    monkeypatch.setenv("LMSTUDIO_MODELS", str(tmp_path / "lms"))
    result = export(model, format="gguf", quantization="q8_0", lm_studio=True)
    placed = tmp_path / "lms" / "backprop" / result.path.stem / result.path.name
    assert placed.read_bytes() == result.path.read_bytes()
    assert lm_studio(result.path) == placed
    other = tmp_path / "x" / result.path.name
    other.parent.mkdir()
    other.write_bytes(b"GGUF and more")
    with pytest.raises(BpError) as caught:
        lm_studio(other)
    assert caught.value.code == "INPUT_OUTPUT_EXISTS"
