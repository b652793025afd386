"""Preference tuning: of two answers the one that is wanted (DPO; also orpo, simpo, kto)."""

from pathlib import Path

from bp_core import Trainer

trainer = Trainer("tiny", method="dpo")
result = trainer.train(Path(__file__).parent / "pairs.jsonl", steps=10, learning_rate=1e-3)
print(result.run_id, result.adapter_path)
