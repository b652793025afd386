"""Many tasks, one adapter: a session that trains, merges and measures what is remembered."""

from pathlib import Path

from bp_core import Trainer

here = Path(__file__).parent
trainer = Trainer("tiny")
result = trainer.multi_run(
    {"support": here / "quickstart.jsonl", "sums": here / "sums.jsonl"}, steps_per_run=5
)
print(result.adapter_path)
print(result.forgetting)
