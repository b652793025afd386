"""What a merge refuses or tells before it computes: other bases, other variants, experts, senseless weights."""

from __future__ import annotations

import json

import pytest
from bp_merge import slao
from bp_merge.adapter import Adapter
from bp_merge.common import BpError
from bp_merge.engine import merge
from tiny_adapters import adapter, folders


def test_a_state_takes_no_other_variant():
    state = slao.step(None, adapter(1), variant="delta").state
    with pytest.raises(BpError, match="delta, not paper") as caught:
        slao.step(state, adapter(2), variant="paper")
    assert caught.value.code == "INPUT_VALIDATION_FAILED"
    assert slao.step(state, adapter(2)).state.variant == "delta"


def test_weights_have_bounds():
    with pytest.raises(BpError, match="within") as caught:
        merge([adapter(1), adapter(2)], weights=[1e308, 1e308])
    assert caught.value.code == "INPUT_VALIDATION_FAILED"


def test_bases_that_are_known_to_differ_are_refused_and_names_are_told(tmp_path):
    paths = folders(tmp_path)
    for i, path in enumerate(paths):
        config = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(
            json.dumps({**config, "base_model_name_or_path": f"acme/{i}"})
        )
    assert "acme/0, acme/1" in merge([Adapter.load(p) for p in paths]).warnings[0]
    for i, path in enumerate(paths):
        (path / "backprop.json").write_text(json.dumps({"base_model": {"config_sha256": f"{i}"}}))
    with pytest.raises(BpError, match="different models") as caught:
        merge([Adapter.load(p) for p in paths])
    assert caught.value.code == "INPUT_ADAPTERS_MISMATCH"


def test_dead_keys_are_taken_and_experts_have_a_way_out(tmp_path):
    (path,) = folders(tmp_path, 1)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, "merge_weights": True}))
    assert Adapter.load(path).modules
    (path / "adapter_config.json").write_text(json.dumps({**config, "target_parameters": ["gate_up_proj"]}))
    with pytest.raises(BpError, match="mixture of experts") as caught:
        Adapter.load(path).save(tmp_path / "again")
    assert "bp-merge bake" in caught.value.hint
