"""What must hold before a package is released: `python .ci/release.py`, or `--tag bp-merge-v0.2.0` for one.

- A package whose sources changed since its newest tag has another version than that tag.
- Its changelog has a heading for its version.
- Members ask each other for a range that holds the members' versions; the meta package pins each exactly.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEMBERS = sorted(p.parent.name for p in ROOT.glob("packages/*/pyproject.toml"))


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def git(*arguments: str, cwd: Path = ROOT) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True
    ).stdout.strip()


def holds(version: str, requirement: str) -> bool:
    """Whether `0.1.0` is within `>=0.1,<0.2` or `==0.1.0`."""
    here = tuple(map(int, version.split(".")))
    for sign, bound in re.findall(r"(>=|<|==)\s*([\d.]+)", requirement):
        there = tuple(map(int, bound.split(".")))
        if not {">=": here >= there, "<": here < there, "==": here == there}[sign]:
            return False
    return True


def problems(root: Path = ROOT, tag: str | None = None) -> list[str]:
    folders = {name: root / "packages" / name for name in MEMBERS} | {"bp-suite": root}
    versions = {name: project(folder)["version"] for name, folder in folders.items()}
    found = []
    if tag is not None:
        name, _, version = tag.rpartition("-v")
        if versions.get(name) != version:
            found.append(f"{tag} names {name} {version}; its pyproject.toml says {versions.get(name)}")
    for name, folder in folders.items():
        for requirement in project(folder)["dependencies"]:
            other = re.match(r"bp-[a-z]+", requirement)
            if other and not holds(versions[other[0]], requirement):
                found.append(f"{name} asks for {requirement}, and {other[0]} is {versions[other[0]]}")
            if other and name == "bp-suite" and "==" not in requirement:
                found.append(f"bp-suite must pin {other[0]} exactly")
        if name == "bp-suite":
            continue
        log = (folder / "CHANGELOG.md").read_text(encoding="utf-8")
        if not re.search(rf"^## {re.escape(versions[name])}\b", log, re.M):
            found.append(f"the changelog of {name} has no heading {versions[name]}")
        tags = [
            t
            for t in git("tag", "--list", f"{name}-v*", "--sort=-v:refname", cwd=root).splitlines()
            if t != tag
        ]
        if tags and tags[0] == f"{name}-v{versions[name]}":
            changed = git(
                "diff",
                "--name-only",
                tags[0],
                "--",
                f"packages/{name}/src",
                f"packages/{name}/pyproject.toml",
                cwd=root,
            )
            if changed:
                found.append(
                    f"{name} changed since {tags[0]} and has the same version: {changed.split()[0]}, …"
                )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag")
    found = problems(tag=parser.parse_args().tag)
    sys.stderr.write("".join(f"{line}\n" for line in found) or "all versions hold\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
