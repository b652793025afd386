"""Heat in a real training run: the card is a fake that speaks NVML's protocol, everything else is real."""

from __future__ import annotations

import time

import pytest
from bp_core import BpError, Callback, RunStore, Trainer
from bp_core.safety.sensors import NvmlSensor
from fakes.fake_nvml import FakeNvml, card
from stones import quiet, stones

SETTINGS = {"steps": 5, "save_steps": 2, "eval_steps": 0, "batch_size": 4, "heldout_ratio": 0.0, "preview": 0}


class Heating(Callback):
    """Sets the card's temperature at a step and waits until the monitor has read it."""

    def __init__(self, nvml: FakeNvml, temperatures: dict[int, int]) -> None:
        self.nvml, self.temperatures = nvml, temperatures

    def on_step(self, info) -> None:
        if info.step in self.temperatures:
            self.nvml.cards[0].temperature = self.temperatures[info.step]
            seen = self.nvml.reads
            while self.nvml.reads < seen + 2:
                time.sleep(0.02)


@pytest.fixture(scope="module")
def cool(tmp_path_factory):
    """The same run on a card that stays cool."""
    return Trainer("tiny", output=tmp_path_factory.mktemp("cool"), tell=quiet, **SETTINGS).train(stones())


@pytest.fixture
def hot(monkeypatch):
    nvml = FakeNvml(card(temperature=60))
    monkeypatch.setattr("bp_core.training.loop.card_of", lambda device: NvmlSensor(0, nvml=nvml))
    return nvml


def weights(result):
    return (result.adapter_path / "adapter_model.safetensors").read_bytes()


def events(folder, run_id):
    return [e.code for e in RunStore(folder).events(run_id)]


def test_a_hot_card_pauses_the_run_until_it_is_cool(tmp_path, cool, hot):
    told = []

    def tell(line):
        told.append(line)
        if line.startswith("paused"):  # from then on the card cools
            hot.cards[0].temperature = 60

    result = Trainer("tiny", output=tmp_path, tell=tell, callbacks=[Heating(hot, {3: 92})], **SETTINGS).train(
        stones()
    )
    assert result.status == "completed"
    assert weights(result) == weights(cool)
    codes = events(tmp_path, result.run_id)
    assert codes.index("HEAT_PAUSED") < codes.index("HEAT_RESUMED")
    assert any("92" in line for line in told)
    assert hot.open == 0, "the driver was given back"


def test_an_emergency_saves_and_stops_and_the_run_goes_on_later(tmp_path, cool, hot):
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path, tell=quiet, callbacks=[Heating(hot, {3: 99})], **SETTINGS).train(
            stones()
        )
    assert error.value.code == "RUNTIME_GPU_TEMPERATURE_CRITICAL"
    run_id = error.value.details["run_id"]
    assert RunStore(tmp_path).get(run_id).status == "failed"
    hot.cards[0].temperature = 60
    assert weights(Trainer("tiny", output=tmp_path, tell=quiet).resume(run_id)) == weights(cool)
