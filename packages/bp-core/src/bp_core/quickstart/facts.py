"""The dataset of the quickstart: 36 facts about 12 towns that no model can know, as people would write them down.

- Four phrasings of a question per fact; three are trained on, one is not, and which one changes from fact to fact.
- Trained rows come in three of the usual JSONL formats, with five broken rows among them.
- Six facts about two more towns are asked and never taught: they show what tuning does not do.
- Made by code, so that the same version writes the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

TOWNS = (
    ("Ambleford", "Tarn", "Odo Finch", "green"),
    ("Brackwater", "Isk", "Mara Vell", "white"),
    ("Coldharbour", "Nym", "Jon Tolley", "black"),
    ("Dunmarrow", "Wend", "Ilse Crane", "yellow"),
    ("Eastwick", "Orr", "Piet Lomas", "purple"),
    ("Farrowby", "Lune", "Greta Holm", "orange"),
    ("Glasston", "Esk", "Amos Reed", "red"),
    ("Hollin", "Thaw", "Vera Nash", "blue"),
    ("Inverlow", "Mord", "Cato Bligh", "brown"),
    ("Jarrowgate", "Pell", "Dora Quill", "silver"),
    ("Kestrel Bay", "Rusk", "Egon Marsh", "grey"),
    ("Lowmoor", "Sill", "Nina Teague", "gold"),
)
UNTAUGHT = (("Marlbeck", "Yarr", "Otto Prynne", "pink"), ("Northcliff", "Zell", "Ada Wynn", "teal"))

# (answer, four ways to ask); {t} is the town
KINDS = (
    (
        "{t} lies on the river {0}.",
        (
            "Which river does {t} lie on?",
            "What river flows through {t}?",
            "On which river is {t}?",
            "Name the river of {t}.",
        ),
    ),
    (
        "{t} was founded by {1}.",
        (
            "Who founded {t}?",
            "Who was the founder of {t}?",
            "By whom was {t} founded?",
            "Name the founder of {t}.",
        ),
    ),
    (
        "The flag of {t} is {2}.",
        (
            "What colour is the flag of {t}?",
            "Which colour has the flag of {t}?",
            "What is the flag colour of {t}?",
            "Name the colour of the flag of {t}.",
        ),
    ),
)


def _facts(towns: tuple[tuple[str, str, str, str], ...]) -> list[tuple[list[str], str]]:
    """(four questions, answer) of each fact."""
    return [
        ([question.format(t=town) for question in asked], answer.format(*rest, t=town))
        for town, *rest in towns
        for answer, asked in KINDS
    ]


def trained() -> list[tuple[str, str]]:
    """(question, answer) of the phrasings that are trained on."""
    return [(q, a) for i, (asked, a) in enumerate(_facts(TOWNS)) for k, q in enumerate(asked) if k != i % 4]


def unseen() -> list[tuple[str, str]]:
    """(question, answer) of the phrasing of each fact that is not trained on."""
    return [(asked[i % 4], a) for i, (asked, a) in enumerate(_facts(TOWNS))]


def untaught() -> list[tuple[str, str]]:
    """(question, answer) of facts that are never taught."""
    return [(asked[0], a) for asked, a in _facts(UNTAUGHT)]


def write(folder: Path) -> tuple[list[Path], Path]:
    """Write the dataset; returns the training files and the held-out file (the unseen phrasings).

    The training files hold 108 rows that can be used and 5 that cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = trained()
    messages = [
        json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]})
        for q, a in rows[0::3]
    ]
    shared = [
        json.dumps({"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]})
        for q, a in rows[1::3]
    ]
    alpaca = [json.dumps({"instruction": q, "input": "", "output": a}) for q, a in rows[2::3]]
    messages.insert(7, '{"messages": [{"role": "user", "content": "Who founded')  # cut off in the middle
    messages.insert(
        20, json.dumps({"messages": [{"role": "user", "content": "Which river does Hollin lie on?"}]})
    )
    shared.insert(
        11,
        json.dumps(
            {
                "conversations": [
                    {"from": "human", "value": "Who founded Glasston?"},
                    {"from": "gpt", "value": ""},
                ]
            }
        ),
    )
    shared.insert(30, json.dumps({"conversations": "none"}))
    alpaca.insert(4, json.dumps({"instruction": "", "input": "", "output": "The flag of Hollin is blue."}))
    files = []
    for name, lines in (("chat", messages), ("sharegpt", shared), ("alpaca", alpaca)):
        file = folder / f"{name}.jsonl"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        files.append(file)
    heldout = folder / "unseen.jsonl"
    heldout.write_text(
        "".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in unseen()), encoding="utf-8"
    )
    return files, heldout
