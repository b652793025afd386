"""SIGKILL at every step of every export: nothing half-written has a name, and the next call finishes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from adapters import write_adapter
from tiny_models import build

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and fork are POSIX's")

# Each attempt is a fork of one interpreter that has imported everything and started no thread. A step is a file
# system call that changes something below the adapter's folder, or a call of `progress`.
_HARNESS = """
import json, os, signal, sys
from pathlib import Path
import bp_export.checks, bp_export.export, bp_export.formats, bp_export.gguf.lora, bp_export.gguf.write
import bp_export.merged, bp_export.modelfile, bp_export.ollama_register, bp_export.verify, bp_merge.bake, jinja2

adapter, format, quantization, moments = Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
out = adapter / format
bp_export.gguf.write._FLUSH_EVERY = 1 << 18
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
left, seen = -1, 0

def step():
    global left, seen
    seen += 1
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def hook(name, args):
    if left == -1 and not counting:
        return
    if name in CHANGES or (name == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
        if isinstance(args[0], (str, bytes)) and os.fsdecode(args[0]).startswith(str(adapter)):
            step()

counting = False
sys.addaudithook(hook)

def attempt(kill_at=0):
    "Export in a fork; its number of steps, or None where it was killed."
    global left, counting
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        left, counting = kill_at or -1, True
        try:
            bp_export.export.export(adapter, format=format, quantization=quantization, progress=lambda *_: step())
            os.write(write, str(seen).encode())
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    _, status = os.waitpid(child, 0)
    told = os.read(read, 20)
    os.close(read)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), code
    return int(told) if code == 0 else None

def files():
    "Name -> contents of what a user sees; the record holds times."
    found = [p for p in sorted(out.rglob("*")) if p.is_file()] if out.exists() else []
    return {str(p.relative_to(out)): p.read_bytes() for p in found if not p.name.endswith("export.json")}

def litter():
    seen = [p.name for p in adapter.iterdir() if p.name.startswith(f".{format}")]
    hidden = (".partial", ".unchecked", ".journal", ".lock", ".written", ".head")
    return seen + [p.name for p in (out.rglob("*") if out.exists() else []) if p.name.endswith(hidden)]

import shutil
steps = attempt()
whole = files()
assert whole and not litter()
tried = sorted({max(1, min(steps, round(m * steps))) for m in moments}) if moments else range(1, steps + 1)
for moment in tried:
    shutil.rmtree(out)
    killed = attempt(moment) is None
    for name, data in files().items():
        if not name.endswith((".partial", ".unchecked", ".journal", ".lock", ".written", ".head")):
            hidden = Path(name).name.startswith(".")  # a text file on its way
            assert hidden or data == whole[name], f"{name} is not whole after a kill at step {moment} of {steps}"
    assert attempt() is not None
    assert files() == whole, f"after a kill at step {moment} of {steps}: {sorted(files())}"
    assert not litter(), f"after a kill at step {moment} of {steps}: {litter()}"
print(json.dumps({"steps": steps, "killed": len(tried)}))
"""

KINDS = [
    ("lora", "f16"),
    ("merged", "f16"),
    ("gguf", "f16"),
    ("gguf", "q4_k_m"),
    ("gguf-lora", "f16"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    base = build("llama3", tmp_path_factory.mktemp("models") / "tiny-base")
    folder = write_adapter(
        tmp_path_factory.mktemp("adapters") / "law",
        base_ref=str(base),
        base_path=base,
        modules=("self_attn.q_proj", "self_attn.o_proj"),
        scale=0.1,
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, folder / name)
    return folder


def sweep(adapter: Path, format: str, quantization: str, moments: list[float]) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", _HARNESS, str(adapter), format, quantization, json.dumps(moments)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("format", "quantization"), KINDS)
def test_a_killed_export_is_finished_by_the_next_call(tmp_path, made, format, quantization):
    adapter = Path(shutil.copytree(made, tmp_path / "law"))
    found = sweep(adapter, format, quantization, [0.15, 0.5, 0.85, 1.0])
    assert found["killed"] >= 3


@pytest.mark.slow
@pytest.mark.parametrize(("format", "quantization"), KINDS)
def test_a_kill_at_every_step(tmp_path, made, format, quantization):
    adapter = Path(shutil.copytree(made, tmp_path / "law"))
    found = sweep(adapter, format, quantization, [])
    assert found["killed"] == found["steps"]
