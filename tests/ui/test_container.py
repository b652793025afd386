"""The container files as data: no engine is here, so what an engine would refuse or open too wide is looked for in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def instructions():
    """(instruction, arguments) of each stage of the Dockerfile, continuation lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines()]
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


def example():
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def variables(text):
    return set(re.findall(r"\$\{(\w+)", text))


def test_each_variable_of_compose_is_in_the_example_and_each_has_a_default():
    text = (ROOT / "compose.yaml").read_text()
    assert variables(text) == set(example())
    assert all(":-" in found for found in re.findall(r"\$\{\w+([^}]*)\}", text))
    assert example()["HF_TOKEN"] == ""


def test_ports_are_published_on_this_machine_alone(compose):
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), (name, port)
        assert service.get("network_mode") != "host"
        assert not service.get("privileged")
    assert "ports" not in compose["services"]["ollama"]  # reached by the UI alone


def test_the_ui_has_few_rights_and_a_password(compose):
    ui = compose["services"]["ui"]
    assert ui["read_only"] is True
    assert ui["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in ui["security_opt"]
    assert ui["secrets"] == ["ui_password"]
    assert set(compose["secrets"]) == {"ui_password"}
    assert not any("password" in str(v).lower() for v in ui["environment"].values())
    named = {v.partition(":")[0] for s in compose["services"].values() for v in s["volumes"]}
    assert {v for v in named if not v.startswith(".")} == set(compose["volumes"])
    assert set(ui["depends_on"]) <= set(compose["services"])


def test_the_image_runs_as_nobody_much_and_is_looked_after():
    found = instructions()
    last = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    stage = found[last:]
    assert dict(stage)["USER"] == "backprop"
    assert {"HEALTHCHECK", "VOLUME", "EXPOSE", "WORKDIR"} <= {word for word, _ in stage}
    after = stage[[w for w, _ in stage].index("USER") :]
    made = next(rest for word, rest in stage if word == "RUN" and "useradd" in rest)
    for volume in json.loads(
        dict(stage)["VOLUME"]
    ):  # else it would be root's, and nothing could be written there
        assert volume in made.split("install -d -o backprop", 1)[1]
    assert not any(word in ("RUN", "COPY", "ADD") for word, _ in after)  # nothing is built with fewer rights
    for word, rest in found:
        assert word != "ADD"
        if word == "FROM":
            image = rest.split()[0]
            assert ":" in image
            assert not image.endswith(":latest")
        if word == "RUN" and "pip install" in rest:
            assert "--no-cache" in rest
        if word in ("CMD", "ENTRYPOINT"):
            assert isinstance(json.loads(rest), list)  # the exec form: signals reach the server


def test_the_command_of_the_image_is_one_that_the_program_takes(tmp_path):
    from bp_ui.cli import ui

    words = dict(instructions())
    command = [*json.loads(words["ENTRYPOINT"]), *json.loads(words["CMD"])]
    assert command[:2] == ["backprop", "ui"]
    context = ui.make_context("ui", command[2:])
    assert context.params["host"] == "0.0.0.0"
    assert str(context.params["auth_file"]) == "/run/secrets/ui_password"
    check = json.loads(re.search(r"CMD (\[.*\])$", words["HEALTHCHECK"])[1])
    assert check[0] == "python"
    compile(check[2], "healthcheck", "exec")
    assert f":{words['EXPOSE']}/login" in check[2]


def test_what_is_written_lies_in_a_volume(compose):
    """The rest of the file system is read-only there."""
    words = instructions()
    kept = json.loads(dict(words)["VOLUME"])
    set_there = dict(item.split("=", 1) for word, rest in words if word == "ENV" for item in rest.split())
    assert {"BACKPROPAGATE_LEASE_DIR", "BACKPROPAGATE_MEMORY_DIR", "HF_HOME"} <= set(set_there)
    assert all(any(v.startswith(f"{k}/") for k in kept) for v in set_there.values())
    named = [re.sub(r"\$\{.*?\}", "x", v) for v in compose["services"]["ui"]["volumes"]]
    mounted = {v.split(":")[1]: v for v in named}
    assert set(mounted) == set(kept)
    assert mounted["/home/backprop/data"].endswith(":ro")


def test_the_cards_are_added_by_a_file_of_its_own(compose):
    added = yaml.safe_load((ROOT / "compose.cuda.yaml").read_text())
    assert set(added["services"]) == set(compose["services"])
    assert all(service == {"gpus": "all"} for service in added["services"].values())
    assert "compose.cuda.yaml" in (ROOT / ".env.example").read_text()


def test_no_secret_goes_into_the_image():
    ignored = set((ROOT / ".dockerignore").read_text().split())
    assert {".git", ".env", "ui-password.txt", ".venv"} <= ignored
    assert (ROOT / ".gitignore").read_text().count("ui-password.txt") >= 1
