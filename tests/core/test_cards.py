"""The card that a job will use has one name, whoever asks, without torch."""

from __future__ import annotations

import importlib.metadata

import pytest
from bp_core.runs.cards import card_name
from fakes.fake_nvml import FakeNvml, card

TWO = (card(uuid="GPU-a"), card(uuid="GPU-b"))


@pytest.mark.parametrize(
    ("shown", "backend", "name"),
    [
        (None, "auto", "cuda-0"),
        ("1", "auto", "cuda-1"),
        ("1,0", "cuda", "cuda-1"),
        ("GPU-b", "auto", "cuda-1"),
        ("MIG-x", "auto", "cuda-MIG-x"),
        ("GPU-none", "auto", "cpu"),
        ("", "auto", "cpu"),
        ("-1", "auto", "cpu"),
        ("1", "cpu", "cpu"),
    ],
)
def test_a_card_is_named_as_cuda_will_show_it(monkeypatch, shown, backend, name):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "2.9.0+cu128")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    nvml = FakeNvml(*TWO)
    assert card_name(backend, nvml=nvml) == name
    assert nvml.open == 0


def test_without_a_driver_or_with_a_cpu_build_it_is_the_processor(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "2.9.0")
    assert card_name(nvml=FakeNvml(driver=False)) == "cpu"
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "2.9.0+cpu")
    assert card_name("auto", nvml=FakeNvml(*TWO)) == "cpu"
