"""The REST API over real HTTP: runs, datasets, aliases of LoRA Craft, the fine-tuning protocol with its own client."""

from __future__ import annotations

import json

import httpx
import pytest
from ui_server import ROWS, Server, needs_pages


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    needs_pages()
    with Server(tmp_path_factory.mktemp("api")) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=120) as found:
        yield found


def good(answer, status=200):
    assert answer.status_code == status, answer.text
    return answer.json()


def refused(answer, status, code):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code, error
    assert error["message"]
    assert error["hint"]
    return error


def test_a_dataset_is_uploaded_looked_at_and_deleted(client, server):
    rows = "".join(json.dumps({"q": r["prompt"], "a": r["completion"]}) + "\n" for r in ROWS)
    made = good(client.post("/api/v1/datasets/upload", params={"name": "own.jsonl"}, content=rows), 201)
    assert (server.output / "uploads" / "own.jsonl").read_text() == rows
    again = good(client.post("/api/v1/datasets/upload", params={"name": "own.jsonl"}, content=rows), 201)
    assert again["name"] == "own-2.jsonl"
    told = good(client.post("/api/v1/datasets/preview", json={"path": made["path"], "samples": 2}))
    assert told["columns"] == ["a", "q"]
    mapped = good(
        client.post("/api/v1/datasets/preview", json={"path": made["path"], "map": "q=prompt,a=completion"})
    )
    assert mapped["examples"][0]["turns"] == [
        {"role": "user", "text": ROWS[0]["prompt"]},
        {"role": "assistant", "text": ROWS[0]["completion"]},
    ]
    listed = {d["name"] for d in good(client.get("/api/v1/datasets"))["datasets"]}
    assert {"data.jsonl"} <= {n.rpartition("/")[2] for n in listed}
    good(client.delete("/api/v1/datasets/uploads/own-2.jsonl"))
    refused(client.delete("/api/v1/datasets/uploads/own-2.jsonl"), 404, "INPUT_UI_NAME")


def test_rows_that_cannot_be_used_are_told(client, server):
    (server.folder / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"foo": 1}\nnot json\n')
    told = good(client.post("/api/v1/datasets/preview", json={"path": "bad.jsonl"}))
    assert len(told["examples"]) == 1
    assert [r["line"] for r in told["rejected"]] == [2, 3]
    refused(
        client.post("/api/v1/datasets/preview", json={"path": "nobody.jsonl"}), 404, "INPUT_DATASET_NOT_FOUND"
    )


def test_a_wrong_setting_is_refused_before_anything_starts(client, server):
    before = good(client.get("/api/v1/runs"))["runs"]
    for settings, code in (
        ({"learning_rate": -1}, "CONFIG_INVALID_SETTING"),
        ({"learning_rat": 1}, "CONFIG_INVALID_SETTING"),
        ({"steps": "many"}, "CONFIG_INVALID_SETTING"),
        ({"output": "/tmp"}, "INPUT_UI_REQUEST"),
    ):
        refused(
            client.post(
                "/api/v1/runs", json={"settings": {"data": "data.jsonl", "model": "tiny", **settings}}
            ),
            400,
            code,
        )
    refused(
        client.post("/api/v1/runs", json={"settings": {"model": "tiny"}, "run_id": "../x"}),
        400,
        "CONFIG_INVALID_SETTING",
    )
    refused(
        client.post("/api/v1/runs", content=b"not json", headers={"content-type": "application/json"}),
        400,
        "INPUT_UI_REQUEST",
    )
    assert good(client.get("/api/v1/runs"))["runs"] == before


@pytest.mark.slow
def test_a_refusal_that_comes_later_is_told_under_the_id(client, server):
    made = good(
        client.post(
            "/api/v1/runs",
            json={"settings": {"model": "tiny", "steps": 1, "epochs": 1, "data": "data.jsonl"}},
        ),
        201,
    )
    for _ in range(600):
        answer = client.get(f"/api/v1/runs/{made['run_id']}")
        if answer.status_code != 200:
            break
        assert answer.json()["status"] == "starting"
    refused(answer, 400, "CONFIG_CONFLICT")


