"""The guards of a release see what they are for; workflows are pinned and hold no credential where code runs."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
spec = importlib.util.spec_from_file_location("release_guard", ROOT / ".ci" / "release.py")
guard = importlib.util.module_from_spec(spec)
spec.loader.exec_module(guard)


@pytest.fixture
def clone(tmp_path):
    """The files that the guard reads, in a repository of their own with every member tagged."""
    root = tmp_path / "clone"
    for name in (".", *(f"packages/{m}" for m in guard.MEMBERS)):
        (root / name).mkdir(parents=True, exist_ok=True)
        for file in ("pyproject.toml", "CHANGELOG.md"):
            if (ROOT / name / file).is_file():
                shutil.copy(ROOT / name / file, root / name / file)
    for member in guard.MEMBERS:
        (root / "packages" / member / "src").mkdir()
        (root / "packages" / member / "src" / "a.py").write_text("a = 1\n")
    git(root, "init", "-q")
    commit(root)
    for member in guard.MEMBERS:
        git(root, "tag", f"{member}-v0.1.0")
    return root


def git(root, *arguments):
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
        cwd=root,
        check=True,
        capture_output=True,
    )


def commit(root):
    git(root, "add", "-A")
    git(root, "commit", "-qm", "x", "--no-verify")


def test_this_tree_can_be_released():
    assert guard.problems() == []


def test_changed_but_not_bumped_is_seen(clone):
    assert guard.problems(clone) == []
    (clone / "packages/bp-merge/src/a.py").write_text("a = 2\n")
    commit(clone)
    assert [p for p in guard.problems(clone) if p.startswith("bp-merge changed since")]


def test_a_bump_asks_for_the_others(clone):
    file = clone / "packages/bp-merge/pyproject.toml"
    file.write_text(file.read_text().replace('version = "0.1.0"', 'version = "0.2.0"'))
    found = guard.problems(clone)
    assert any("the changelog of bp-merge has no heading 0.2.0" in p for p in found)
    assert any(p.startswith("bp-core asks for bp-merge") for p in found)
    assert any(p.startswith("bp-suite asks for bp-merge") for p in found)


def test_a_tag_names_its_version(clone):
    assert guard.problems(clone, "bp-merge-v0.1.0") == []
    assert guard.problems(clone, "bp-merge-v0.3.0")
    assert guard.problems(clone, "bp-nothing-v0.1.0")


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda f: f.name)
def test_actions_are_pinned_and_jobs_ask_for_little(file):
    text = file.read_text()
    uses = re.findall(r"uses: (\S+)", text)
    assert uses
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", u) for u in uses)
    found = yaml.safe_load(text)
    assert found["permissions"] == {}
    for job in found["jobs"].values():
        runs_ours = any("checkout" in str(step.get("uses", "")) for step in job["steps"])
        assert job["permissions"] == ({"contents": "read"} if runs_ours else {"id-token": "write"})
        assert "secrets." not in str(job)
        for step in job["steps"]:
            # what somebody outside may choose reaches a shell through the environment alone
            assert "${{" not in step.get("run", "")


def test_the_form_of_a_bug_asks_for_what_helps():
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
    assert {part.get("id") for part in form["body"]} >= {"what", "code", "run", "info"}


def test_every_extra_of_a_member_is_a_member_s():
    suite = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in suite["optional-dependencies"].values():
        for requirement in wanted:
            name, extras = re.match(r"(bp-\w+)(?:\[([\w,]+)\])?==", requirement).groups()
            member = guard.project(ROOT / "packages" / name)
            assert set((extras or "").split(",")) - {""} <= set(member.get("optional-dependencies", {}))
