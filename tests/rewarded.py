"""What tests of learning from rewards train on: prompts, a reward that the tiny model can learn, short answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bp_core import Trainer
from bp_data.example import Example, Turn
from stones import quiet

NAMES = [
    "os.path",
    "json.dumps",
    "re.match",
    "list.sort",
    "math.sqrt",
    "time.sleep",
    "random.choice",
    "str.join",
    "dict.get",
    "set.add",
]
BASE: dict[str, Any] = {
    "method": "grpo",
    "preview": 0,
    "eval_steps": 0,
    "save_steps": 0,
    "rank": 8,
    "learning_rate": 1e-2,
    "scheduler": "constant",
    "warmup_steps": 0,
    "heldout_ratio": 0.0,
    "batch_size": 8,
    "gradient_accumulation": 1,
    "group_size": 4,
    "max_completion_length": 8,
}
LETTERS = '''
def letters(completion):
    """The share of the letter e."""
    return completion.count("e") / max(1, len(completion))


def short(completion):
    return 1 / (1 + len(completion))
'''


def asked(count: int = 10) -> list[Example]:
    """Prompts without an expected answer."""
    return [
        Example(f"p:{i}", "p", i + 1, "prompt", (Turn("user", f"What does {name} do?"),))
        for i, name in enumerate(NAMES[:count])
    ]


def letters(folder: Path) -> str:
    """The reward, in a file of that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own.py").write_text(LETTERS, encoding="utf-8")
    return f"{folder / 'own.py'}:letters"


def learner(folder: Path, *callbacks: Any, tell: Any = quiet, **settings: Any) -> Trainer:
    """A trainer of the tiny model by rewards, its runs below `folder`."""
    given = {**BASE, "rewards": letters(folder), **settings}
    return Trainer("tiny", output=folder / "runs", tell=tell, callbacks=callbacks, **given)
