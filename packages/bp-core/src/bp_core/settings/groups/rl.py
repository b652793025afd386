"""Learning from rewards: what is judged, how answers are drawn, how far a step may go."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt, Le
from bp_merge.common import knob


@dataclasses.dataclass(frozen=True)
class RlSettings:
    """Learning from rewards (grpo, gspo, rloo)."""

    rewards: str | None = knob(
        None,
        "What an answer is worth: a TOML file, a preset or a reward by name, path.py:function; see `backprop reward`.",
        group="RL",
        flags=("--reward",),
        keywords=("reward",),
    )
    run_code: bool = knob(
        False,
        "Let rewards run the code of answers, with your user's rights.",
        group="RL",
        keywords=("allow_code",),
    )
    prompt_template: str | None = knob(
        None,
        "System prompt and form of prompts and answers, by name: see `backprop prompt-template list`; for sft too. "
        "Default: that of the rewards, where they have one.",
        group="RL",
    )
    pre_training_epochs: Annotated[float, Ge(0), Le(1000)] = knob(
        0.0,
        "Passes of supervised training over the rows' own answers before the rewards, in the form of the prompt template; "
        "0 does without.",
        group="RL",
        unit="epochs",
    )
    pre_training_samples: Annotated[int, Gt(0), Le(2**40)] | None = knob(
        None, "First rows that it takes. Default: all that bring an answer.", group="RL", unit="rows"
    )
    pre_training_learning_rate: Annotated[float, Gt(0), Le(1)] | None = knob(
        None, "Its peak learning rate. Default: that of sft.", group="RL"
    )
    group_size: Annotated[int, Ge(2), Le(4096)] = knob(
        8,
        "Answers drawn to each prompt, which are compared with each other.",
        group="RL",
        unit="answers",
        flags=("--num-generations",),
        keywords=("num_generations",),
    )
    max_completion_length: Annotated[int, Gt(0), Le(2**24)] = knob(
        512,
        "Longest answer; max-seq-length is that of its prompt.",
        group="RL",
        unit="tokens",
        flags=("--max-completion",),
        keywords=("max_completion",),
    )
    temperature: Annotated[float, Gt(0), Le(100)] = knob(
        1.0, "Of the answers that are drawn; their probabilities are taken at the same one.", group="RL"
    )
    top_p: Annotated[float, Gt(0), Le(1)] = knob(
        1.0, "Draw among the likeliest tokens that together have this probability; 1 is all.", group="RL"
    )
    kl_beta: Annotated[float, Ge(0), Le(1e6)] = knob(
        0.05,
        "Weight of the KL divergence from the model as it was before the first step; 0 does without.",
        group="RL",
        flags=("--kl-penalty",),
        keywords=("kl_penalty",),
    )
    clip_low: Annotated[float, Gt(0), Le(1)] = knob(
        0.2,
        "A ratio of probabilities below 1 minus this is clipped, once an answer is learnt from twice.",
        group="RL",
        flags=("--clip-range", "--epsilon"),
        keywords=("clip_range", "epsilon"),
    )
    clip_high: Annotated[float, Gt(0), Le(1e6)] | None = knob(
        None,
        "A ratio above 1 plus this is clipped (arXiv:2503.14476). Default: clip-low.",
        group="RL",
        flags=("--epsilon-high",),
        keywords=("epsilon_high",),
    )
    importance_level: str | None = knob(
        None,
        "Whose ratio is taken and clipped: each token's, or the whole answer's (GSPO, arXiv:2507.18071). "
        "Default: token with grpo, sequence with gspo.",
        group="RL",
        choices=("token", "sequence"),
        flags=("--importance-sampling-level",),
        keywords=("importance_sampling_level",),
    )
    grpo_loss: str | None = knob(
        None,
        "What tokens are averaged over: each answer's (grpo), all of the step (dapo, arXiv:2503.14476), of a pass (bnpo), "
        "or a constant (dr_grpo, arXiv:2503.20783). Default: dapo with grpo, grpo with gspo.",
        group="RL",
        choices=("grpo", "dapo", "bnpo", "dr_grpo"),
        flags=("--loss-type",),
        keywords=("loss_type",),
    )
    num_iterations: Annotated[int, Ge(1), Le(64)] = knob(
        1, "Steps that learn from the same answers; past the first one ratios leave 1.", group="RL"
    )
    rollouts: str = knob(
        "auto",
        "What draws the answers; auto is vllm with a card where it is installed. With vllm a resumed run is not bit for bit.",
        group="RL",
        choices=("auto", "transformers", "vllm"),
    )
