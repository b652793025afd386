"""The commands as a script uses them: stdout is one JSON object, errors have codes and exit codes, inputs stay."""

from __future__ import annotations

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from bp_merge.adapter import Adapter
from bp_merge.checkpoint import Checkpoint
from bp_merge.cli import cli
from bp_merge.common import run_command
from safetensors.numpy import save_file
from tiny_adapters import NAMES, adapter, apart, folders, tree

M, N = 12, 16


def run(capsys, *argv):
    """(exit code, JSON of stdout, stderr)."""
    code = run_command(cli, [*map(str, argv), "--json"], prog_name="bp-merge")
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def model(folder, seed=0, change=0.0):
    rng = np.random.default_rng(0)
    other = np.random.default_rng(seed)
    folder.mkdir()
    tensors = {f"{n}.weight": rng.normal(size=(M, N)) + change * other.normal(size=(M, N)) for n in NAMES}
    stored = {n: t.astype(ml_dtypes.bfloat16) for n, t in tensors.items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "dtype": "bfloat16"}))
    return folder


def test_merge(capsys, tmp_path):
    a, b = folders(tmp_path)
    out = tmp_path / "out"
    code, found, _ = run(
        capsys, "merge", a, b, "--method", "linear", "--weights", "1,-0.5", "--rank", 4, "--output", out
    )
    assert code == 0
    assert found["schema_version"] == 1
    assert {"method", "output_path", "modules", "rank", "discarded_energy", "seconds", "peak_rss_mb"} <= set(
        found
    )
    assert (found["method"], found["output_path"], found["modules"], found["rank"]) == (
        "linear",
        str(out),
        2,
        4,
    )
    assert 0 < found["discarded_energy"] < 1
    want = sum(w * Adapter.load(p).modules[NAMES[0]].delta() for w, p in zip((1, -0.5), (a, b), strict=True))
    u, s, vt = np.linalg.svd(want)
    best = (u[:, :4] * s[:4]) @ vt[:4]
    np.testing.assert_allclose(Adapter.load(out).modules[NAMES[0]].delta(), best, atol=1e-5)


def test_merge_takes_parameters_by_name(capsys, tmp_path):
    paths = folders(tmp_path)
    code, found, _ = run(
        capsys, "merge", *paths, "--method", "ties", "--density", 0.4, "--param", "space=dense",
        "--param", "scale=0.5", "--seed", 3, "--output", tmp_path / "o",
    )  # fmt: skip
    assert code == 0
    assert found["parameters"] == {"density": 0.4, "space": "dense", "scale": 0.5}
    assert found["rank"] > 6  # the paper's own space has full rank


def test_a_dry_run_checks_plans_and_writes_nothing(capsys, tmp_path):
    paths, base = folders(tmp_path), model(tmp_path / "base")
    tuned = [model(tmp_path / f"t{i}", i, 0.1) for i in (1, 2)]
    before = tree(tmp_path)
    for argv in (
        ("merge", *paths),
        ("bake", base, *paths),
        ("models", base, *tuned),
    ):
        code, found, _ = run(capsys, *argv, "--output", tmp_path / "out", "--dry-run")
        assert code == 0
        assert found["dry_run"] is True
        assert found["output_path"] == str(tmp_path / "out")
        assert found["memory_mb"] > 0
        assert found["disk_mb"] > 0
        assert found["free_mb"] > 0
    assert tree(tmp_path) == before
    code, found, _ = run(capsys, "merge", *paths, "--method", "nope", "--output", tmp_path / "o", "--dry-run")
    assert (code, found["error"]["code"]) == (1, "INPUT_VALIDATION_FAILED")


def test_bake(capsys, tmp_path):
    (a, b), base = folders(tmp_path), model(tmp_path / "base")
    out = tmp_path / "out"
    code, found, _ = run(capsys, "bake", base, a, b, "--weights", "1,0.5", "--dtype", "f32", "--output", out)
    assert code == 0
    assert {"output_path", "touched", "survival", "seconds", "peak_rss_mb", "nbytes"} <= set(found)
    assert found["survival"]["coefficient"] == pytest.approx(1, abs=1e-4)
    with Checkpoint.open(base) as old, Checkpoint.open(out) as new:
        for name in NAMES:
            change = sum(
                w * Adapter.load(p).modules[name].delta() for w, p in zip((1, 0.5), (a, b), strict=True)
            )
            np.testing.assert_allclose(
                new.read(f"{name}.weight"), old.read(f"{name}.weight") + change, atol=1e-5
            )