def test_every_setting_of_a_training_is_in_the_form(client):
    from bp_core.settings.knobs import RUN_GROUPS
    from bp_merge.common import knobs
    from bp_ui.service.forms import NOT_HERE

    fields = good(client.get("/api/v1/forms/train"))["fields"]
    wanted = {k.name for cls in RUN_GROUPS.values() for k in knobs(cls) if not k.hidden} - NOT_HERE
    assert {f["name"] for f in fields} == wanted
    assert all(f["help"] and "--" not in f["help"] for f in fields)


def test_rewards_are_listed_and_tried(client):
    names = {r["name"] for r in good(client.get("/api/v1/rewards"))["rewards"]}
    assert "numeric_match" in names
    rows = [
        {"completion": "The answer is 42.", "reference": "42"},
        {"completion": "It is 41.", "reference": "42"},
    ]
    told = good(client.post("/api/v1/rewards/numeric_match/test", json={"rows": rows}))
    assert told["scores"][0]["total"] > told["scores"][1]["total"]
    refused(client.post("/api/v1/rewards/..%2fx.py:f/test", json={"rows": rows}), 404, "INPUT_UI_REQUEST")
    refused(client.post("/api/v1/rewards/evil.py:f/test", json={"rows": rows}), 404, "INPUT_UI_NAME")


def test_a_session_is_asked_for_its_data_and_its_settings(client, server):
    refused(client.post("/api/v1/sessions", json={"settings": {"model": "tiny"}}), 400, "INPUT_UI_REQUEST")
    for settings, code, status in (
        ({"runs": "many"}, "CONFIG_INVALID_SETTING", 400),
        ({"eval_heldout": "/etc/passwd"}, "INPUT_UI_PATH_FORBIDDEN", 403),
    ):
        body = {"settings": {"model": "tiny", "data": ["data.jsonl"], **settings}}
        refused(client.post("/api/v1/sessions", json=body), status, code)
    refused(client.get("/api/v1/sessions/nobody"), 404, "INPUT_RUN_NOT_FOUND")


def test_rewards_are_composed_kept_and_judged(client, server):
    parts = [{"use": "numeric_match", "weight": 2}, {"use": "sections_in_order", "weight": 0.5}]
    made = good(client.put("/api/v1/rewards/sets/mine", json=parts))
    from bp_core.rewards.compose import load_set

    assert [(c.use, c.weight) for c in load_set(made["path"]).components] == [
        ("numeric_match", 2.0),
        ("sections_in_order", 0.5),
    ]
    assert good(client.get("/api/v1/rewards"))["sets"] == ["mine"]
    rows = [{"prompt": "6*7?", "completion": c, "reference": "42"} for c in ("42", "41", "42", "7")]
    told = good(client.post("/api/v1/rewards/mine/coverage", json={"rows": rows}))
    assert (told["verdict"], told["groups"], told["completions"]) == ("signal", 1, 4)
    same = good(client.post("/api/v1/rewards/mine/coverage", json={"rows": [rows[0], rows[0]]}))
    assert same["ok"] is False
    scores = good(client.post("/api/v1/rewards/mine/test", json={"rows": rows}))["scores"]
    assert scores[0]["total"] > scores[1]["total"]
    refused(client.put("/api/v1/rewards/sets/x", json=[{"use": "evil.py:f"}]), 404, "INPUT_UI_NAME")
    refused(client.put("/api/v1/rewards/sets/.hidden", json=parts), 404, "INPUT_UI_NAME")
    refused(client.put("/api/v1/rewards/sets/x", json=[]), 400, "CONFIG_REWARD_INVALID")
    good(client.delete("/api/v1/rewards/sets/mine"))
    refused(client.post("/api/v1/rewards/mine/test", json={"rows": rows}), 404, "INPUT_UI_NAME")


def test_a_run_is_named_repeated_and_deleted(client, server):
    from bp_core.runs.store import RunStore

    with RunStore(server.output).create(run_id="old", config={"training": {"steps": 3}}) as run:
        run.finish("completed", {})
    good(client.patch("/api/v1/runs/old", json={"name": "the first"}))
    assert good(client.get("/api/v1/runs/old"))["name"] == "the first"
    for changes, status, code in (
        ({"learning_rat": 1}, 400, "CONFIG_INVALID_SETTING"),
        ({"output": "/tmp"}, 400, "INPUT_UI_REQUEST"),
        ({"data": "/etc/passwd"}, 403, "INPUT_UI_PATH_FORBIDDEN"),
    ):
        refused(client.post("/api/v1/runs/old/replay", json={"overrides": changes}), status, code)
    good(client.delete("/api/v1/runs/old"))
    refused(client.get("/api/v1/runs/old"), 404, "INPUT_RUN_NOT_FOUND")
    refused(client.delete("/api/v1/runs/old"), 404, "INPUT_RUN_NOT_FOUND")


