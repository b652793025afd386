"""What a run records of its machine."""

import json
import os
import shutil
import subprocess
import sys

import psutil
from bp_core.support import environment
from bp_core.support.files import dumps
from fakes.fake_nvml import FakeNvml, card


def test_the_record_is_plain_and_true(tmp_path):
    facts = environment.collect(
        tmp_path / "not" / "there" / "yet", nvml=FakeNvml(card(name="A"), card(name="B"))
    )
    assert json.loads(dumps(facts)) == facts
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["packages"]["bp-core"]
    assert facts["packages"]["torch"].startswith("2.")
    assert facts["gpus"] == [
        {"name": n, "memory_total": 12 * 1024**3, "driver": "580.95"} for n in ("A", "B")
    ]
    assert abs(facts["disk_free"] - shutil.disk_usage(tmp_path).free) < 1e9
    assert 0 < facts["memory_total"] <= psutil.virtual_memory().total
    assert facts["memory_free"] <= facts["memory_total"]
    assert facts["cores"] == os.cpu_count()


def test_no_driver_is_no_card():
    nvml = FakeNvml(driver=False)
    assert environment.gpus(nvml=nvml) == []


def test_it_imports_nothing_heavy_and_hides_secrets():
    code = (
        "import sys; sys.argv = ['/home/me/bin/backprop', 'train', '--hub-token', 'short', '--auth=me:pw', '--steps', '3'];"
        "from bp_core.support import environment; f = environment.collect(); assert 'torch' not in sys.modules; print(f['command'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "backprop train --hub-token *** --auth=*** --steps 3"


def test_torch_tells_its_part_where_it_is_loaded():
    code = (
        "import torch; torch.set_num_threads(1);"
        "from bp_core.support import environment; print(environment.collect()['torch']['threads'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_a_container_limit_counts(tmp_path, request):
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    before = environment._CGROUPS
    request.addfinalizer(lambda: setattr(environment, "_CGROUPS", before))
    environment._CGROUPS = ((limit, used),)
    limit.write_text("1000000000\n")
    used.write_text("400000000\n")
    assert environment.memory_room() == environment.Room(600_000_000, 1_000_000_000)
    limit.write_text("max\n")
    assert environment.memory_room().total == psutil.virtual_memory().total


def test_differences_name_what_may_change_the_numbers_first():
    a = {"packages": {"torch": "2.12", "gguf": "1"}, "gpus": [], "python": "3.11", "system": "Linux"}
    b = {
        "packages": {"torch": "2.13", "gguf": "1", "trl": "1.0"},
        "gpus": [{"name": "RTX"}],
        "python": "3.12",
    }
    lines = environment.differences(a, {**b, "system": "Linux"})
    assert lines == [
        "GPU none → RTX (may change the numbers)",
        "torch 2.12 → 2.13 (may change the numbers)",
        "trl absent → 1.0 (may change the numbers)",
        "Python 3.11 → 3.12",
    ]
    assert environment.differences(a, a) == []
    one = {"processor": "x", "gpus": [{"name": "A"}], "packages": {"torch": "1", "gguf": "1"}}
    other = {"processor": "y", "gpus": [{"name": "A"}], "packages": {"torch": "1", "gguf": "2"}}
    assert environment.numeric_differences(one, other) == []  # the card computes
    assert environment.numeric_differences({**one, "gpus": []}, {**other, "gpus": []}) == ["processor x → y"]
