"""The watch on the card, against a fake NVML and a fake nvidia-smi program."""

import os
import subprocess
import sys
import threading
import time

import pytest
from bp_core.errors import CODES, BpError
from bp_core.safety.guards import HeatGuard
from bp_core.safety.monitor import Monitor
from bp_core.safety.sensors import NvmlSensor, SmiSensor, open_sensor
from fakes.fake_nvml import FakeNvml, card

posix = pytest.mark.skipif(os.name == "nt", reason="a shell script stands for nvidia-smi")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def watch(nvml, **options):
    events = []
    clock = Clock()
    monitor = Monitor(
        NvmlSensor(0, nvml=nvml),
        on_event=lambda code, _, **d: events.append((code, d)),
        clock=clock,
        **options,
    )
    return monitor, events, clock


def test_a_reading_has_units_of_people():
    gpu = FakeNvml(card(power=151_500, used=3 * 1024**3))
    sensor = NvmlSensor(0, nvml=gpu)
    reading = sensor.read()
    assert sensor.name == "NVIDIA GeForce RTX 4070"
    assert (reading.temperature, reading.power, reading.power_limit) == (60, 151.5, 200.0)
    assert (reading.memory_used, reading.memory_total, reading.utilization) == (
        3 * 1024**3,
        12 * 1024**3,
        97.0,
    )
    sensor.close()
    assert gpu.open == 0


def test_a_card_is_found_by_uuid_whatever_its_index():
    gpu = FakeNvml(card(name="first"), card(name="second", uuid="GPU-b"))
    assert NvmlSensor("GPU-b", nvml=gpu).name == "second"
    assert NvmlSensor(1, nvml=gpu).name == "second"
    with pytest.raises(BpError) as caught:
        NvmlSensor("GPU-c", nvml=gpu)
    assert caught.value.code == "RUNTIME_GPU_MONITORING_FAILED"
    assert caught.value.code in CODES
    assert caught.value.hint == "nvidia-smi"
    assert gpu.open == 2, "a refused sensor gives NVML back"


def test_what_a_card_does_not_tell_is_none():
    reading = NvmlSensor(0, nvml=FakeNvml(card(temperature=None, power=None, busy=None, used=None))).read()
    assert (reading.temperature, reading.power, reading.utilization, reading.memory_used) == (None,) * 4
    assert reading.power_limit == 200.0


def test_full_memory_and_full_power_are_not_heat():
    gpu = FakeNvml(card(temperature=62, used=12 * 1024**3 - 1, power=200_000, busy=100))
    monitor, events, _ = watch(gpu)
    for _ in range(50):
        assert monitor.check().action == "go"
    assert events == []
    assert monitor.peak_memory == 12 * 1024**3 - 1


def test_pause_resume_and_peaks():
    gpu = FakeNvml()
    monitor, events, clock = watch(gpu, guard=HeatGuard(pause=85, resume=70, abort=95))
    seen = []
    for temperature in (60, 86, 80, 71, 69, 80):
        gpu.cards[0].temperature = temperature
        clock.now += 1
        monitor.check()
        seen.append(monitor.action)
    assert seen == ["go", "pause", "pause", "pause", "go", "go"]
    assert [code for code, _ in events] == ["HEAT_PAUSED", "HEAT_RESUMED"]
    assert events[1][1]["seconds"] == 3
    assert monitor.paused_seconds == 3
    assert monitor.peak_temperature == 86
    assert monitor.metrics() == {
        "gpu/temperature": 80.0,
        "gpu/power": 150.0,
        "gpu/memory": pytest.approx(4.294967296),
        "gpu/utilization": 97.0,
    }


def test_an_emergency_is_told_once_and_ends_with_its_cause():
    gpu = FakeNvml(card(temperature=97))
    monitor, events, _ = watch(gpu)
    assert [monitor.check().action for _ in range(4)] == ["pause", "stop", "stop", "stop"]
    gpu.cards[0].temperature = 30
    assert monitor.check().action == "stop"
    assert [code for code, _ in events] == ["HEAT_PAUSED", "HEAT_EMERGENCY"]
    error = monitor.verdict.error("backprop resume 2026")
    assert error.code == "RUNTIME_GPU_TEMPERATURE_CRITICAL"
    assert "97" in error.message
    assert error.retryable


