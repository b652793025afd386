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
import bp_export.formats.readback, bp_export.formats.job, bp_export.formats.gguf, bp_export.formats.gguf_lora, bp_export.formats.lora, bp_export.gguf.lora, bp_export.gguf.write
import bp_export.formats.merged, bp_export.ollama.modelfile, bp_export.ollama.register, bp_export.verify.gguf, bp_merge.bake, jinja2

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
            bp_export.formats.job.export(adapter, format=format, quantization=quantization, progress=lambda *_: step())
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


_LIMITED = """
import resource, signal, sys
from bp_export.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("format", ["lora", "merged", "gguf", "gguf-lora"])
def test_a_disk_that_runs_full_is_told_and_the_next_call_finishes(tmp_path, made, format):
    """A limit on the size of files stands for a full disk: both refuse a write half-way."""
    adapter = Path(shutil.copytree(made, tmp_path / "law"))
    argv = ["export", str(adapter), "-f", format, "--quantization", "q8_0", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, "20000", *argv], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] in ("RUNTIME_DISK_FULL", "RUNTIME_WRITE_FAILED", "RUNTIME_EXPORT_FAILED")
    assert error["hint"]
    assert "Traceback" not in done.stderr
    out = adapter / format
    assert not [f for f in out.rglob("*") if f.suffix in (".gguf", ".safetensors")]
    assert subprocess.run([sys.executable, "-m", "bp_export", *argv], capture_output=True).returncode == 0
    assert not [f.name for f in adapter.rglob("*") if f.name.endswith((".partial", ".unchecked", ".journal"))]


def test_an_output_that_cannot_be_made_is_coded(tmp_path, made):
    from bp_export.formats.job import export
    from bp_merge.common import BpError

    (tmp_path / "file").write_text("in the way")
    for format in ("lora", "merged", "gguf", "gguf-lora"):
        with pytest.raises(BpError) as caught:
            export(made, format=format, output=tmp_path / "file" / "out")
        assert caught.value.code.startswith(("RUNTIME_", "INPUT_"))
        assert caught.value.hint
