"""From an adapter to every format: what is written, what is checked, and that nothing half-written gets a name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from adapters import write_adapter
from bp_export.adapter import directory as adapter_dir
from bp_export.formats.job import ExportResult, export
from bp_export.gguf.read import GgufFile
from bp_merge.common import BpError
from fakes.fake_ollama import fake_ollama
from safetensors.numpy import load_file, save_file
from tiny_models import build, reference

KEYS = {
    "format",
    "path",
    "quantization",
    "size_bytes",
    "tensors",
    "verified",
    "token_ids_equal",
    "top1_agreement",
    "kl",
    "seconds",
    "peak_rss_mb",
}
MODULES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A Llama-like model whose q_proj and o_proj are 256x256: rope rows are permuted on the way to GGUF."""
    folder = build("llama3", tmp_path_factory.mktemp("models") / "tiny-base")
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.6, "top_p": 0.9})
    )
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, base):
    """An adapter with a tokenizer of its own, as training writes it."""
    folder = write_adapter(
        tmp_path_factory.mktemp("adapters") / "law",
        base_ref=str(base),
        base_path=base,
        modules=("self_attn.q_proj", "self_attn.o_proj"),
        scale=0.1,
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, folder / name)
    (folder / "chat_template.jinja").unlink()
    info = adapter_dir.AdapterInfo.read(folder)
    adapter_dir.write(
        folder, base_ref=str(base), base_path=base, run_id=info.run_id, method="sft", licence="gemma"
    )
    return folder


@pytest.fixture
def adapter(tmp_path, made):
    return Path(shutil.copytree(made, tmp_path / "law"))


def code_of(call) -> BpError:
    with pytest.raises(BpError) as caught:
        call()
    return caught.value


def names(folder: Path) -> set[str]:
    return {f.name for f in folder.iterdir()} if folder.is_dir() else set()


def peft_logits(base: Path, adapter: Path, ids: list[int]) -> np.ndarray:
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        return peft.PeftModel.from_pretrained(model, adapter).eval()(torch.tensor([ids])).logits[0].numpy()


def test_lora_is_the_default_and_copies_what_belongs_to_it(adapter):
    (adapter / "optimizer.pt").write_bytes(b"x" * 100)
    result = export(adapter)
    assert (result.format, result.path, result.quantization) == ("lora", adapter / "lora", None)
    assert names(result.path) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "backprop.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert set(result.to_dict()) >= KEYS
    assert set(result.unchecked) == {"token_ids_equal", "top1_agreement", "kl"}
    assert any("Gemma" in n for n in result.notices)


def test_merged_gives_pefts_logits_and_loads_in_transformers(adapter, base):
    result = export(adapter, format="merged")
    assert result.verified is True
    assert names(result.path) >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "generation_config.json",
    }
    assert not [n for n in names(result.path) if n.startswith(".")]
    assert json.loads((result.path / "generation_config.json").read_text())["temperature"] == 0.6
    assert json.loads((result.path / "export.json").read_text())["format"] == "merged"
    ids = list(range(20, 60))
    want = peft_logits(base, adapter, ids)
    assert np.abs(reference(result.path)(ids) - want).max() < 1e-4
    assert np.abs(reference(base)(ids) - want).max() > 1e-2, "the adapter changes something"


def test_gguf_in_one_pass_runs_in_llama_cpp_as_peft_does(adapter, base):
    result = export(
        adapter,
        format="gguf",
        quantization="f16",
        verify=True,
        reference=lambda ids: peft_logits(base, adapter, ids),
    )
    assert result.path.name == "tiny-base-law-F16.gguf"
    assert (result.verified, result.token_ids_equal) == (True, True)
    assert result.kl is not None
    assert result.kl < 1e-4
    assert result.top1_agreement is not None
    assert result.top1_agreement > 0.97
    assert result.delta is not None
    assert result.delta["share"] > 0.95
    assert names(result.path.parent) == {
        "tiny-base-law-F16.gguf",
        "tiny-base-law-F16.export.json",
        "Modelfile",
    }
    keys = GgufFile(result.path).keys
    assert keys["backprop.run_id"] == "run-1234"
    assert keys["general.license"] == "gemma"
    assert keys["general.base_model.0.name"] == "tiny-base"
    stored = json.loads(result.path.with_suffix(".export.json").read_text())
    assert stored["kl"] == result.kl
    text = (result.path.parent / "Modelfile").read_text()
    assert text.startswith("FROM ./tiny-base-law-F16.gguf\nTEMPLATE ")
    assert "PARAMETER temperature 0.6" in text
    assert 'PARAMETER stop """<|im_end|>"""' in text