def test_models(capsys, tmp_path):
    base = model(tmp_path / "base")
    tuned = [model(tmp_path / f"t{i}", i, 0.1) for i in (1, 2)]
    out = tmp_path / "out"
    code, found, _ = run(
        capsys, "models", base, *tuned, "--method", "ties", "--density", 0.5, "--param", "scale=0.9",
        "--dtype", "f32", "--output", out,
    )  # fmt: skip
    assert (code, found["method"], found["output_path"], found["tensors"]) == (0, "ties", str(out), 2)
    assert json.loads((out / "merge.json").read_text())["settings"]["scale"] == 0.9
    code, found, _ = run(
        capsys, "models", base, *tuned, "--method", "linear", "--density", 0.5, "--output", tmp_path / "o"
    )
    assert (code, found["error"]["code"]) == (1, "INPUT_VALIDATION_FAILED")


def test_inspect_and_compare(capsys, tmp_path):
    (a, b), base = folders(tmp_path), model(tmp_path / "base")
    code, found, _ = run(capsys, "inspect", a)
    row = found["modules"][0]
    assert (code, found["kind"], row["name"], row["shape"], row["rank"]) == (
        0, "adapter", NAMES[0], [M, N], 3,
    )  # fmt: skip
    assert row["norm"] == pytest.approx(np.linalg.norm(Adapter.load(a).modules[NAMES[0]].delta()))
    for path in (base, base / "model.safetensors"):
        code, found, _ = run(capsys, "inspect", path)
        assert (code, found["kind"], found["parameters"]) == (0, "checkpoint", 2 * M * N)
    code, found, _ = run(capsys, "compare", a, b)
    assert code == 0
    assert {"cosine", "norm_a", "norm_b", "distance", "principal_angles", "modules"} <= set(found)
    assert set(found["modules"]) == set(NAMES)
    assert len(found["modules"][NAMES[0]]["principal_angles"]) == 3


def test_methods_are_listed_with_their_parameters(capsys):
    code, found, _ = run(capsys, "methods", "ties")
    assert code == 0
    assert found["methods"][0]["parameters"]["density"] == {"default": 0.2, "values": "float, > 0, ≤ 1"}
    code, found, _ = run(capsys, "methods")
    assert {"linear", "regmean", "wudi"} <= {m["name"] for m in found["methods"]}


def test_slao_over_three_tasks_and_the_gate(capsys, tmp_path):
    state, start = tmp_path / "state", tmp_path / "start"
    for i in (1, 2, 3):
        argv = ("slao", "--state", state, adapter(i).save(tmp_path / f"t{i}"))
        if i == 3:
            before = tree(state)
            code, found, _ = run(capsys, *argv, "--dry-run")
            assert (code, found["tasks"], tree(state)) == (0, 3, before)
            argv = (*argv, "--start", start)
        code, found, _ = run(capsys, *argv)
        assert (code, found["decision"], found["tasks"]) == (0, "accept", i)
        assert found["lambda"] == pytest.approx(i**-0.5)
    assert found["output_path"] == str(state / "merged")
    a0 = Adapter.load(start).modules[NAMES[0]].a
    np.testing.assert_allclose(a0 @ a0.T, np.eye(3), atol=1e-6)
    before = tree(state)
    code, found, _ = run(
        capsys, "slao", "--state", state, adapter(9).save(tmp_path / "t9"), "--min-cosine", 0.99
    )
    assert (code, found["decision"]) == (65, "branch")
    assert tree(state) == before


