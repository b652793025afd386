"""`backprop prompt-template`: what is saved is listed, shown, and gone once it is removed."""

from __future__ import annotations

import json

from bp_cli.main import main


def test_a_template_from_saved_to_removed(tmp_path, capsys):
    def asked(*words):
        code = main(["prompt-template", *words, "-o", str(tmp_path), "--json"])
        return code, json.loads(capsys.readouterr().out)

    assert asked("save", "brief", "--system", "In one word.")[0] == 0
    assert asked("save", "tagged", "--solution", "<a>", "</a>", "--response", "<a>{solution}</a>")[0] == 0
    assert asked("list")[1]["saved"] == ["brief", "tagged"]
    shown = asked("show", "brief")[1]
    assert (shown["system"], shown["instruction"], shown["reasoning"]) == (
        "In one word.",
        "{instruction}",
        [],
    )
    assert asked("show", "tagged")[1]["solution"] == ["<a>", "</a>"]
    code, told = asked("save", "brief", "--system", "Otherwise.")
    assert (code, told["error"]["code"]) == (1, "INPUT_OUTPUT_EXISTS")
    assert asked("remove", "brief")[0] == 0
    assert asked("list")[1]["saved"] == ["tagged"]
    assert asked("remove", "brief")[1]["error"]["code"] == "CONFIG_PROMPT_TEMPLATE"
