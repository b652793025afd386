"""Vocabularies resized for added tokens: baked, merged and GGUF compute what PEFT computes, or the cause is told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import resized
from bp_export.formats.job import export
from bp_export.gguf.lora import check_expressible
from bp_export.gguf.read import GgufFile
from bp_export.verify.gguf import log_softmax
from bp_export.verify.runtime import open_runtime
from bp_merge.adapter import Adapter
from bp_merge.bake import bake
from bp_merge.common import BpError
from safetensors.numpy import load_file, save_file
from tiny_models import reference

# PEFT tells of what a user of these ways asked for: saved embeddings and tied modules
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*save_embedding_layers.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tie.*:UserWarning"),
]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request, tmp_path_factory):
    return resized.base(tmp_path_factory.mktemp("models") / "base", tied=request.param)


def size(folder) -> int:
    return json.loads((folder / "config.json").read_text())["vocab_size"]


def tied(folder) -> bool:
    return json.loads((folder / "config.json").read_text())["tie_word_embeddings"]


def near(found, wanted):
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() / np.abs(wanted).max() < 1e-5


@pytest.mark.parametrize("way", resized.WAYS)
def test_every_way_of_peft_computes_the_same_everywhere(base, tmp_path, way):
    rows = size(base) + 5
    path = resized.adapter(base, tmp_path / "adapter", rows, **resized.WAYS[way])
    ids = [*range(260, 280), rows - 5, rows - 1]
    wanted = resized.logits(base, path, rows, ids)
    bake(base, [Adapter.load(path)], tmp_path / "baked", untie=True)
    near(reference(tmp_path / "baked")(ids), wanted)
    merged = export(path, format="merged", output=tmp_path / "merged")
    assert size(merged.path) == rows
    near(reference(merged.path)(ids), wanted)
    written = export(path, format="gguf", quantization="f32", output=tmp_path / "f32.gguf")
    tokens = GgufFile(written.path).keys["tokenizer.ggml.tokens"]
    assert len(tokens) == rows
    assert set(resized.ADDED) <= set(tokens)
    live = open_runtime(written.path, context=64)
    assert live is not None
    try:
        apart = np.abs(live.logits(ids) - log_softmax(wanted)).max()
    finally:
        live.close()
    assert apart / np.abs(wanted).max() < 1e-5
    with pytest.raises(BpError) as caught:
        export(path, format="gguf-lora", output=tmp_path / "lora.gguf")
    assert caught.value.code == "INPUT_ADAPTER_NOT_EXPRESSIBLE"
    assert "--format gguf" in caught.value.hint


@pytest.mark.parametrize(
    "fields",
    [
        {"use_rslora": True, "target_modules": ["q_proj", "lm_head"]},
        {"use_dora": True},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"trainable_token_indices": True, "target_modules": ["q_proj", "lm_head"]},
    ],
    ids=["head", "dora", "embedding", "rows-and-head"],
)
@pytest.mark.parametrize("more", [5, -8], ids=["grown", "shrunk"])
def test_other_parts_of_a_resized_adapter(base, tmp_path, fields, more):
    rows = size(base) + more
    if more < 0 and "trainable_token_indices" in fields:
        pytest.skip("a shrunk vocabulary has no new rows to train")
    path = resized.adapter(base, tmp_path / "adapter", rows, **fields)
    ids = [*range(260, 280), rows - 1]
    wanted = resized.logits(base, path, rows, ids)
    one_side = {"lm_head", "embed_tokens"} & set(fields.get("target_modules", ()))
    if more > 0 and one_side and tied(base) == ("trainable_token_indices" in fields):
        # PEFT saves the adapted side alone (untied), or neither side (tied, beside trained rows)
        with pytest.raises(BpError) as caught:
            bake(base, [Adapter.load(path)], tmp_path / "baked", untie=True)
        assert caught.value.code == "INPUT_EMBEDDINGS_MISSING"
        return
    bake(base, [Adapter.load(path)], tmp_path / "baked", untie=True)
    near(reference(tmp_path / "baked")(ids), wanted)


def test_older_keys_of_saved_modules_are_read(base, tmp_path):
    rows = size(base) + 5
    path = resized.adapter(base, tmp_path / "adapter", rows, **resized.WAYS["modules_to_save"])
    file = path / "adapter_model.safetensors"
    whole = {k: v for k, v in load_file(file).items() if "original_module" not in k}
    wanted = Adapter.load(path).full
    older = {
        k.replace(".modules_to_save.weight", ".modules_to_save.default.weight"): v
        for k, v in whole.items()
        if not k.endswith(("embed_tokens.weight", "lm_head.weight"))
    }
    assert any("modules_to_save.default" in k for k in older)
    save_file(older, file)
    found = Adapter.load(path).full
    assert found.keys() == wanted.keys() == {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(np.array_equal(found[k], wanted[k]) for k in found)


def test_rows_that_are_nowhere_have_a_cause_of_their_own(base, tmp_path):
    rows = size(base) + 5
    path = resized.adapter(base, tmp_path / "adapter", rows)
    file = path / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if "lora_" in k}, file)
    tokens = json.loads((path / "tokenizer.json").read_text())
    tokens["added_tokens"][-1]["id"] = rows - 1
    (path / "tokenizer.json").write_text(json.dumps(tokens))
    for kind in ("merged", "gguf"):
        with pytest.raises(BpError) as caught:
            export(path, format=kind, output=tmp_path / kind)
        assert caught.value.code == "INPUT_EMBEDDINGS_MISSING"
        assert "save_embedding_layers=True" in caught.value.hint
        assert not (tmp_path / kind).exists()
    save_file({k: v for k, v in tensors.items() if "lm_head" not in k or "lora" in k}, file)
    if not tied(base):
        with pytest.raises(BpError, match="lm_head") as caught:
            bake(base, [Adapter.load(path)], tmp_path / "baked")
        assert caught.value.code == "INPUT_EMBEDDINGS_MISSING"
    else:  # one tensor: the head is the embedding
        bake(base, [Adapter.load(path)], tmp_path / "baked")


def test_an_adapter_that_holds_embeddings_is_no_gguf_lora(base, tmp_path):
    path = resized.adapter(base, tmp_path / "adapter", size(base) + 5)
    with pytest.raises(BpError, match="whole tensors"):
        check_expressible(Adapter.load(path))


def test_an_adapted_input_embedding_of_a_tied_base_is_no_gguf_lora(base, tmp_path):
    path = resized.adapter(base, tmp_path / "adapter", size(base), target_modules=["embed_tokens"])
    if tied(base):
        with pytest.raises(BpError, match="ties it") as caught:
            export(path, format="gguf-lora", output=tmp_path / "lora.gguf")
        assert caught.value.code == "INPUT_ADAPTER_NOT_EXPRESSIBLE"
        assert not (tmp_path / "lora.gguf").exists()
    else:
        export(path, format="gguf-lora", output=tmp_path / "lora.gguf")
