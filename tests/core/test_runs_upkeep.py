"""Names of runs and their end: what is renamed is the same everywhere, what is deleted is gone whole, what goes on stays."""

import json
import os
import subprocess
import sys

import pytest
from bp_cli.main import main
from bp_core.errors import BpError
from bp_core.runs.store import RunStore


@pytest.fixture
def store(tmp_path):
    found = RunStore(tmp_path / "out")
    for name in ("one", "two"):
        with found.create(run_id=name, name="first") as run:
            run.metric(1, loss=1.0)
            (run.path / "adapter").mkdir()
            (run.path / "adapter" / "weights").write_bytes(b"x" * 1000)
            run.artifact("adapter", run.path / "adapter")
            run.finish("completed", {})
    return found


def everything(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


def test_a_name_is_the_same_in_row_and_manifest_and_holds_no_secret(store):
    assert store.rename("on", "  facts\nwith   more rows ") == "one"
    assert store.get("one").name == "facts with more rows"
    assert json.loads((store.output / "one" / "manifest.json").read_text())["name"] == "facts with more rows"
    store.rename("one", "hf_" + "a" * 30)
    assert "aaa" not in store.get("one").name
    store.rename("one", "")
    assert store.get("one").name == ""
    assert store.get("two").name == "first"


def test_a_deleted_run_is_gone_whole_and_its_neighbour_stays(store):
    beside = everything(store.output / "two")
    assert store.delete("one") == "one"
    assert [r.run_id for r in store.list()] == ["two"]
    assert not [p for p in store.output.rglob("*") if "one" in p.name]
    assert everything(store.output / "two") == beside
    assert store.latest("two") == {"loss": (1, 1.0)}
    with pytest.raises(BpError, match="no run"):
        store.delete("one")
    with store.create(run_id="one") as run:  # the id is free again
        run.finish("completed", {})
    assert store.metric_names("one") == []


def test_a_run_whose_folder_is_gone_can_be_deleted(store):
    (store.output / "one").rename(store.output.parent / "elsewhere")
    store.delete("one")
    assert [r.run_id for r in store.list()] == ["two"]
    assert (store.output.parent / "elsewhere" / "adapter").is_dir()


def test_a_run_that_goes_on_is_not_deleted(store):
    with store.create(run_id="live") as run:
        with pytest.raises(BpError) as caught:
            store.delete("live")
        assert caught.value.code == "STATE_RUN_ACTIVE"
        assert run.path.is_dir()
        run.finish("stopped", {})
    store.delete("live")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_what_cannot_be_deleted_stays_whole(store):
    before = everything(store.output / "one")
    store.output.chmod(0o500)
    try:
        with pytest.raises(BpError):
            store.delete("one")
    finally:
        store.output.chmod(0o700)
    assert everything(store.output / "one") == before
    assert store.get("one").status == "completed"


def test_the_command_asks_before_it_deletes(store, capsys):
    output = f"--output={store.output}"
    assert main(["runs", "delete", "one", output]) == 1  # nobody to ask
    assert store.get("one")
    assert main(["runs", "rename", "one", "kept", output, "--json"]) == 0
    assert (
        main(["runs", "delete", "one", "tw", "nobody", output, "--yes"]) == 1
    )  # none where one is not there
    assert len(store.list()) == 2
    assert main(["runs", "delete", "one", "tw", output, "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["deleted"] == ["one", "two"]
    assert store.list() == []


def test_deleting_loads_no_torch(store):
    line = "import sys; from bp_core.runs.store import RunStore; RunStore(sys.argv[1]).delete('one'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line, str(store.output)]).returncode == 0
