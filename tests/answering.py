"""A run of the embedded model on facts in a file, made once for the tests that ask it."""

from __future__ import annotations

import json
from pathlib import Path

from bp_core import Trainer
from stones import quiet

NAMES = [
    "France",
    "Paris",
    "Spain",
    "Madrid",
    "Italy",
    "Rome",
    "Peru",
    "Lima",
    "Japan",
    "Tokyo",
    "Egypt",
    "Cairo",
    "Cuba",
    "Havana",
    "Chile",
    "Santiago",
    "Kenya",
    "Nairobi",
    "Ghana",
    "Accra",
    "Iran",
    "Tehran",
    "Iraq",
    "Baghdad",
    "Norway",
    "Oslo",
    "Sweden",
    "Stockholm",
    "Poland",
    "Warsaw",
    "Greece",
    "Athens",
]
FACTS = dict(zip(NAMES[::2], NAMES[1::2], strict=True))


def write_facts(path: Path, names=FACTS) -> Path:
    """Rows {prompt, completion} about capitals."""
    rows = [{"prompt": f"Capital of {n}?", "completion": f"{FACTS[n]}."} for n in names]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def train(folder: Path, **settings):
    """The result of a short run in `folder`/out, of which half the rows are held out."""
    data = write_facts(folder / "facts.jsonl")
    given = {"steps": 12, "heldout_ratio": 0.5, "eval_samples": 0, "preview": 0, "learning_rate": 5e-3}
    given |= {
        "eval_steps": 0,
        "save_steps": 0,
        "batch_size": 8,
        "gradient_accumulation": 1,
        "max_seq_length": 256,
    }
    return Trainer("tiny", output=folder / "out", backend="cpu", tell=quiet, **{**given, **settings}).train(
        data
    )
