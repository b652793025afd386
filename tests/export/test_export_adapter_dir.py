"""The adapter directory: what is written is read back, other tools' adapters read too, nonsense is refused."""

from __future__ import annotations

import json

import pytest
from adapters import write_adapter
from bp_export.adapter.directory import AdapterInfo, config_sha256, write, write_json
from bp_export.adapter.licences import licence_of
from bp_merge.common import BpError
from hypothesis import given
from hypothesis import strategies as st


def code_of(call) -> BpError:
    with pytest.raises(BpError) as caught:
        call()
    return caught.value


def test_round_trip_keeps_unknown_keys(tmp_path):
    folder = write_adapter(tmp_path / "a")
    data = json.loads((folder / "backprop.json").read_text())
    assert data["schema_version"] == 1
    assert set(data) >= {"run_id", "base_model", "chat_template_sha256", "licence", "method", "created"}
    data["future"] = {"x": 1}
    write_json(folder / "backprop.json", data)
    info = AdapterInfo.read(folder)
    assert info.to_json() == data
    assert (info.run_id, info.method, info.licence, info.base_ref) == (
        "run-1234",
        "sft",
        "apache-2.0",
        "acme/base",
    )
    assert info.loss_curve == ((1, 2.5), (2, 2.0), (3, 1.25))


def test_an_adapter_of_another_tool(tmp_path):
    info = AdapterInfo.read(write_adapter(tmp_path / "a", record=False, config={"revision": "abc"}))
    assert (info.base_ref, info.base_revision, info.run_id, info.created) == ("acme/base", "abc", None, None)


def test_the_revision_beside_a_folder_is_ignored_as_peft_does(tmp_path):
    config = {"revision": "main", "base_model_name_or_path": str(tmp_path)}
    info = AdapterInfo.read(write_adapter(tmp_path / "a", record=False, config=config))
    assert (info.base_ref, info.base_revision) == (str(tmp_path), None)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda d: (d / "adapter_config.json").unlink(), "no adapter_config.json"),
        (lambda d: (d / "adapter_model.safetensors").rename(d / "adapter_model.bin"), "pickle"),
        (lambda d: (d / "adapter_config.json").write_text("{"), "not readable JSON"),
        (lambda d: (d / "adapter_config.json").write_text("[]"), "JSON object"),
        (lambda d: (d / "backprop.json").write_bytes(b"\xff\xfe"), "not readable JSON"),
        (lambda d: (d / "backprop.json").write_text('{"schema_version": 2}'), "schema_version 2"),
        (lambda d: (d / "backprop.json").write_text('{"base_model": 3}'), "base_model"),
    ],
)
def test_damage_is_refused_by_name(tmp_path, damage, told):
    folder = write_adapter(tmp_path / "a")
    damage(folder)
    error = code_of(lambda: AdapterInfo.read(folder))
    assert error.code == "INPUT_ADAPTER_INVALID"
    assert told in error.message
    assert error.hint


def test_no_directory(tmp_path):
    assert code_of(lambda: AdapterInfo.read(tmp_path / "none")).code == "INPUT_ADAPTER_INVALID"


def test_the_wrong_base_is_refused_and_a_copy_is_not(tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 256,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.1",
    }
    base, copy, other = (tmp_path / n for n in ("base", "copy", "other"))
    for folder, changes in (
        (base, {}),
        (copy, {"transformers_version": "5.0", "torch_dtype": "float32"}),
        (other, {"hidden_size": 64}),
    ):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
    info = AdapterInfo.read(write_adapter(tmp_path / "a", base_path=base))
    info.check_base(base)
    info.check_base(copy)
    error = code_of(lambda: info.check_base(other))
    assert (error.code, "--base-model acme/base" in error.hint) == ("INPUT_WRONG_BASE", True)
    assert code_of(lambda: config_sha256(tmp_path)).code == "INPUT_BASE_INCOMPLETE"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["hidden_size", "rope_scaling", "vocab_size", "x"]), _JSON, max_size=4)
)
def test_the_configuration_hash_ignores_order_and_resaving(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("c")
    one, two = folder / "1.json", folder / "2.json"
    one.write_text(json.dumps(config))
    two.write_text(json.dumps({"transformers_version": "9", **dict(reversed(config.items()))}, indent=3))
    assert config_sha256(one) == config_sha256(two)


def test_licence_is_read_from_the_base(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: qwen-research\n---\n# x")
    assert "non-commercial" in licence_of(base, "x/y").notice
    folder = write_adapter(tmp_path / "a", record=False)
    assert write(folder, base_ref="x/y", base_path=base).licence == "qwen-research"
    assert licence_of(None, "google/gemma-3-270m").id == "gemma"
    assert "Built with Llama" in licence_of(None, "meta-llama/Llama-3.2-1B").notice
    assert licence_of(None, "Qwen/Qwen3-0.6B").notice == ""
    assert licence_of(None, "x/y", "mit") == licence_of(base, "a/b", "mit")
