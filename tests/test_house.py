"""The house keeps its own rules: sizes, arrows, light imports, one shared folder, and what the README says."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["bp-merge", "bp-data", "bp-export", "bp-core", "bp-cli", "bp-ui"]
HEAVY = ["torch", "transformers", "peft", "trl", "pydantic", "rich", "numpy", "pyarrow", "datasets", "reflex"]


def committed() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def committed_python() -> list[Path]:
    return [p for p in committed() if p.suffix == ".py"]


def sources() -> list[Path]:
    return [p for p in committed_python() if p.relative_to(ROOT).parts[0] == "packages"]


def project_of(member: str = "") -> dict:
    folder = ROOT / "packages" / member if member else ROOT
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def loaded(code: str) -> list[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout.splitlines()[-1])


def test_no_file_grew_past_the_ceiling():
    sizes = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in committed() if p.suffix == ".py"}
    assert {str(p.relative_to(ROOT)): n for p, n in sizes.items() if n > 800} == {}


def test_the_median_file_is_short():
    sizes = sorted(len(f.read_text("utf-8").splitlines()) for f in sources() if f.name != "__init__.py")
    assert 60 <= sizes[len(sizes) // 2] <= 200


def test_every_module_says_what_it_is():
    silent = [
        str(f.relative_to(ROOT)) for f in sources() if not ast.get_docstring(ast.parse(f.read_text("utf-8")))
    ]
    assert not silent


def test_nothing_unfinished_is_in_the_packages():
    marks = re.compile(r"\b(TODO|FIXME|XXX)\b|NotImplementedError|coming soon")
    found = [str(f.relative_to(ROOT)) for f in sources() if marks.search(f.read_text("utf-8"))]
    assert not found


def test_a_broad_except_raises_again_or_tells_why_not():
    """`except Exception` without `raise` in its body needs a reason on its line."""
    silent = []
    for file in sources():
        text = file.read_text("utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            )
            raises = any(isinstance(n, ast.Raise) for n in ast.walk(node))
            told = re.search(r"# noqa: BLE001 - \S+", lines[node.lineno - 1])
            if broad and not raises and not told:
                silent.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not silent


def test_tests_use_real_parts():
    mocks = re.compile(r"\b(unittest\.mock|MagicMock|mocker\.|from mock\b)")
    assert not [
        str(f.relative_to(ROOT))
        for f in committed_python()
        if f.relative_to(ROOT).parts[0] == "tests"
        and f != Path(__file__)
        and mocks.search(f.read_text("utf-8"))
    ]


def test_test_files_have_names_of_their_own():
    names = [
        f.name
        for f in committed_python()
        if f.relative_to(ROOT).parts[0] == "tests" and f.name.startswith("test_")
    ]
    assert sorted(names) == sorted(set(names))


def test_the_shared_folder_is_one_text():
    one, other = (
        {
            f.name: f.read_bytes()
            for f in (ROOT / f"packages/{p}/src/{p.replace('-', '_')}/common").glob("*.py")
        }
        for p in ("bp-merge", "bp-data")
    )
    assert set(one) == {"__init__.py", "command.py", "errors.py", "flags.py", "settings.py"}
    assert one == other


@pytest.mark.parametrize("package", ["bp_merge", "bp_data", "bp_export", "bp_core", "bp_cli", "bp_ui"])
def test_importing_a_package_loads_nothing_heavy(package):
    assert loaded(f"import {package}") == []


def test_settings_and_runs_are_read_without_torch():
    assert set(loaded("import bp_core.settings.knobs, bp_core.runs.store")) <= {"numpy"}
    assert not {"torch", "transformers"} & set(loaded("from bp_core import RunStore, Settings"))


def test_help_and_completion_load_nothing_heavy():
    run = "import bp_cli.main as m, contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()):\n    assert m.main(['--help']) == 0"
    assert loaded(run) == []
    run = "import bp_cli.main as m\nassert m.main(['completion', 'bash']) == 0"
    assert loaded(run) == []


@pytest.mark.parametrize("package", ["bp_merge", "bp_data", "bp_export", "bp_core"])
def test_public_names_exist_and_are_listed(package):
    import importlib

    module = importlib.import_module(package)
    assert module.__all__
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_whole(package):
    folder = ROOT / "packages" / package
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (folder / "src" / package.replace("-", "_") / "py.typed").is_file()
    assert project["version"] in (folder / "CHANGELOG.md").read_text(encoding="utf-8")
    assert len((folder / "README.md").read_text(encoding="utf-8")) > 100
    for dependency in project["dependencies"]:
        if dependency.startswith("bp-"):
            assert re.fullmatch(r"bp-\w+>=0\.1,<0\.2", dependency)


def test_the_suite_pins_its_members_and_offers_the_known_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(project["dependencies"]) == sorted(f"{p}==0.1.0" for p in PACKAGES if p != "bp-ui")
    assert all(project["optional-dependencies"][extra] == ["bp-ui==0.1.0"] for extra in ("ui", "standard"))
    assert {"ui", "full", "export", "monitoring", "fp8", "mlx", "qlora"} <= set(
        project["optional-dependencies"]
    )
    assert project["scripts"] == {"backprop": "bp_cli.main:main"}


def test_no_index_address_and_no_path_of_a_machine_is_committed():
    index = re.compile(r"https?://[^\s\"'<>)]*(?:/simple\b|pypi\.|registry\.npm|npmjs\.|deb\.debian)", re.I)
    machine = re.compile(r"/(?:work|root)/[a-z]")
    told = []
    for path in committed():
        if path.suffix in {".safetensors", ".png", ".gz", ".parquet", ".zst"}:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        told += [
            f"{path.relative_to(ROOT)}: {m.group()}" for m in (index.search(text), machine.search(text)) if m
        ]
    assert [t for t in told if not t.startswith("tests/test_house.py")] == []
    assert not (ROOT / "uv.lock").exists() or "uv.lock" in (ROOT / ".gitignore").read_text()


def test_the_readme_names_what_the_checks_run():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", readme, flags=re.S)
    assert blocks[0].strip() == "pip install uv && uv run backprop quickstart"
    assert blocks[1].strip() == "pip install uv && uv run pytest"
    lines = [line for line in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines() if line.strip()]
    assert lines[-1] == blocks[1].strip()


def test_links_in_the_documents_lead_somewhere():
    lost = []
    for page in [p for p in committed() if p.suffix == ".md"]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                lost.append(f"{page.relative_to(ROOT)}: {target}")
    assert lost == []


def test_the_arrows_hold():
    out = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")], cwd=ROOT, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stdout


def test_every_flag_that_the_readme_shows_exists():
    import click
    from bp_cli.root import cli

    for line in re.findall(r"^(?:uv run )?backprop (.+)$", (ROOT / "README.md").read_text("utf-8"), re.M):
        words = line.split("  #")[0].split()
        command: click.Command | None = cli
        while words and isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None, line
        known = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)}
        assert {w.split("=")[0] for w in words if w.startswith("-")} <= known, line


def test_every_extra_of_the_suite_is_an_extra_of_a_member():
    for name, wanted in project_of()["optional-dependencies"].items():
        for requirement in wanted:
            member, extras = re.fullmatch(r"(bp-\w+)(?:\[([\w,]+)\])?==0\.1\.0", requirement).groups()
            for extra in (extras or "").split(","):
                assert not extra or extra in project_of(member)["optional-dependencies"], (
                    f"{name}: {requirement}"
                )


@pytest.mark.parametrize("package", ["bp_merge", "bp_data"])
def test_merge_and_data_work_without_torch_and_without_siblings(package):
    """Every module of the package imports where torch, transformers and the other members cannot be."""
    names = sorted(
        ".".join(f.relative_to(ROOT / "packages" / package.replace("_", "-") / "src").with_suffix("").parts)
        for f in sources()
        if package in f.parts and f.name != "__main__.py"
    )
    statement = (
        "import sys\n"
        f"for name in ('torch', 'transformers', 'peft', 'trl', *(p for p in {[m.replace('-', '_') for m in PACKAGES]} if p != {package!r})):\n"
        "    sys.modules[name] = None\n"
        f"import importlib\nfor name in {[n.removesuffix('.__init__') for n in names]}:\n    importlib.import_module(name)"
    )
    loaded(statement)


def test_every_promise_names_a_test_that_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "PROMISES.md").read_text(encoding="utf-8"))
    assert len(named) > 15
    lost = [
        f"{f}::{t}"
        for f, t in named
        if not (ROOT / f).is_file() or f"def {t}(" not in (ROOT / f).read_text("utf-8")
    ]
    assert lost == []


def test_python_in_the_documents_parses_and_imports_what_exists():
    import importlib

    wrong = []
    for page in [p for p in committed() if p.suffix == ".md"]:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bp_"):
                    module = importlib.import_module(node.module)
                    wrong += [
                        f"{page.name}: {node.module}.{a.name}"
                        for a in node.names
                        if not hasattr(module, a.name)
                    ]
    assert wrong == []
