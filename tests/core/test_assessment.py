"""An evaluation from a name to a verdict: loss, answers, pairs, comparison, gates, the record, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading

import httpx
import numpy as np
import pytest
import torch
from answering import FACTS, train, write_facts
from bp_core.assessment import run as assessment_run
from bp_core.assessment.loss import loss_of, pair_scores
from bp_core.assessment.measure import cases_of, choice_of
from bp_core.assessment.opening import open_source
from bp_core.assessment.run import run_evaluation
from bp_core.assessment.sets import RowSet, heldout_rows
from bp_core.assessment.sources import Source, find_source
from bp_core.encoding.example_files import read_examples, write_examples
from bp_core.evaluation.rows import EvalRow, drawn, read_rows, rows_of
from bp_core.generation.endpoint import Endpoint
from bp_core.generation.prompts import Answer, Prompt
from bp_core.generation.serve import Server
from bp_core.runs.store import RunStore
from bp_core.settings.groups.evaluation import EvalSettings
from bp_core.settings.groups.generation import GenerationSettings, SourceSettings
from bp_data.example import Example, Turn
from bp_export import export
from bp_merge.common import BpError
from provoked import provoke

SHORT = EvalSettings(max_new_tokens=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(output folder, result) of a run that knows something that its base does not."""
    folder = tmp_path_factory.mktemp("run")
    result = train(folder, steps=30, save_steps=10)
    return folder / "out", result


@pytest.fixture(scope="module")
def local(made):
    output, result = made
    return open_source(find_source(result.run_id, output))


def evaluated(made, settings=SHORT, name=None, **more):
    output, result = made
    return run_evaluation(name or result.run_id, output, settings, **more)


def test_the_loss_is_that_of_training_and_of_transformers(made, local):
    output, result = made
    record = RunStore(output).get(result.run_id)
    rows = heldout_rows(record)
    assert [row.id for row in rows] == record.dataset["heldout_ids"]
    scores = loss_of(local, rows, [])
    assert scores.value == pytest.approx(result.heldout_loss_after, rel=1e-5)
    for i, row in enumerate(rows[:3]):
        (piece,) = local.encoder.encode([row.example])
        ids = torch.tensor([piece.ids])
        labels = ids.masked_fill(torch.tensor([list(piece.mask)]) == 0, -100)
        with torch.no_grad():
            theirs = local.model(input_ids=ids, labels=labels).loss
        assert scores.values[i] == pytest.approx(float(theirs), rel=1e-5)


def test_an_evaluation_compares_with_the_base_and_is_recorded(made):
    output, result = made
    found = evaluated(made, dataclasses.replace(SHORT, vs="base"))
    told = found.to_dict()
    assert told["heldout_loss"] == pytest.approx(result.heldout_loss_after, rel=1e-5)
    assert told["perplexity"] == pytest.approx(np.exp(told["heldout_loss"]))
    assert told["profile"] == "qa"
    assert set(told["task_metrics"]) == {"token_f1", "normalized_exact_match"}
    assert told["eval_n"] == told["heldout_n"] == 8
    assert any("8 rows are few" in w for w in told["warnings"])
    loss = told["comparison"]["heldout"]["loss"]
    assert loss["baseline"] == pytest.approx(result.heldout_loss_before, rel=1e-5)
    assert {"prompt", "expected", "answer", "baseline_answer"} == set(told["generations"][0])
    job = RunStore(output).get(found.run_id)
    assert (job.kind, job.status, job.parent) == ("eval", "completed", result.run_id)
    assert job.result["task_metrics"] == told["task_metrics"]
    assert json.loads(json.dumps(told)) is not None
    kinds = {a.kind: a.path for a in RunStore(output).artifacts(found.run_id)}
    page = kinds["report"].read_text(encoding="utf-8")
    assert "figures" in page
    assert "<script" not in page
    rows = [json.loads(line) for line in kinds["rows"].read_text(encoding="utf-8").splitlines()]
    assert [r["id"] for r in rows] == RunStore(output).get(result.run_id).dataset["heldout_ids"]


