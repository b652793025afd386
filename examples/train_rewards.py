"""Learning from rewards: the model answers, a function says what each answer is worth."""

from pathlib import Path

from bp_core import Trainer


def near_the_sum(response, expected_answer):
    """1 for the right number alone, less for what is longer, a little for any digit."""
    if response.strip() == expected_answer:
        return 1.0
    return 0.5 * (expected_answer in response) + 0.1 * any(c.isdigit() for c in response)


if __name__ == "__main__":
    trainer = Trainer("tiny", method="grpo", rewards=f"{__file__}:near_the_sum")
    data = Path(__file__).parent / "sums.jsonl"
    result = trainer.train(data, steps=3, group_size=4, max_completion_length=16)
    print(result.run_id, result.adapter_path)