def test_alone_our_own_file_is_the_reference(adapter):
    result = export(adapter, format="gguf", verify=True)
    assert result.quantization == "q4_k_m"
    assert result.reference == "our own f16 GGUF of the same weights"
    assert "cannot be seen" in result.unchecked["computation"]
    assert result.kl is not None
    assert 0 < result.kl < 1.0
    assert names(result.path.parent) == {
        "tiny-base-law-Q4_K_M.gguf",
        "tiny-base-law-Q4_K_M.export.json",
        "Modelfile",
    }


def test_the_f16_reference_is_as_good_as_f32_and_never_checks_its_own_type(adapter):
    result = export(adapter, format="gguf", quantization="f16", verify=True)
    assert result.reference == "our own f32 GGUF of the same weights"
    assert result.kl is not None
    assert 0 < result.kl <= 1e-5  # what the f16 reference of a coarser file adds


def test_where_f16_is_too_narrow_f32_is_the_reference_and_that_is_told(base, tmp_path):
    wide = shutil.copytree(base, tmp_path / "wide")
    tensors = load_file(wide / "model.safetensors")
    name = "model.embed_tokens.weight"
    tensors["lm_head.weight"] = tensors[
        name
    ].copy()  # untied: a token that no text holds changes no prediction
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    tensors[name] = tensors[name].astype(np.float32)
    tensors[name][-1, 0] = 1e5
    save_file(tensors, wide / "model.safetensors", metadata={"format": "pt"})
    told: list[str] = []
    result = export(
        wide, format="gguf", quantization="q8_0", verify=True, output=tmp_path / "o", note=told.append
    )
    assert result.reference == "our own f32 GGUF of the same weights"
    assert any("f32 takes its place" in line for line in told)
    assert not list(result.path.parent.glob(".*"))


def test_one_pass_writes_what_merge_and_convert_write(adapter):
    merged = export(adapter, format="merged", dtype="f32").path
    two_steps = export(merged, format="gguf", quantization="q8_0", output=adapter / "two")
    one_step = export(adapter, format="gguf", quantization="q8_0", output=adapter / "one")
    a, b = GgufFile(two_steps.path), GgufFile(one_step.path)
    assert list(a.tensors) == list(b.tensors)
    for name in a.tensors:
        assert np.array_equal(a.read_raw(name), b.read_raw(name)), name


def test_the_adapter_as_gguf_gives_the_merged_models_logits(adapter, base):
    from bp_export.verify.gguf import verify

    lora = export(adapter, format="gguf-lora").path
    whole = export(base, format="gguf", quantization="f32", output=adapter / "base").path
    found = verify(whole, lambda ids: peft_logits(base, adapter, ids), lora=[(lora, 1.0)], runtime=True)
    assert found.kl is not None
    assert found.kl < 1e-4


def test_verify_runs_the_adapter_on_its_base_beside_the_merged_model(adapter):
    result = export(adapter, format="gguf-lora", verify=True)
    assert (result.verified, result.token_ids_equal, result.top1_agreement) == (True, True, 1.0)
    assert result.kl is not None
    assert result.kl < 1e-6
    assert result.reference == "our own f32 GGUF of the same weights"
    assert "cannot be seen" in result.unchecked["computation"]
    assert names(result.path.parent) == {result.path.name, result.path.with_suffix(".export.json").name}