def test_the_same_seed_gives_the_same_evaluation(made):
    one, two = (evaluated(made, dataclasses.replace(SHORT, num_samples=3, seed=4)) for _ in range(2))
    assert one.main.result.task_metrics == two.main.result.task_metrics
    assert [c.id for c in one.main.cases] == [c.id for c in two.main.cases]
    assert len(one.main.cases) == 3


def test_a_gate_trips_where_the_model_is_worse_and_holds_where_it_is_better(made):
    output, result = made
    heldout = write_facts(output.parent / "taught.jsonl")
    gate = dataclasses.replace(SHORT, heldout=heldout, gate_against=result.run_id, num_samples=4)
    worse = evaluated(made, gate, name="tiny")
    assert not worse.passed
    assert worse.to_dict()["gate"]["gates"][0]["gate"]["metric"] == "loss"
    better = evaluated(made, dataclasses.replace(gate, gate_against="tiny", gate_metric=("contains",)))
    assert better.passed
    assert [o.gate.metric for o in better.verdict.outcomes] == ["loss", "contains"]
    with pytest.raises(BpError) as caught:
        worse.verdict.require()
    assert (caught.value.code, caught.value.exit_code) == ("RUNTIME_EVAL_GATE_REGRESSED", 65)


def test_a_pack_judges_its_sets_and_stores_its_verdict(made, tmp_path):
    output, _ = made
    write_facts(tmp_path / "capitals.jsonl", ["Peru", "Cuba"])
    pack = tmp_path / "pack.toml"
    pack.write_text(
        '[sets.capitals]\ndata = "capitals.jsonl"\n[[gates]]\nset = "capitals"\nmetric = "contains"\nthreshold = 1.1\n'
        '[[gates]]\nset = "capitals"\nmetric = "loss"\nthreshold = 99.0\nrequired = false\n'
    )
    found = evaluated(made, dataclasses.replace(SHORT, pack=pack))
    assert not found.passed
    assert [o.held for o in found.verdict.sets["capitals"].outcomes] == [False, True]
    stored = json.loads((output / found.run_id / "verdict.json").read_text(encoding="utf-8"))
    assert stored["passed"] is False
    assert "contains" in found.main.result.task_metrics


def test_a_failed_runs_newest_checkpoint_is_asked_and_exported(made, tmp_path):
    output, result = made
    copy = tmp_path / "out"
    shutil.copytree(output, copy)
    shutil.rmtree(copy / result.run_id / "adapter")
    shutil.rmtree(copy / result.run_id / "checkpoints" / "step-00000030")
    told = []
    found = find_source(result.run_id, copy, tell=told.append)
    assert found.where.endswith("adapter-step-00000020")
    assert "step 20" in told[0]
    assert find_source(str(copy / result.run_id), copy).where == found.where
    model = open_source(found)
    assert model.ends() == open_source(find_source(result.run_id, output)).ends()
    text = model.answer([Prompt.of("Capital of Peru?")], GenerationSettings(max_new_tokens=6))[0][0].text
    assert text
    assert export(found.where, format="lora", output=tmp_path / "lora").path
    shutil.rmtree(copy / result.run_id / "checkpoints")
    shutil.rmtree(found.where)
    provoke(
        BpError, "STATE_RUN_NO_ADAPTER", "no complete checkpoint", lambda: find_source(result.run_id, copy)
    )


def test_held_out_rows_stand_in_the_runs_folder(made, tmp_path):
    output, result = made
    record = RunStore(output).get(result.run_id)
    assert [row.id for row in heldout_rows(record)] == record.dataset["heldout_ids"]
    gone = dataclasses.replace(record, path=tmp_path)
    provoke(BpError, "INPUT_EVAL_HELDOUT_MISSING", "does not hold", lambda: heldout_rows(gone))