def test_a_model_that_is_not_there_does_not_answer(client, server):
    body = {"model": "nobody", "messages": [{"role": "user", "content": "x"}]}
    refused(client.post("/v1/chat/completions", json=body), 404, "INPUT_RUN_NOT_FOUND")
    refused(client.post("/v1/chat/completions", json={"messages": []}), 400, "INPUT_UI_REQUEST")
    refused(client.post("/api/v1/serving", json={"model": "../../etc"}), 403, "INPUT_UI_PATH_FORBIDDEN")
    refused(client.post("/api/v1/serving", json={"model": "tiny", "backend": "tpu"}), 400, "INPUT_UI_REQUEST")
    refused(
        client.post("/api/v1/batch-tests", json={"model": "tiny", "prompts": "/etc/passwd"}),
        403,
        "INPUT_UI_PATH_FORBIDDEN",
    )
    assert good(client.get("/api/v1/serving"))["serving"] is None


def test_configurations_have_names(client):
    good(client.put("/api/v1/configs/mine", json={"model": "tiny", "steps": "5"}))
    assert good(client.get("/api/v1/configs/mine"))["config"] == {"model": "tiny", "steps": "5"}
    assert good(client.get("/api/v1/configs"))["configs"] == ["mine"]
    good(client.delete("/api/v1/configs/mine"))
    refused(client.get("/api/v1/configs/mine"), 404, "INPUT_UI_NAME")


