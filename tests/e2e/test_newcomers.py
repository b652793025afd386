"""Someone who knows only another tool's documents: their lines pasted, with the names changed that the migration page gives."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from bp_cli.main import main
from hints import problem
from parity import told

# As their documents have them, after the changes below.
CHANGES = {"./output/lora": "latest", "<run-id>": "latest", "<run_id>": "latest"}
COMMANDS = """\
backprop train --data my_data.jsonl --model Qwen/Qwen2.5-7B-Instruct --steps 100
backprop multi-run --data my_data.jsonl --runs 5 --steps 100 --samples 1000
backprop train --data my_data.jsonl --mode=full --model phi-4-mini-3.8b
backprop --log-level=DEBUG --log-format=json train --data my.jsonl --steps 100
backprop list-runs
backprop list-runs --status failed
backprop list-runs --json --limit 100
backprop show-run <run-id>
backprop diff-runs <run-id> <run-id>
backprop replay <run-id>
backprop resume <run-id>
backprop export-runs --format jsonl
backprop export-runs --to runs.jsonl --status completed
backprop export ./output/lora --format gguf --quantization q4_k_m --ollama --ollama-name my-model
backprop push ./output/lora --repo me/my-model
backprop push ./output/lora --repo me/my-model --token-file ~/.hf-token
backprop ollama register ./output/lora.gguf --name my-finetune
backprop ollama list
backprop ollama rm my-finetune
backprop ollama shelf llama3.2
backprop info
backprop info --json
backprop info --subcommand-tiers
backprop ui --port 7862
backprop validate my_data.jsonl
backprop validate my_data.jsonl --format sharegpt --max-errors 50
backprop data report my_data.jsonl
backprop data report my_data.jsonl --against heldout.jsonl
backprop data report my_data.jsonl --fail-on-dups 0.1 --fail-on-contamination 0.0 --json
backprop data split my_data.jsonl
backprop data split my_data.jsonl --heldout-ratio 0.2 --seed 7 --out-train train.jsonl --out-heldout heldout.jsonl
backprop generate ./output/lora "Summarize: the cat sat on the mat."
backprop generate ./output/lora "Write a haiku about gradients" --base Qwen/Qwen2.5-7B-Instruct -n 3 --temperature 0.8
backprop eval <run_id> --output ./output
backprop eval <run_id> --vs <run_id>
backprop eval <run_id> --gate-against <run_id> --max-regression 0.0
backprop estimate-vram
backprop estimate-vram Qwen/Qwen2.5-7B-Instruct
backprop estimate-vram --vram-gb 24
backprop estimate-vram --json
""".splitlines()
# What is typed there, and what the page says to type instead.
RENAMED = {
    "config --show": "backprop config show",
    "--reset": "backprop config unset --all",
    "--push": "backprop push latest --repo me/my-model",
    "configs/NAME.json": "backprop config import NAME.json",
    "flask_app.py": "backprop ui",
    "TRAINING_BACKEND=simulate": "backprop quickstart",
}
PYTHON = """
from bp_core import Trainer

trainer = Trainer("{model}")
trainer.train("my_data.jsonl", steps=100)
trainer.export("gguf", quantization="q4_k_m")
result = trainer.multi_run(dataset="my_data.jsonl", num_runs=2, steps_per_run=100, samples_per_run=1000, merge_mode="slao")
Trainer(report_to="none", oom_recovery=False, mode="full")
print(trainer.estimate_vram()["verdict"], result.run_id)
"""
ALPACA = [
    {"instruction": f"What is the capital of land {i}?", "response": f"It is town {i * 7 % 40}."}
    for i in range(40)
]


def changed(line: str) -> str:
    for old, new in CHANGES.items():
        line = line.replace(old, new)
    return line


@pytest.mark.parametrize("line", COMMANDS)
def test_each_line_is_a_command_here(line):
    assert problem(changed(line)) == ""


@pytest.mark.parametrize(("there", "here"), RENAMED.items())
def test_what_is_typed_otherwise_is_on_the_page(there, here):
    assert told(there)
    assert problem(here) == ""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "conversations": [
                {"from": "human", "value": r["instruction"]},
                {"from": "gpt", "value": r["response"]},
            ]
        }
        for r in ALPACA
    ]
    for name, part in (("my_data.jsonl", rows), ("my.jsonl", rows), ("heldout.jsonl", rows[:3])):
        Path(name).write_text("".join(json.dumps(r) + "\n" for r in part))
    return tmp_path


# Names of services that are not here: what each says must be its own code, and no traceback.
AWAY = {"--ollama": 69, "ollama": 69, "push": 69, "ui": None}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_each_line_runs_on_the_embedded_model(place, capsys, monkeypatch):
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    for line in COMMANDS:
        words = shlex.split(re.sub(r"Qwen/Qwen2.5-7B-Instruct|phi-4-mini-3.8b", "tiny", changed(line)))[1:]
        verb = next(w for w in words if not w.startswith("-"))
        if verb == "ui":
            continue
        if verb in ("train", "multi-run", "replay"):
            small = ["--steps", "2"] if verb != "replay" else ["--override", "steps=2"]
            words = [w for w in words if w != "100"] if verb != "list-runs" else words
            words = [w for w in words if w != "--steps"] + small
            if verb != "replay" and "--model" not in words:
                words += ["--model", "tiny"]
        code = main(words)
        told = capsys.readouterr()
        away = any(w in AWAY for w in words)
        allowed = {0, 69, 1} if away else {0, 65} if "--fail-on-dups" in line or "--gate" in line else {0}
        if verb == "resume":
            allowed = {2}  # STATE_RUN_FINISHED: nothing is left to do
        assert code in allowed, (line, told.err[-1500:])
        assert "Traceback" not in told.err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_their_python_runs(place, monkeypatch):
    monkeypatch.setenv("BACKPROPAGATE_MODEL__NAME", "tiny")
    code = PYTHON.format(model="tiny").replace("100", "2")
    exec(compile(code, "readme.py", "exec"), {})
    assert list(place.rglob("*.gguf"))


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_every_kind_of_file_is_read(place, capsys, suffix):
    path = Path(f"rows.{suffix}")
    if suffix == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        parquet.write_table(pyarrow.Table.from_pylist(ALPACA), path)
    elif suffix == "csv":
        path.write_text(
            "instruction,response\n" + "".join(f'"{r["instruction"]}","{r["response"]}"\n' for r in ALPACA)
        )
    else:
        path.write_text(
            json.dumps(ALPACA) if suffix == "json" else "".join(json.dumps(r) + os.linesep for r in ALPACA)
        )
    assert main(["validate", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["accepted"], told["rejected"]) == (40, 0)