def test_verify_compares_every_merged_value(adapter):
    from bp_export.adapter.inputs import open_inputs
    from bp_export.formats.merged import compare

    folder = export(adapter, format="merged", verify=True).path
    tensors = {k: v.copy() for k, v in load_file(folder / "model.safetensors").items()}
    tensors["model.layers.1.self_attn.q_proj.weight"][-1, -1] += 1e-3
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with open_inputs(adapter).weights() as source:
        compare(source, folder, every=False)  # a sample need not see the last row
        error = code_of(lambda: compare(source, folder, every=True))
    assert error.code == "RUNTIME_EXPORT_FAILED"
    assert error.details["tensors"] == ["model.layers.1.self_attn.q_proj.weight"]


def test_registered_with_ollama(adapter):
    with fake_ollama() as server:
        result = export(
            adapter,
            format="gguf",
            quantization="q8_0",
            ollama=True,
            ollama_name="my-model",
            ollama_host=server.url,
            system="Be brief.",
        )
        assert result.ollama is not None
        assert result.ollama["name"] == "my-model:latest"
        assert "my-model:latest" in server.models
        assert server.creates[0]["parameters"]["temperature"] == 0.6
        assert list(server.blobs.values()) == [result.path.read_bytes()]
        error = code_of(
            lambda: export(
                adapter,
                format="gguf",
                quantization="q4_0",
                ollama=True,
                ollama_name="my-model",
                ollama_host=server.url,
                overwrite=False,
            )
        )
        assert error.code == "OLLAMA_MODEL_EXISTS"
        assert not list((adapter / "gguf").glob("*Q4_0*")), "refused before an hour of quantizing"


def test_unmerged_on_the_shelf(adapter):
    with fake_ollama() as server:
        server.add("llama3.2:latest")
        result = export(
            adapter, format="ollama-adapter", base_model="llama3.2", adapter_tag="law", ollama_host=server.url
        )
        assert result.ollama is not None
        assert result.ollama["name"] == "llama3.2:law"
        [sent] = server.creates
        assert (sent["from"], list(sent["adapters"])) == ("llama3.2:latest", [result.path.name])
        assert "<|im_start|>" in sent["template"]
        (adapter / "ollama-adapter" / result.path.name).unlink()
        error = code_of(
            lambda: export(
                adapter, format="ollama-adapter", base_model="phi9", adapter_tag="x", ollama_host=server.url
            )
        )
        assert error.code == "OLLAMA_MODEL_NOT_FOUND"
        assert not result.path.exists(), "refused before the work"


def test_a_server_that_is_down_is_told_before_the_work(adapter):
    error = code_of(lambda: export(adapter, format="gguf", ollama=True, ollama_host="http://127.0.0.1:9"))
    assert error.code == "DEP_OLLAMA_UNREACHABLE"
    assert not (adapter / "gguf").exists()


@pytest.mark.parametrize("format", ["lora", "merged", "gguf", "gguf-lora"])
def test_dry_run_and_a_full_disk_write_nothing(adapter, format):
    before = sorted(adapter.rglob("*"))
    result = export(adapter, format=format, dry_run=True)
    assert result.dry_run
    assert result.plan is not None
    assert result.plan.output_bytes > 0
    assert result.unchecked["verified"] == "nothing was written: dry run"
    error = code_of(lambda: export(adapter, format=format, reserve_disk_gb=1e9))
    assert (error.code, error.exit_code) == ("RUNTIME_DISK_FULL", 2)
    assert error.details["needed"] > error.details["free"]
    assert sorted(adapter.rglob("*")) == before


def test_the_plan_is_right(adapter):
    for format, quantization in (("merged", "f16"), ("gguf", "q4_k_m"), ("gguf", "f16")):
        result = export(
            adapter, format=format, quantization=quantization, output=adapter / f"{format}-{quantization}"
        )
        assert result.plan is not None
        assert result.plan.output_bytes == pytest.approx(result.size_bytes, rel=0.1)


def test_overwrite_off_refuses_and_inputs_are_never_written_over(adapter, base):
    first = export(adapter)
    assert code_of(lambda: export(adapter, overwrite=False)).code == "INPUT_OUTPUT_EXISTS"
    assert export(adapter).path == first.path
    assert code_of(lambda: export(adapter, output=adapter)).code == "INPUT_VALIDATION_FAILED"
    assert code_of(lambda: export(adapter, format="merged", output=base)).code == "INPUT_VALIDATION_FAILED"