def test_a_card_that_falls_silent_does_not_stop_the_run():
    gpu = FakeNvml()
    monitor, events, _ = watch(gpu)
    gpu.cards[0].fail = True
    for _ in range(6):
        assert monitor.check().action == "go"
    assert events == [("GPU_MONITORING_LOST", {"source": "nvml"})]
    assert monitor.latest is None
    assert monitor.metrics() == {}


def test_a_card_that_falls_silent_while_paused_stops_in_the_end():
    gpu = FakeNvml(card(temperature=92))
    monitor, events, clock = watch(gpu, guard=HeatGuard(max_pause=10))
    monitor.check()
    gpu.cards[0].fail = True
    actions = []
    for _ in range(12):
        clock.now += 1
        actions.append(monitor.check().action)
    assert actions == ["pause"] * 10 + ["stop"] * 2
    assert events[-1][0] == "HEAT_NOT_COOLING"


def test_without_a_card_everything_goes():
    with Monitor(None) as monitor:
        assert monitor.action == "go"
        assert monitor.metrics() == {}
        assert not [t for t in threading.enumerate() if t.name == "bp-monitor"]
    assert Monitor(None, interval=0.001).interval == 1.0, "never more than one reading a second"


def test_the_thread_reads_and_ends():
    gpu = FakeNvml()
    with Monitor(NvmlSensor(0, nvml=gpu)) as monitor:
        assert monitor.latest is not None, "the first reading is there at once"
        gpu.cards[0].temperature = 93
        end = time.monotonic() + 20
        while monitor.action != "pause":
            assert time.monotonic() < end
            time.sleep(0.05)
    assert gpu.open == 0
    assert not [t for t in threading.enumerate() if t.name == "bp-monitor"]


SMI = """#!{python}
import sys
assert "--format=csv,noheader,nounits" in sys.argv and "--id=0" in sys.argv
print({line!r})
sys.exit({code})
"""


def smi(tmp_path, line, code=0):
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI.format(python=sys.executable, line=line, code=code))
    program.chmod(0o755)
    return str(program)


@posix
def test_nvidia_smi_where_nvml_cannot_be_loaded(tmp_path):
    command = smi(tmp_path, "NVIDIA RTX A2000 Laptop GPU, 71, [N/A], 95.00, 3500, 4096, 88")
    sensor = open_sensor(0, nvml=FakeNvml(driver=False), command=command)
    reading = sensor.read()
    assert (sensor.source, sensor.name) == ("nvidia-smi", "NVIDIA RTX A2000 Laptop GPU")
    assert (reading.temperature, reading.power, reading.power_limit) == (71.0, None, 95.0)
    assert (reading.memory_used, reading.memory_total) == (3500 * 2**20, 4096 * 2**20)
    monitor = Monitor(sensor)
    assert monitor.check().action == "go"
    monitor.close()


@posix
@pytest.mark.parametrize(("line", "code"), [("No devices were found", 6), ("", 0), ("GPU is lost", 15)])
def test_nvidia_smi_that_answers_nonsense_is_no_sensor(tmp_path, line, code):
    with pytest.raises(BpError) as caught:
        SmiSensor(0, command=smi(tmp_path, line, code))
    assert caught.value.code == "RUNTIME_GPU_MONITORING_FAILED"
    assert open_sensor(0, nvml=FakeNvml(driver=False), command=smi(tmp_path, line, code)) is None


def test_no_driver_and_no_program_is_no_sensor():
    assert open_sensor(0, nvml=FakeNvml(driver=False), command="no-such-program") is None


def test_the_real_library_answers_with_a_sensor_or_none():
    """Where there is a card this reads it; where there is none, pynvml's own error must be understood."""
    code = "from bp_core.safety.sensors import open_sensor; s = open_sensor(); print(s.read() if s else None)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
