"""Supervised training, as three lines; `tiny` is the embedded model that any processor trains."""

from pathlib import Path

from bp_core import Trainer

trainer = Trainer("tiny")
result = trainer.train(Path(__file__).parent / "quickstart.jsonl", steps=20, learning_rate=5e-3)
print(result.run_id, result.train_loss, result.adapter_path)
print(trainer.generate("What does error E17 mean?"))