WRONG = {
    "no such folder": (("merge", "nowhere"), "INPUT_ADAPTER_INVALID"),
    "unknown method": (("merge", "A", "B", "--method", "tiess"), "INPUT_VALIDATION_FAILED"),
    "unknown parameter": (("merge", "A", "B", "--param", "lambda=2"), "INPUT_VALIDATION_FAILED"),
    "parameter without a value": (("merge", "A", "B", "--param", "scale"), "INPUT_VALIDATION_FAILED"),
    "parameter out of bounds": (
        ("merge", "A", "B", "--method", "ties", "--density", "2"),
        "INPUT_VALIDATION_FAILED",
    ),
    "parameter twice": (
        ("merge", "A", "B", "--method", "ties", "--density", "0.2", "--param", "density=0.3"),
        "INPUT_VALIDATION_FAILED",
    ),
    "weights are words": (("merge", "A", "B", "--weights", "one,two"), "INPUT_VALIDATION_FAILED"),
    "too few weights": (("merge", "A", "B", "--weights", "1"), "INPUT_VALIDATION_FAILED"),
    "no moments": (("merge", "A", "B", "--method", "regmean"), "INPUT_VALIDATION_FAILED"),
    "moments that are none": (
        ("merge", "A", "--method", "regmean", "--moments", "A/adapter_model.safetensors"),
        "INPUT_MOMENTS_INVALID",
    ),
    "bake onto an adapter": (("bake", "A", "B"), "INPUT_CHECKPOINT_INVALID"),
    "bake with too few weights": (("bake", "BASE", "A", "B", "--weights", "1"), "INPUT_VALIDATION_FAILED"),
    "bake onto a wrong base": (("bake", "BASE", "WIDE"), "INPUT_WRONG_BASE"),
    "models of one": (("models", "BASE", "BASE"), "INPUT_VALIDATION_FAILED"),
    "models that are adapters": (("models", "BASE", "A", "B"), "INPUT_CHECKPOINT_INVALID"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_is_told_with_a_code_and_a_hint(capsys, tmp_path, case):
    argv, code = WRONG[case]
    paths = dict(zip("AB", folders(tmp_path), strict=True))
    paths["WIDE"] = adapter(1, n=N + 1).save(tmp_path / "wide")
    paths["BASE"] = model(tmp_path / "base")
    real = [
        str(paths[w.partition("/")[0]] / w.partition("/")[2]) if w.partition("/")[0] in paths else w
        for w in argv
    ]
    before = tree(tmp_path)
    exit_code, found, err = run(capsys, *real, "--output", tmp_path / "out")
    assert (exit_code, found["error"]["code"]) == (1, code)
    assert found["error"]["hint"]
    assert err.startswith(f"[{code}]")
    assert "hint: " in err
    assert "Traceback" not in err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("command", ["merge", "bake", "models"])
def test_an_output_that_exists_is_not_touched(capsys, tmp_path, command):
    a, b = folders(tmp_path)
    base, tuned = model(tmp_path / "base"), [model(tmp_path / f"t{i}", i, 0.1) for i in (1, 2)]
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    inputs = {"merge": (a, b), "bake": (base, a), "models": (base, *tuned)}[command]
    code, found, _ = run(capsys, command, *inputs, "--output", out)
    assert (code, found["error"]["code"]) == (1, "INPUT_PATH_EXISTS")
    assert tree(out) == {"mine.txt": b"keep"}


def test_usage_errors_and_quiet(capsys, tmp_path):
    assert run_command(cli, ["merge"], prog_name="bp-merge") == 1
    assert run_command(cli, ["bake", "x", "y", "--dtype", "int4", "--output", "o"]) == 1
    assert run_command(cli, ["nonsense"]) == 1
    capsys.readouterr()
    paths = folders(tmp_path)
    assert run_command(cli, ["merge", *map(str, paths), "--output", str(tmp_path / "out"), "-q"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"


def test_as_a_module_and_under_backprop(tmp_path):
    """The same command by `python -m bp_merge` and `backprop merge`."""
    a, b = map(str, folders(tmp_path))
    found = []
    for argv in (
        [sys.executable, "-m", "bp_merge", "compare", a, b, "--json"],
        [
            sys.executable,
            "-c",
            "import sys; from bp_cli.main import main; sys.exit(main())",
            "merge", "compare", a, b, "--json",
        ],
    ):  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]


def test_seeds_reach_the_masks(capsys, tmp_path):
    paths = folders(tmp_path)
    for name, seed in (("x", 1), ("y", 1), ("z", 2)):
        run(capsys, "merge", *paths, "--method", "dare_ties", "--seed", seed, "--output", tmp_path / name)
    assert tree(tmp_path / "x") == tree(tmp_path / "y")
    assert apart(Adapter.load(tmp_path / "x"), Adapter.load(tmp_path / "z")) > 0.1
