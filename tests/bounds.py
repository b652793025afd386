"""Are the bounds true that the packages declare? The built wheels, installed at one end of them, tried outside the workspace.

    uv run python tests/bounds.py lowest                  # quickstart and a subset of the core tests, two minutes
    uv run python tests/bounds.py lowest --all            # the core, export and merge tests, an hour on two cores
    uv run python tests/bounds.py newest --with torch==2.12.*

- `lowest` takes the lowest version that each package declares of what it needs itself (uv's `lowest-direct`), the
  extras that the tests use with them; `newest` the newest that they allow.
- torch is the workspace's own build unless `--with` names another: what an index offers may be 3 GB of CUDA.
- pytest and its plug-ins come after that, so that they move nothing. Warnings of old versions are no failures.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = {"eval", "qlora", "tensorboard", "hf", "zstd", "verify"}  # those that the tests use
TOOLS = (
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "libggml-python",
    "scikit-learn",
    "seqeval",
)
CHOSEN = (
    "test_batches.py",
    "test_decide.py",
    "test_recompute.py",
    "test_resume.py::test_stopped_and_resumed_twice",
)
ROOMS = ("core", "export", "merge")
MEMBERS = ("bp-merge", "bp-data", "bp-export", "bp-core", "bp-cli")  # the web UI pins what it stands on


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def declared() -> list[str]:
    """What the packages need of others, each with its bounds."""
    found: set[str] = set()
    for member in MEMBERS:
        table = project(ROOT / "packages" / member)["project"]
        found |= set(table["dependencies"])
        for name, extra in table.get("optional-dependencies", {}).items():
            found |= set(extra) if name in EXTRAS else set()
    return sorted(one for one in found if not one.startswith("bp-"))


def untried(needs: list[str], installed: dict[str, str]) -> list[str]:
    """Lower bounds that are below what could be installed: no test runs on them.

    >>> untried(["numpy>=2.1,<3", "rich>=14", "xllamacpp>=0.2"], {"numpy": "2.1.0", "rich": "15.0.0", "xllamacpp": "0.2.0"})
    ['rich>=14 (15.0.0)']
    """
    told = []
    for need in needs:
        name, low = re.match(r"([\w.-]+).*?>=([\d.]+)", need).groups()
        parts, own = low.split("."), re.split(r"[.+]", installed.get(name, low))
        if own[: len(parts)] != parts and name != "torch":
            told.append(f"{need} ({installed[name]})")
    return told


def run(*command: str | Path, **kwargs) -> None:
    done = subprocess.run([str(part) for part in command], **kwargs)
    if done.returncode:
        raise SystemExit(f"failed ({done.returncode}): {' '.join(map(str, command[:6]))} …")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("end", choices=("lowest", "newest"))
    parser.add_argument("--with", dest="pins", action="append", default=[], metavar="REQUIREMENT")
    parser.add_argument("--all", action="store_true", help="all tests of core, export and merge")
    parser.add_argument("--wheels", type=Path, help="a folder of built wheels; built here unless given")
    parser.add_argument("--folder", type=Path, help="keep the environment here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.folder or Path(temporary)
        wheels = args.wheels or work / "wheels"
        if args.wheels is None:
            run(
                "uv",
                "build",
                "-q",
                "--all-packages",
                "--wheel",
                "--no-sources",
                "--out-dir",
                wheels,
                cwd=ROOT,
            )
        venv = work / "venv"
        python = venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        run("uv", "venv", "-q", "--clear", venv)
        pins = list(args.pins)
        if not any(pin.startswith("torch=") for pin in pins):
            pins.append(f"torch==={importlib.metadata.version('torch')}")
        constraints, needs = work / "constraints.txt", work / "needs.txt"
        constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
        needs.write_text("\n".join(declared()) + "\n", encoding="utf-8")
        newest = str(project(ROOT)["tool"]["uv"]["exclude-newer"])
        install = ("uv", "pip", "install", "-q", "--python", python, "--exclude-newer", newest)
        run(
            *install,
            *("--resolution", "lowest-direct" if args.end == "lowest" else "highest"),
            *("--constraint", constraints, "-r", needs),
            *(one for m in MEMBERS for one in wheels.glob(f"{m.replace('-', '_')}-*.whl")),
        )
        run(*install, "--constraint", constraints, *TOOLS)
        listed = subprocess.run(
            ["uv", "pip", "list", "-q", "--python", str(python), "--format", "json"],
            capture_output=True,
            check=True,
        )
        installed = {one["name"]: one["version"] for one in json.loads(listed.stdout)}
        print(" ".join(f"{name}=={version}" for name, version in installed.items()), flush=True)
        if args.end == "lowest" and (low := untried(declared(), installed)):
            raise SystemExit(f"lower bounds that cannot be tried, as others need more: {', '.join(low)}")
        away = {**os.environ, "HF_HUB_OFFLINE": "1"}
        command = python.with_name("backprop.exe" if sys.platform == "win32" else "backprop")
        run(command, "quickstart", "--output", work / "quickstart", cwd=work, env=away)
        tests = [f"tests/{room}" for room in ROOMS] if args.all else [f"tests/core/{name}" for name in CHOSEN]
        spread = ("-n", "auto") if args.all else ("-n", "0")
        run(python, "-m", "pytest", "-W", "default", *spread, *tests, cwd=ROOT, env=away)


if __name__ == "__main__":
    main()