def test_examples_are_written_and_read_back(tmp_path):
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    turns = (
        Turn("user", "a"),
        Turn("assistant", "", (call,), reasoning="hm", train=False),
        Turn("tool", "1", tool_call_id="c"),
    )
    given = [
        Example(
            "1",
            "s",
            1,
            "chat",
            turns,
            reference=[{"a": 1}],
            task="structured",
            tools=({"type": "function"},),
            meta={"k": [1]},
        ),
        Example(
            "2",
            "s",
            2,
            "preference",
            turns[:1],
            chosen=(Turn("assistant", "y"),),
            rejected=(Turn("assistant", "n"),),
        ),
        Example("3", "s", 3, "text", text="\u2028 é"),
    ]
    assert read_examples(write_examples(tmp_path / "e.jsonl", given)) == given
    assert [row.id for row in rows_of([given[0]] * 2)] == ["1", "1#2"]


def test_pairs_are_scored_by_the_models_own_probabilities(local):
    turns = (Turn("user", "Capital of Peru?"),)
    pair = Example("p:1", "p", 1, "preference", turns, chosen=(Turn("assistant", "Lima."),), rejected=(Turn("assistant", "Oslo."),))  # fmt: skip
    rows = [EvalRow.of(pair)]
    assert choice_of(RowSet("s", rows), rows).profile.name == "preference"
    found = pair_scores(local, rows, [])["p:1"]
    for side, answer in (("chosen", "Lima."), ("rejected", "Oslo.")):
        whole = Example("c", "c", 1, "chat", (*turns, Turn("assistant", answer)))
        loss = loss_of(local, [EvalRow.of(whole)], [])
        assert found[side] == pytest.approx(-loss.value, rel=1e-5)
    assert loss_of(local, rows, []).value == pytest.approx(-found["chosen"], rel=1e-5)


def test_rows_say_what_is_asked_and_expected(tmp_path):
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "", (call,)))
    row = EvalRow.of(Example("1", "s", 1, "chat", turns))
    assert row.turns == turns[:3]
    assert row.reference == [call]
    (tmp_path / "q.jsonl").write_text('{"prompt": "2+2?", "references": ["4", "four"]}\n{"prompt": ""}\n')
    told = []
    (row,) = read_rows(tmp_path / "q.jsonl", told)
    assert row.reference == ["4", "four"]
    assert "line 2" in told[0]
    many = [dataclasses.replace(row, id=str(i)) for i in range(50)]
    ids = [r.id for r in drawn(many, 5, 1)]
    assert ids == [r.id for r in drawn(many, 5, 1)] != [r.id for r in drawn(many, 5, 2)]
    assert ids == sorted(ids, key=int)
    assert drawn(many, 0, 1) == many


def test_code_is_run_only_where_that_was_allowed():
    row = EvalRow("1", Example("1", "s", 1, "prompt"), (Turn("user", "add"),), tests=("assert add(1, 2) == 3", "assert add(0, 0) == 1"))  # fmt: skip
    answers = [[Answer("```python\ndef add(a, b):\n    return a + b\n```", "stop")]]
    assert choice_of(RowSet("s", [row]), [row]).profile.name == "code"
    assert isinstance(cases_of([row], answers, EvalSettings())[0].prediction, str)
    allowed = EvalSettings(code_exec=True, code_network=True)
    assert cases_of([row], answers, allowed)[0].prediction == [True, False]
    assert cases_of([row], [answers[0] * 2], allowed)[0].prediction == [False, False]