def test_the_documentation_names_each_path_and_needs_no_script(client):
    page = client.get("/api/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    for path in good(client.get("/api/openapi.json"))["paths"]:
        assert path in page.text


def test_lora_craft_s_paths_answer(client, server):
    content = "".join(json.dumps(r) + "\n" for r in ROWS).encode()
    made = good(client.post("/api/datasets/upload", files={"file": ("lc.jsonl", content)}))
    assert made["success"]
    told = good(client.post("/api/datasets/preview", json={"path": made["path"], "samples": 3}))
    assert len(told["raw"]) == 3
    assert any(d["name"].endswith("lc.jsonl") for d in good(client.get("/api/datasets/list"))["datasets"])
    good(client.post("/api/configs/save", json={"name": "lc", "config": {"model": {"name": "tiny"}}}))
    assert good(client.get("/api/configs/load", params={"name": "lc"}))["config"] == {
        "model": {"name": "tiny"}
    }
    assert "lc" in good(client.get("/api/configs/list"))["configs"]
    assert good(client.get("/api/models/list"))["models"] == []
    assert good(client.get("/api/training/sessions"))["sessions"] is not None
    refused(client.post("/api/training/stop", json={"session_id": "nobody"}), 404, "INPUT_RUN_NOT_FOUND")
    refused(client.post("/api/training/start", json={"session_id": "x"}), 400, "INPUT_UI_REQUEST")
    refused(client.post("/api/exports/create", json={"session_id": "nobody"}), 404, "INPUT_RUN_NOT_FOUND")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_by_the_fine_tuning_protocol_and_the_stream(client, server):
    """The one training of this file: the official client starts it, the stream follows it, an export ends it."""
    from openai import OpenAI
    from websockets.sync.client import connect

    protocol = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    file = protocol.files.create(
        file=("train.jsonl", "".join(json.dumps(r) + "\n" for r in ROWS).encode()), purpose="fine-tune"
    )
    assert file.id == "file-train.jsonl"
    assert [f.id for f in protocol.files.list()].count(file.id) == 1
    job = protocol.fine_tuning.jobs.create(
        model="tiny",
        training_file=file.id,
        seed=7,
        hyperparameters={"n_epochs": 2},
        extra_body={"metadata": {"save_steps": "1", "eval_steps": "0"}},
    )
    assert job.status == "validating_files"
    updates, events = [], []
    with connect(f"ws://127.0.0.1:{server.port}/api/v1/stream?run={job.id}") as wire:
        while True:
            message = json.loads(wire.recv(timeout=240))
            events.append(message["event"])
            if message["event"] == "training_update":
                updates.append(message["data"])
            if message["event"] in ("training_complete", "training_error"):
                break
    assert message["event"] == "training_complete", message
    assert "system_update" in events
    assert "run_event" in events
    steps = [step for u in updates for step, _ in u["points"].get("loss", [])]
    assert steps == sorted(set(steps))  # each point once, in order
    assert len(steps) == message["data"]["step"] > 1
    done = protocol.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.fine_tuned_model, done.seed) == ("succeeded", job.id, 7)
    assert any("RUN_FINISHED" in e.message for e in protocol.fine_tuning.jobs.list_events(job.id))
    points = list(protocol.fine_tuning.jobs.checkpoints.list(job.id))
    assert points[0].step_number == message["data"]["step"]
    assert [m.id for m in protocol.models.list()] == [job.id]
    assert next(j.id for j in protocol.fine_tuning.jobs.list()) == job.id
    refused(client.post(f"/v1/fine_tuning/jobs/{job.id}/cancel"), 409, "STATE_RUN_NOT_ACTIVE")
    made = good(
        client.post(
            "/api/v1/exports",
            json={"adapter": job.id, "settings": {"format": "gguf", "quantization": "q8_0"}},
        ),
        201,
    )
    server.wait_for(made["run_id"], "completed")
    assert good(client.get("/api/v1/models"))["adapters"][0]["exported"] == "gguf"
    assert (
        good(client.post("/api/v1/runs/storage/clean", json={"run_ids": [job.id], "part": "checkpoints"}))[
            "freed"
        ]
        > 0
    )
    assert not (server.output / job.id / "checkpoints").exists()
    assert (server.output / job.id / "adapter").is_dir()
    asked = [{"role": "user", "content": ROWS[0]["prompt"]}]
    parts = [
        part.choices[0].delta.content or ""
        for part in protocol.chat.completions.create(model=job.id, messages=asked, max_tokens=4, stream=True)
    ]
    whole = protocol.chat.completions.create(model=job.id, messages=asked, max_tokens=4)
    assert len(parts) > 2
    assert "".join(parts) == whole.choices[0].message.content
    bare = protocol.chat.completions.create(model=f"{job.id}:base", messages=asked, max_tokens=4)
    assert bare.choices[0].message.content != whole.choices[0].message.content
    old = {"model_path": f"outputs/{job.id}/", "prompt": asked[0]["content"], "max_tokens": 4}
    assert good(client.post("/api/models/test", json=old))["response"] == whole.choices[0].message.content
    push = {"adapter": job.id, "repo": "me/capitals", "dry_run": True}
    listed = server.wait_for(
        good(client.post("/api/v1/pushes", json=push), 201)["run_id"], "completed"
    ).result
    assert "adapter_model.safetensors" in json.dumps(listed)
    refused(client.post("/api/v1/pushes", json={**push, "repo": "../x"}), 404, "INPUT_UI_NAME")
    serving = good(client.get("/api/v1/serving"))["serving"]
    assert (serving["model"], serving["ready"], "url" in serving) == (job.id, True, False)
    key = (server.output / "jobs" / f"{serving['run_id']}.key").read_text()
    assert (server.output / "jobs" / f"{serving['run_id']}.key").stat().st_mode & 0o077 == 0
    assert key not in json.dumps(good(client.get(f"/api/v1/runs/{serving['run_id']}")))
    with pytest.raises(Exception, match="bogus is not supported"):
        protocol.chat.completions.create(model=job.id, messages=asked, extra_body={"bogus": 1})
    good(client.delete("/api/v1/serving"))
    server.wait_for(serving["run_id"], "stopped")
    log = client.get(f"/api/v1/runs/{job.id}/log").text
    assert "tokens are learnt" in log
    report = client.get(f"/api/v1/runs/{job.id}/files/report.html")
    assert report.headers["content-disposition"].startswith("attachment")
    assert client.get(f"/api/v1/runs/{job.id}/files/..%2f..%2fdata.jsonl").status_code == 404


def test_every_path_that_a_form_takes_is_confined():
    from pathlib import Path

    from bp_core.settings.knobs import RUN_GROUPS
    from bp_merge.common import knobs
    from bp_ui.service.forms import MODELS, NOT_HERE, PATHS

    paths = {k.name for cls in RUN_GROUPS.values() for k in knobs(cls) if k.type is Path}
    assert paths <= PATHS | MODELS | NOT_HERE
