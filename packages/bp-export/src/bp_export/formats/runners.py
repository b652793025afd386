"""How to run what was made: the layout that each program expects and the command line for it.

- LM Studio looks in `~/.lmstudio/models/OWNER/NAME/FILE.gguf`; `lm_studio` puts (or links) a file there.
- llama.cpp takes the file, vLLM and transformers the merged folder; vLLM takes an unmerged adapter beside its base.
- Quoting is POSIX's on POSIX and the double-quote form on Windows, so that the line can be pasted.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from bp_export.errors import BpError

LMSTUDIO_HOME = "LMSTUDIO_MODELS"
_VLLM_RANKS = (32, 64, 128, 256, 320, 512)


def commands_for(
    format: str, path: Path, base: str, *, name: str | None = None, rank: int = 0
) -> dict[str, str]:
    """Command lines that run a result, by program.

    Args:
        format: of the export.
        path: what was made.
        base: reference of the base model.
        name: of the Ollama model, where one was registered.
        rank: of the adapter; vLLM must be told of ranks beyond 16.

    >>> commands_for("merged", Path("out"), "x/y")["vllm"]
    'vllm serve out'
    """
    if format == "gguf":
        lines = {
            "llama.cpp": ["llama-cli", "-m", str(path), "-cnv"],
            "llama.cpp server": ["llama-server", "-m", str(path), "--port", "8080"],
            "ollama": ["ollama", "create", "NAME", "-f", str(path.parent / "Modelfile")],
            "lm studio": ["lms", "import", str(path)],
        }
    elif format in ("gguf-lora", "ollama-adapter"):
        lines = {"llama.cpp": ["llama-cli", "-m", "BASE.gguf", "--lora", str(path), "-cnv"]}
    elif format == "merged":
        lines = {
            "vllm": ["vllm", "serve", str(path)],
            "transformers": [
                "python",
                "-c",
                "from transformers import pipeline;"
                f" print(pipeline('text-generation', {str(path)!r})('Hello', max_new_tokens=20))",
            ],
        }
    else:
        lines = {
            "vllm": [
                *["vllm", "serve", base, "--enable-lora", "--lora-modules", f"adapter={path}"],
                *(
                    ["--max-lora-rank", str(next((r for r in _VLLM_RANKS if r >= rank), rank))]
                    if rank > 16
                    else []
                ),
            ],
            "transformers": [
                "python",
                "-c",
                "from peft import AutoPeftModelForCausalLM;"
                f" print(AutoPeftModelForCausalLM.from_pretrained({str(path)!r}))",
            ],
        }
    if name:
        lines["ollama"] = ["ollama", "run", name]
    return {program: line(words) for program, words in lines.items()}


def line(words: list[str]) -> str:
    """Words as one command line that this system's shell takes apart again the same way."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def lm_studio(gguf: Path, *, owner: str = "backprop", root: Path | None = None) -> Path:
    """Put a GGUF file where LM Studio finds it: a hard link where the disk allows, else a copy.

    Args:
        gguf: the file.
        owner: the folder that LM Studio shows as the publisher.
        root: LM Studio's model folder; `~/.lmstudio/models` unless given or named by LMSTUDIO_MODELS.

    Raises:
        BpError: `INPUT_OUTPUT_EXISTS` where another file has that place.
    """
    home = root or Path(os.environ.get(LMSTUDIO_HOME) or Path.home() / ".lmstudio" / "models")
    target = home / owner / gguf.stem / gguf.name
    if target.exists():
        if target.samefile(gguf) or target.stat().st_size == gguf.stat().st_size:
            return target
        raise BpError("INPUT_OUTPUT_EXISTS", f"{target} is another file", f"remove it first: {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(gguf, target)
    except OSError:  # another disk, or a file system without links
        partial = target.with_suffix(".partial")
        shutil.copyfile(gguf, partial)
        partial.replace(target)
    return target