def test_a_gguf_file_answers_in_llama_cpp_as_the_model_it_was_made_of(made):
    output, result = made
    made_file = export(result.adapter_path, format="gguf", quantization="f32", output=output.parent / "gguf")
    rows = write_facts(output.parent / "all.jsonl")
    settings = dataclasses.replace(SHORT, eval_set=rows, vs=result.run_id)
    found = run_evaluation(str(made_file.path), output, settings)
    main = found.main
    assert main.result.eval_n == len(FACTS)
    assert found.comparisons["eval"]["token_f1"].delta == 0
    assert [a[0].text for a in main.answers] == [a[0].text for a in found.baseline["eval"].answers]
    assert any("no loss" in w for w in found.warnings)
    (output.parent / "broken.gguf").write_bytes(b"GGUF")
    broken = find_source(str(output.parent / "broken.gguf"), output)
    provoke(BpError, "RUNTIME_LLAMA_LOAD_FAILED", "does not load", lambda: open_source(broken))


def test_what_breaks_in_the_midst_is_told_and_recorded(made, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("the sky fell")

    monkeypatch.setattr(assessment_run, "measure", broken)
    output, _ = made
    error = provoke(BpError, "RUNTIME_EVAL_FAILED", "the sky fell", lambda: evaluated(made))
    assert error.exit_code == 2
    assert RunStore(output).get(error.details["run_id"]).status == "failed"
    monkeypatch.setattr(
        assessment_run, "measure", lambda *a, **k: (_ for _ in ()).throw(torch.OutOfMemoryError())
    )
    assert provoke(BpError, "RUNTIME_GPU_OOM", "out of memory", lambda: evaluated(made)).exit_code == 137


REFUSED = {
    "two ways to name metrics": (
        EvalSettings(metric=("bleu",), profile="qa"),
        "CONFIG_CONFLICT",
        "--profile",
    ),
    "a pack and flags": (EvalSettings(pack="p.toml", gate_metric=("loss",)), "CONFIG_CONFLICT", "pack"),
    "no such profile": (EvalSettings(profile="qaa"), "INPUT_EVAL_PROFILE_UNKNOWN", "did you mean"),
    "no such gate": (EvalSettings(gate_metric=("blue",)), "INPUT_METRIC_UNKNOWN", "did you mean"),
    "no such baseline": (EvalSettings(vs="nobody"), "INPUT_RUN_NOT_FOUND", "nobody"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_recorded(made, row):
    settings, code, cause = REFUSED[row]
    output, _ = made
    before = len(RunStore(output).list())
    provoke(BpError, code, cause, lambda: evaluated(made, settings))
    assert len(RunStore(output).list()) == before


def test_benchmarks_need_lm_eval(made, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = dataclasses.replace(SHORT, benchmark=("arc_easy",))
    provoke(BpError, "DEP_EVAL_MISSING", "lm-eval", lambda: evaluated(made, settings))


SOURCES = {
    "./no/folder": "INPUT_MODEL_NOT_FOUND",
    "no.gguf": "INPUT_MODEL_NOT_FOUND",
    "nobody": "INPUT_RUN_NOT_FOUND",
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_name_of_nothing_is_refused(made, name):
    provoke(BpError, SOURCES[name], name, lambda: find_source(name, made[0]))


def test_names_of_models(made, tmp_path):
    output, result = made
    assert find_source("tiny", output).kind == "model"
    assert find_source("http://localhost:1/v1", output).kind == "endpoint"
    assert find_source(result.run_id[:18], output).run.run_id == result.run_id
    assert find_source(str(result.adapter_path), output).run.run_id == result.run_id
    assert find_source("latest", output).base
    provoke(
        BpError,
        "CONFIG_CONFLICT",
        "no adapter",
        lambda: find_source("tiny", output, SourceSettings(base="tiny")),
    )
    (tmp_path / "empty").mkdir()
    provoke(BpError, "INPUT_ADAPTER_INVALID", "empty", lambda: find_source(str(tmp_path / "empty"), output))


def test_a_gguf_without_llama_cpp_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "xllamacpp", None)
    source = Source("gguf", "m.gguf", "m.gguf")
    provoke(BpError, "DEP_LLAMA_MISSING", "not installed", lambda: open_source(source))


def test_training_measures_answers_and_keeps_the_best_by_them(tmp_path):
    taught = write_facts(tmp_path / "asked.jsonl")
    told = {
        "heldout": str(taught),
        "eval_metrics": ("contains", "rouge1"),
        "eval_answers": 5,
        "best_by": "contains",
    }
    result = train(tmp_path, steps=24, eval_steps=8, keep="best", patience=1, **told)
    store = RunStore(tmp_path / "out")
    found = store.metrics(result.run_id, "heldout_contains")
    assert [step for step, _ in found][:2] == [0, 8], (
        result,
        [e.message for e in store.events(result.run_id)],
    )
    assert all((5 * value) % 1 == pytest.approx(0, abs=1e-9) for _, value in found), "of five rows"
    assert {"heldout_contains", "heldout_rouge1", "heldout_loss"} <= set(store.metric_names(result.run_id))
    best = max(value for _, value in found)
    assert result.best_step == next(step for step, value in found if value == best)
    losses = store.metrics(result.run_id, "heldout_loss")
    assert result.heldout_loss_after == dict(losses)[result.best_step]
    provoke(BpError, "CONFIG_CONFLICT", "not measured", lambda: train(tmp_path, best_by="rouge1"))
    provoke(
        BpError, "INPUT_METRIC_UNKNOWN", "did you mean", lambda: train(tmp_path, eval_metrics=("rougel",))
    )


# ------------------------------------------------------------------------------------------- server, endpoint


@pytest.fixture(scope="module")
def server(local):
    """The model, served on loopback."""
    log = []
    served = Server(local, name="facts", log=log.append)
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    yield served, log
    served.stop()
    served.close()
    thread.join(5)


ASKED = [Prompt.of(f"Capital of {n}?") for n in ("Peru", "Cuba", "Iran")]


def test_an_endpoint_answers_as_the_model_behind_it(local, server):
    served, _ = server
    endpoint = Endpoint(served.address)
    assert endpoint.model == "facts"
    settings = GenerationSettings(
        max_new_tokens=8, temperature=0.9, top_k=20, min_p=0.01, num=2, stop=("xyz",)
    )
    here, there = local.answer(ASKED, settings), endpoint.answer(ASKED, settings)
    assert [[a.text for a in row] for row in there] == [[a.text for a in row] for row in here]
    assert [[a.tokens for a in row] for row in there] == [[a.tokens for a in row] for row in here]
    *parts, last = endpoint.stream(ASKED[0], dataclasses.replace(settings, num=1))
    assert "".join(parts).strip() == last.text == here[0][0].text
    endpoint.close()


def test_an_adapter_is_also_asked_without_it(local):
    served = Server(local, name="facts", with_base=True)
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    try:
        settings = GenerationSettings(max_new_tokens=8)
        bare, tuned = Endpoint(served.address, model="facts:base"), Endpoint(served.address, model="facts")
        listed = httpx.get(f"{served.address}/models").json()["data"]
        assert [m["id"] for m in listed] == ["facts", "facts:base"]
        with local.as_base() as plain:
            wanted = plain.answer(ASKED, settings)
        assert bare.answer(ASKED, settings) == wanted
        assert tuned.answer(ASKED, settings) == local.answer(ASKED, settings) != wanted
        bare.close()
        tuned.close()
    finally:
        served.stop()
        served.close()
        thread.join(5)


def test_a_model_without_a_base_beside_it_says_so(server):
    served, _ = server
    body = {"model": "facts:base", "messages": [{"role": "user", "content": "x"}]}
    answer = httpx.post(f"{served.address}/chat/completions", json=body, timeout=60)
    assert (answer.status_code, "no base model" in answer.json()["error"]["message"]) == (400, True)


def test_an_endpoint_is_evaluated(made, server):
    served, _ = server
    output, result = made
    rows = write_facts(output.parent / "some.jsonl", ["Peru", "Cuba", "Iran"])
    found = evaluated(made, dataclasses.replace(SHORT, eval_set=rows, vs=result.run_id), name=served.address)
    assert found.comparisons["eval"]["token_f1"].delta == 0


def test_a_client_that_goes_away_ends_its_answer(local, server):
    served, log = server
    calls = []
    handle = local.model.register_forward_pre_hook(lambda *_: calls.append(1))
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 4000,
        "temperature": 2.0,
        "stream": True,
    }
    del log[:]
    try:
        with httpx.stream("POST", f"{served.address}/chat/completions", json=body, timeout=60) as answer:
            next(answer.iter_lines())
        with served.turn:  # free again
            assert len(calls) < 1000
    finally:
        handle.remove()


BAD = {
    "no messages": ({}, "messages"),
    "no role": ({"messages": [{"content": "x"}]}, "messages[0]"),
    "an unknown field": (
        {"messages": [{"role": "user", "content": "x"}], "logit_bias": {"1": 2}},
        "logit_bias",
    ),
    "out of bounds": ({"messages": [{"role": "user", "content": "x"}], "top_p": 7}, "top_p"),
    "a picture": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no text"),
    "its own words": ({"messages": [{"role": "assistant", "content": "x"}]}, "last message"),
    "several streams": (
        {"messages": [{"role": "user", "content": "x"}], "n": 2, "stream": True},
        "n must be 1",
    ),
    "broken calls": ({"messages": [{"role": "assistant", "tool_calls": [{"id": 1}]}]}, "tool_calls"),
}


@pytest.mark.parametrize("row", BAD)
def test_a_bad_request_is_told(server, row):
    body, cause = BAD[row]
    answer = httpx.post(f"{server[0].address}/chat/completions", json=body)
    assert answer.status_code == 400
    assert cause in answer.json()["error"]["message"]


def test_the_server_refuses_what_is_not_its_client(server, local):
    served, _ = server
    url = f"{served.address}/models"
    assert httpx.get(url).json()["data"][0]["id"] == "facts"
    assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 403
    assert httpx.get(url, headers={"Origin": "https://evil.example"}).status_code == 403
    assert httpx.get(f"{served.address}/no").status_code == 404
    assert httpx.post(f"{served.address}/chat/completions", content=b"{").status_code == 400
    assert httpx.post(f"{served.address}/chat/completions", content=b"[" * 100_000).status_code == 400
    provoke(BpError, "CONFIG_SERVE_OPEN", "no key", lambda: Server(local, name="x", host="0.0.0.0"))
    port = int(served.address.split(":")[2].split("/")[0])
    provoke(BpError, "CONFIG_SERVE_PORT", str(port), lambda: Server(local, name="x", port=port))


def test_a_key_is_asked_for_and_never_shown(local, monkeypatch):
    served = Server(local, name="x", key="open-sesame")
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    try:
        assert httpx.get(f"{served.address}/models").status_code == 401
        error = provoke(
            BpError, "RUNTIME_ENDPOINT_FAILED", "HTTP 401", lambda: Endpoint(served.address, key="wrong-key")
        )
        assert "wrong-key" not in str(error.to_dict())
        monkeypatch.setenv("EVAL_TEST_KEY", "open-sesame")
        endpoint = Endpoint(served.address, key_env="EVAL_TEST_KEY")
        assert endpoint.answer(ASKED[:1], GenerationSettings(max_new_tokens=2))[0][0].tokens <= 2
        endpoint.close()
        monkeypatch.delenv("EVAL_TEST_KEY")
        provoke(
            BpError,
            "CONFIG_ENDPOINT_KEY",
            "EVAL_TEST_KEY",
            lambda: Endpoint(served.address, key_env="EVAL_TEST_KEY"),
        )
    finally:
        served.stop()
        served.close()
        thread.join(5)
