"""What is evaluated and held to which gates; of `eval`, not of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le
from bp_merge.common import knob, like

from bp_core.settings.groups.generation import GenerationSettings


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """What is evaluated and held to which gates; of `eval`, not of a run."""

    heldout: Path | None = knob(
        None, "Rows whose loss is measured, and answers scored. Default: those that the run held out."
    )
    eval_set: Path | None = knob(
        None,
        "Rows whose answers are scored instead: {prompt, reference}, or any dataset.",
        flags=("--references",),
    )
    prompts: Path | None = knob(
        None, "Prompts whose answers are shown, one a line or as rows. Default: a few of the rows."
    )
    profile: str | None = knob(
        None,
        "Task profile that chooses the metrics. Default: as the dataset says, else as its references look.",
    )
    metric: tuple[str, ...] = knob(
        (), "Metric to score with instead of the profile's; repeat it.", whole=True
    )
    num_samples: Annotated[int, Ge(0), Le(2**31)] = knob(
        256, "Rows answered and scored, drawn by --seed; 0 takes all.", flags=("-n",), unit="rows"
    )
    max_new_tokens: Annotated[int, Gt(0), Le(2**24)] = like(GenerationSettings, "max_new_tokens")
    temperature: Annotated[float, Ge(0), Le(100)] = like(GenerationSettings, "temperature")
    top_p: Annotated[float, Gt(0), Le(1)] = like(GenerationSettings, "top_p")
    stop: tuple[str, ...] = like(GenerationSettings, "stop")
    system: str | None = like(GenerationSettings, "system")
    answers: Annotated[int, Gt(0), Le(1000)] = knob(
        1, "Answers to each row; pass@k takes all, other metrics the first."
    )
    batch_size: Annotated[int, Gt(0), Le(65_536)] = like(GenerationSettings, "batch_size")
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = knob(
        0, "Seed of the drawn rows, of sampling and of the bootstrap."
    )
    vs: str | None = knob(None, "Model to compare with on the same rows; `base` is the adapter's base model.")
    gate_against: str | None = knob(
        None, "Model that must not be better beyond noise: else exit code 65. Above --vs."
    )
    max_regression: Annotated[float, Ge(0), Le(1e9)] = knob(
        0.0, "Loss against that model that is allowed, in the metric's unit."
    )
    gate_metric: tuple[str, ...] = knob(
        (), "Metric that must hold beside the held-out loss; repeat it.", whole=True
    )
    pack: Path | None = knob(
        None, "Eval pack: a TOML file of sets, metrics and gates, instead of the flags above."
    )
    code_exec: bool = knob(
        False, "Run the code of answers against the rows' tests, limited and offline; no sandbox."
    )
    code_network: bool = knob(False, "Run that code even where the network cannot be denied to it.")
    benchmark: tuple[str, ...] = knob((), "Also run this task of lm-eval; repeat it.")
    benchmark_path: Path | None = knob(None, "Folder with tasks of one's own for lm-eval.")
    benchmark_limit: Annotated[int, Gt(0), Le(2**31)] | None = knob(
        None, "Rows of each benchmark.", unit="rows"
    )

    def generation(self) -> GenerationSettings:
        """How the rows are answered."""
        return GenerationSettings(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=self.stop,
            system=self.system,
            num=self.answers,
            seed=self.seed,
            batch_size=self.batch_size,
        )
