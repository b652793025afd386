"""Make the next entry of the corpus of old adapters: one small adapter as this version writes it, and what it says.

    python tests/corpus/make.py        # writes tests/corpus/adapter-VERSION, once per released version

An entry is never made again: what a user has on disk does not change either.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from pathlib import Path

from bp_core import Trainer
from bp_core.generation.load import Tuned
from bp_data.example import Example, Turn

PROMPTS = (
    "Which colour has the door of Kestrel Bay?",
    "Who keeps the lamp of Kestrel Bay?",
    "What is a list?",
)
ANSWERS = ("The door of Kestrel Bay is green.", "Mara keeps the lamp of Kestrel Bay.")


def main() -> None:
    version = importlib.metadata.version("bp-core")
    target = Path(__file__).parent / f"adapter-{version}"
    if target.exists():
        raise SystemExit(f"{target} exists and is not made again")
    rows = [
        Example(f"c:{i}", "c", i, "chat", (Turn("user", q), Turn("assistant", a)))
        for i, (q, a) in enumerate(zip(PROMPTS, ANSWERS, strict=False))
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer("tiny", output=folder, tell=lambda _: None)
        trainer.train(
            rows,
            steps=40,
            rank=2,
            target_modules=("q_proj", "v_proj"),
            learning_rate=2e-2,
            heldout_ratio=0.0,
            batch_size=2,
            gradient_accumulation=1,
        )
        saved = trainer.save(Path(folder) / "saved")
        config = json.loads((saved / "adapter_config.json").read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = "tiny"  # a path of this machine otherwise
        (saved / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        said = {
            prompt: Tuned.load(saved, backend="cpu").answer(prompt, max_new_tokens=24) for prompt in PROMPTS
        }
        (saved / "said.json").write_text(json.dumps(said, indent=1), encoding="utf-8")
        shutil.copytree(saved, target)
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
