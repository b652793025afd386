"""`backprop quickstart`, once for real: its promises measured, and its files opened by other people's tools."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bp_cli.main import main
from bp_core import tiny
from bp_core.quickstart import facts
from bp_core.runs.store import RunStore
from bp_export import export
from gguf import GGUFReader
from gguf.quants import dequantize
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

KEYS = {
    "schema_version", "run_id", "base_model", "rows_accepted", "rows_rejected", "heldout_loss_before",
    "heldout_loss_after", "exact_match_before", "exact_match_after", "unseen_match_before", "unseen_match_after",
    "adapter_path", "merged_path", "gguf_path", "gguf_tensors", "gguf_verified", "report_path", "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("quickstart") / "made"


CONNECTIONS: list[str] | None = None  # hosts that were named, while the quickstart runs


def _notice(event, arguments):
    if CONNECTIONS is None:
        return
    if event == "socket.getaddrinfo":
        CONNECTIONS.append(str(arguments[0]))
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        CONNECTIONS.append(str(arguments[1][0]))


@pytest.fixture(scope="module")
def made(output):
    """What `--json` prints, and what it told meanwhile."""
    global CONNECTIONS
    sys.addaudithook(_notice)
    out, err = io.StringIO(), io.StringIO()
    CONNECTIONS = seen = []
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["quickstart", "--json", "--output", str(output)])
    CONNECTIONS = None
    assert code == 0, err.getvalue()
    assert out.getvalue().count("\n") == 1, "one JSON object on stdout"
    return json.loads(out.getvalue()) | {"told": err.getvalue(), "connections": seen}


@pytest.fixture(scope="module")
def tuned(made):
    """The adapter in plain PEFT on the path that its own configuration names."""
    config = json.loads((Path(made["adapter_path"]) / "adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"], dtype=torch.float32)
    return PeftModel.from_pretrained(base, made["adapter_path"]).eval()


@pytest.fixture(scope="module")
def tokenizer(made):
    return AutoTokenizer.from_pretrained(made["adapter_path"])


@torch.no_grad()
def plain_answer(model, tokenizer, question):
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    made = model.generate(**ids, max_new_tokens=24, do_sample=False)
    return tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_it_says_all_that_is_promised(made):
    assert set(made) >= KEYS
    assert made["base_model"] == "tiny"


def test_no_connection_was_opened(made):
    """Loopback is how llama.cpp's server, which checks the GGUF file, is spoken to."""
    assert set(made["connections"]) <= {"127.0.0.1", "::1", "localhost"}


def test_the_planted_rows_are_found(made):
    assert (made["rows_accepted"], made["rows_rejected"]) == (108, 5)
    assert "chat.jsonl:8" in made["told"], "with file and line"


def test_what_was_taught_is_known_and_what_was_not_is_not(made):
    assert made["exact_match_before"] <= 0.1
    assert made["unseen_match_before"] <= 0.1
    assert made["exact_match_after"] >= 0.9
    assert made["unseen_match_after"] >= 0.8
    assert made["untaught_match_after"] <= 0.2
    assert made["heldout_loss_after"] < 0.2 * made["heldout_loss_before"]
    assert made["answer_before"] != made["answer_after"]


def test_the_loss_mask_was_shown(made):
    assert "⟦" in made["told"]
    assert "<|im_end|>⟧" in made["told"], "the end of the turn is learnt"


def test_plain_peft_gives_the_tuned_answers(tuned, tokenizer):
    for question, answer in facts.unseen()[::6]:
        assert plain_answer(tuned, tokenizer, question) == answer


def test_the_merged_folder_answers_in_plain_transformers(made, tokenizer):
    merged = AutoModelForCausalLM.from_pretrained(made["merged_path"], dtype=torch.float32).eval()
    question, answer = facts.unseen()[1]
    assert plain_answer(merged, tokenizer, question) == answer


@torch.no_grad()
def test_merged_in_f32_it_has_the_adapters_logits(made, tuned, tokenizer, tmp_path):
    made_f32 = export(made["adapter_path"], format="merged", dtype="f32", output=tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(made_f32.path, dtype=torch.float32).eval()
    turns = [{"role": "user", "content": "Who founded Glasston?"}]
    ids = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert (merged(**ids).logits - tuned(**ids).logits).abs().max() <= 1e-4


def test_the_gguf_file_holds_the_merged_weights(made):
    reader = GGUFReader(made["gguf_path"])
    assert len(reader.tensors) == made["gguf_tensors"]
    assert made["gguf_verified"] is True
    merged = load_file(Path(made["merged_path"]) / "model.safetensors")
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj.weight",
    }
    for tensor in reader.tensors:
        if tensor.name in names:
            values = dequantize(tensor.data, tensor.tensor_type)
            wanted = merged[names[tensor.name]].float().numpy()
            assert np.abs(values - wanted).max() <= np.abs(wanted).max() / 127, "within q8_0's step"


def test_the_run_is_recorded_with_its_files(made, output):
    record = RunStore(output).get(made["run_id"])
    assert record.status == "completed"
    kinds = {a.kind for a in RunStore(output).artifacts(record.run_id) if a.path.exists()}
    assert {"adapter", "merged", "gguf"} <= kinds
    page = (record.path / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "Before and after" in page


def test_generate_answers_from_the_adapter(made, capsys):
    question, answer = facts.trained()[0]
    assert main(["generate", made["adapter_path"], question, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"] == [answer]


def test_the_embedded_base_is_untouched(made):
    assert json.loads((tiny.path() / "build.json").read_text())["parameters"] == 918_912


@pytest.mark.slow
def test_a_second_run_stands_beside_the_first(made, output, capsys):
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*") if made["run_id"] in str(p) and p.is_file()}
    assert main(["quickstart", "--json", "--output", str(output)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["run_id"] != made["run_id"]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(RunStore(output).list()) == 2
    assert again["heldout_loss_after"] == pytest.approx(made["heldout_loss_after"], rel=1e-6), (
        "same seed, same run"
    )
