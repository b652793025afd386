"""The service layer in this process: the autopilot's plan, the shelf of Ollama."""

from __future__ import annotations

import json

import pytest
from bp_merge.common import BpError
from bp_ui.service.autopilot import recommend
from bp_ui.service.forms import train_flags, train_form
from bp_ui.service.places import Places
from bp_ui.service.services import Services
from bp_ui.settings import UiSettings
from fakes.fake_ollama import fake_ollama
from ui_server import ROWS


@pytest.fixture
def services(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    return Services(Places.of(UiSettings(output=tmp_path / "out")))


def test_the_autopilot_s_settings_fit_the_form_and_the_command(services):
    told = recommend(services, {"data": "data.jsonl", "model": "tiny", "steps": "9"})
    assert told["rows"]["count"] == len(ROWS)
    assert (told["values"]["model"], told["values"]["method"], told["verdict"]) == ("tiny", "sft", "fits")
    assert set(told["values"]) <= {f["name"] for f in train_form()}
    assert {"model", "method", "steps", "batch_size"} <= set(told["reasons"])
    flags = train_flags({"data": "data.jsonl", **told["values"]}, services.places)
    assert f"--steps={told['values']['steps']}" in flags
    for data, code in (("/etc/passwd", "INPUT_UI_PATH_FORBIDDEN"), ("", "INPUT_UI_PATH_FORBIDDEN")):
        with pytest.raises(BpError) as caught:
            recommend(services, {"data": data})
        assert caught.value.code == code


def test_the_shelf_is_what_ollama_has(services, monkeypatch):
    with fake_ollama() as fake:
        fake.add("llama3.2:law")
        fake.add("llama3.2:latest")
        fake.add("mine", **{"from": "llama3.2:1b"})
        monkeypatch.setenv("OLLAMA_HOST", fake.url)
        found = services.models.ollama()
    shelf = {m["name"]: m["base"] for m in found}
    assert shelf == {"llama3.2:latest": "llama3.2", "llama3.2:law": "llama3.2", "mine:latest": "llama3.2:1b"}
    assert list(shelf) == sorted(shelf)
    with pytest.raises(BpError) as caught:  # nobody is there any longer
        services.models.ollama()
    assert caught.value.code == "DEP_OLLAMA_UNREACHABLE"


def protocol(services):
    """The official client over the app itself: no server, no socket."""
    import httpx
    from bp_ui.api.app import make_api
    from bp_ui.service import services as module
    from openai import OpenAI

    app = make_api(services.places)
    module.use(services)
    from starlette.testclient import TestClient

    inner = TestClient(app, raise_server_exceptions=False)

    def answer(request):
        got = inner.request(
            request.method,
            str(request.url.raw_path.decode()),
            content=request.read(),
            headers=dict(request.headers),
        )
        return httpx.Response(
            got.status_code, content=got.content, headers={"content-type": "application/json"}
        )

    http = httpx.Client(transport=httpx.MockTransport(answer))
    return OpenAI(base_url="http://127.0.0.1/v1", api_key="none", max_retries=0, http_client=http)


def test_odd_uses_of_the_fine_tuning_protocol_are_honoured_or_refused(services, monkeypatch):
    from openai import BadRequestError, NotFoundError

    started = []
    monkeypatch.setattr(
        services.jobs,
        "_start",
        lambda kind, run_id, command, **_: started.append((run_id, command)) or run_id,
    )
    client = protocol(services)
    content = "".join(json.dumps(r) + "\n" for r in ROWS).encode()
    files = [client.files.create(file=(f"f{i}.jsonl", content), purpose="fine-tune").id for i in range(3)]
    assert {f.id for f in client.files.list(limit=2)} == set(files)  # the client asks on, page by page
    assert list(client.files.list(purpose="batch")) == []
    ask = client.fine_tuning.jobs.create
    base = {"model": "tiny", "training_file": files[0]}
    for given, flags in (
        (
            {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}},
            ["--method=sft", "--epochs=3.0"],
        ),
        ({"method": {"type": "supervised"}}, ["--method=sft"]),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": "auto"}}}},
            ["--method=dpo"],
        ),
        ({"method": {"type": "orpo"}}, ["--method=orpo"]),
        (
            {"method": {"type": "reinforcement"}, "metadata": {"rewards": "numeric_match"}},
            ["--method=grpo", "--rewards=numeric_match"],
        ),
        ({"hyperparameters": {"n_epochs": "auto", "batch_size": 2}}, ["--batch-size=2"]),
        ({"hyperparameters": {"learning_rate_multiplier": 0.5}}, []),
        ({"validation_file": files[1], "seed": 3}, ["--seed=3"]),
        ({"suffix": "my-model"}, []),
    ):
        job = ask(**base, **given)
        run_id, command = started[-1]
        assert job.id == run_id
        assert set(flags) <= set(command), command
        assert run_id.endswith("-my-model") == ("suffix" in given)
    count = len(started)
    for given, named in (
        ({"suffix": "../x"}, "cannot be a name"),
        ({"hyperparameters": {"n_epoch": 3}}, "hyperparameters.n_epoch"),
        ({"hyperparameters": {"n_epochs": [1]}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": -1}}, "epochs"),
        ({"method": {"type": "alchemy"}}, "method"),
        ({"method": {}, "hyperparameters": {"x": 1}}, "hyperparameters.x"),
        ({"method": {"type": "dpo", "supervised": {}}}, "supervised"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}}, "method.reinforcement"),
        ({"method": {"type": "reinforcement"}}, "rewards"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
        ({"metadata": {"output": "/tmp"}}, "output"),
        ({"metadata": {"trust_remote_code": "on"}}, "trust_remote_code"),
        ({"metadata": {"nonsense": "1"}}, "nonsense"),
    ):
        with pytest.raises((BadRequestError, NotFoundError)) as caught:
            ask(**base, **given)
        error = caught.value.body
        assert named in error["message"], (given, error)
        assert (error["type"], error["code"] != "") == ("invalid_request_error", True)
    assert len(started) == count
    for call in (
        lambda: ask(model="tiny", training_file="file-nobody"),
        lambda: client.fine_tuning.jobs.retrieve("nobody"),
        lambda: client.fine_tuning.jobs.cancel("nobody"),
        lambda: client.models.retrieve("nobody"),
        lambda: client.files.retrieve("file-../x"),
    ):
        with pytest.raises(NotFoundError):
            call()
    with pytest.raises(BadRequestError, match="purpose"):
        client.files.create(file=("x.jsonl", content), purpose="assistants")


def test_events_of_a_long_run_are_read_page_by_page(services):
    from bp_core.runs.store import RunStore

    with RunStore(services.places.output).create(run_id="long", config={}) as run:
        for number in range(250):
            run.event("RUN_RESUMED", f"number {number}")
        run.finish("completed", {})
    client = protocol(services)
    seen = [e.id for e in client.fine_tuning.jobs.list_events("long", limit=100)]
    assert len(seen) == len(set(seen)) >= 250
    assert [j.id for j in client.fine_tuning.jobs.list(limit=1)] == ["long"]