def _nan(adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors[min(tensors)][0, 0] = np.nan
    save_file(tensors, adapter / "adapter_model.safetensors")


def _cut(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def _garbage(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(b"\xff" * 64)


def _renamed(adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {k.replace("layers.1", "layers.7"): v for k, v in tensors.items()},
        adapter / "adapter_model.safetensors",
    )


def _shape(adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors = {k: (np.ascontiguousarray(v[:, :64]) if "lora_A" in k else v) for k, v in tensors.items()}
    save_file(tensors, adapter / "adapter_model.safetensors")


@pytest.mark.parametrize("damage", [_nan, _cut, _garbage, _renamed, _shape])
@pytest.mark.parametrize("format", ["merged", "gguf", "gguf-lora"])
def test_damaged_adapters_are_coded_and_leave_no_file(adapter, damage, format):
    damage(adapter)
    error = code_of(lambda: export(adapter, format=format))
    assert error.code.startswith(("INPUT_", "RUNTIME_EXPORT")), error
    assert error.hint
    folder = adapter / format
    assert not list(folder.glob("*.gguf"))
    assert not list(folder.glob("*.safetensors"))


def _base_nan(base: Path) -> None:
    tensors = {k: v.copy() for k, v in load_file(base / "model.safetensors").items()}
    tensors["model.layers.1.mlp.up_proj.weight"][-1, -1] = np.nan  # no adapter touches it
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def _base_cut(base: Path) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _base_config(base: Path) -> None:
    (base / "config.json").write_text("{")


@pytest.mark.parametrize("damage", [_base_nan, _base_cut, _base_config])
@pytest.mark.parametrize("format", ["merged", "gguf"])
def test_damaged_bases_are_coded_and_leave_no_file(adapter, base, tmp_path, damage, format):
    broken = Path(shutil.copytree(base, tmp_path / "broken"))
    damage(broken)
    error = code_of(lambda: export(adapter, format=format, base_model=str(broken)))
    assert error.code.startswith("INPUT_"), error
    assert error.hint
    if damage is _base_nan:
        assert "layers.1.mlp.up_proj" in error.message
    assert not list((adapter / format).glob("*"))


def test_the_wrong_base_and_a_missing_tokenizer(adapter, base, tmp_path):
    other = Path(shutil.copytree(base, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert code_of(lambda: export(adapter, format="gguf", base_model=str(other))).code == "INPUT_WRONG_BASE"
    bare = Path(shutil.copytree(base, tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    (adapter / "tokenizer.json").unlink()
    error = code_of(lambda: export(adapter, format="gguf", base_model=str(bare)))
    assert (error.code, error.details["missing"]) == ("INPUT_BASE_INCOMPLETE", ["tokenizer.json"])


def test_an_unknown_architecture_is_refused_by_name_before_any_work(tmp_path, base):
    odd = Path(shutil.copytree(base, tmp_path / "odd"))
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(
        json.dumps({**config, "architectures": ["MambaForCausalLM"], "model_type": "mamba"})
    )
    error = code_of(lambda: export(odd, format="gguf"))
    assert error.code == "INPUT_ARCHITECTURE_UNKNOWN"
    assert "Mamba" in error.message
    assert not (odd / "gguf").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ollama": True}, "needs a GGUF"),
        ({"format": "ollama-adapter"}, "needs the base"),
        ({"adapter_tag": "x"}, "belongs to"),
        ({"format": "gguf", "dtype": "f16"}, "belongs to"),
        ({"format": "gguf", "ollama_name": "x"}, "belongs to"),
        ({"format": "zip"}, "one of"),
        ({"quantization": "q9"}, "one of"),
        ({"quantisation": "q8_0"}, "no setting 'quantisation'"),
        ({"threads": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(adapter, settings, told):
    error = code_of(lambda: export(adapter, **settings))
    assert error.code == "INPUT_VALIDATION_FAILED"
    assert told in error.message


def test_the_result_is_json(adapter):
    result = export(adapter, format="gguf-lora")
    assert isinstance(result, ExportResult)
    assert json.loads(json.dumps(result.to_dict()))["path"] == str(result.path)
