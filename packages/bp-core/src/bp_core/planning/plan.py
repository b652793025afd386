"""A plan for a dataset and a card: base model, method, settings, with the reason of each and the memory verdict.

- What memory says is `estimate-vram`'s own answer: what a plan leaves open, the estimate chooses, and a model that does
  not fit is passed over. `train --dry-run` is the plan of settings that are given; this one finds them.
- Of the models that fit, the one with most parameters is taken among those made for the task.
- Steps: three passes over up to a thousand rows, two up to ten thousand, one over more; 16 rows a step.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable
from typing import Any

from bp_merge.common import BpError

from bp_core.memory.machine import Machine, machine
from bp_core.memory.report import Answer, answer, settings_of
from bp_core.memory.settings import EstimateSettings
from bp_core.memory.shortlist import Listed, shortlist
from bp_core.memory.source import known
from bp_core.memory.verdict import FITS, GB
from bp_core.planning.rows import Rows, look
from bp_core.planning.settings import PlanSettings
from bp_core.settings.tables import LEARNING_RATES, RL_METHODS, STEP_EXAMPLES

OPEN = ("apache-2.0", "mit")
METHOD_OF = {"preference": "dpo", "unpaired": "kto", "prompt": "grpo"}  # of a kind of row; others are learnt
TEMPLATE_TOKENS = 64  # of a chat template around a row, and a default system prompt
PASSES = ((1_000, 3), (10_000, 2))  # up to so many rows, so many passes; one over more


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to train, and why.

    Attributes:
        data: the dataset.
        model: id of the base model.
        licence: of it, None where it is not known.
        template: kind of its chat template, None where it is not known.
        task: chat, code or reasoning.
        method: of training.
        steps: optimizer steps.
        settings: values of train's knobs, by their names.
        verdict: fits, tight or too large.
        total_bytes: at the peak.
        vram_gb: of the card, or main memory.
        device: as people call it.
        reasons: decision → why, one sentence each.
        passed_over: models that do not fit, or that the licence leaves out → why.
        rows: of the dataset.
        more: what must be done before.
    """

    data: str
    model: str
    licence: str | None
    template: str | None
    task: str
    method: str
    steps: int
    settings: dict[str, Any]
    verdict: str
    total_bytes: int
    vram_gb: float
    device: str
    reasons: dict[str, str]
    passed_over: dict[str, str]
    rows: Rows
    more: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What trains it."""
        flags = [
            f"--{name.replace('_', '-')} {shlex.quote(','.join(value) if isinstance(value, list) else str(value))}"
            for name, value in self.settings.items()
            if not isinstance(value, bool)
        ]
        flags += [
            f"--{'' if value else 'no-'}{name.replace('_', '-')}"
            for name, value in self.settings.items()
            if isinstance(value, bool)
        ]
        return " ".join(["backprop train", *flags])

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**dataclasses.asdict(self), "command": self.command}


def plan(
    data: str,
    asked: PlanSettings | None = None,
    *,
    look: Callable[[str], Rows] = look,
    here: Machine | None = None,
) -> Plan:
    """Plan a training.

    Args:
        data: what `train --data` takes, one of it.
        asked: what is given; the rest is chosen.
        look: reads the dataset.
        here: the memory that counts; that of `asked.vram_gb`, or of this machine, unless given.

    Raises:
        BpError: `CONFIG_DOES_NOT_FIT` where no model fits, or not the one that was named; `INPUT_SHAPES_UNKNOWN`;
            those of reading the data.
    """
    asked = asked or PlanSettings()
    here = here or machine(asked.vram_gb)
    rows = look(data)
    kind = max(rows.kinds, key=lambda k: rows.kinds[k])
    method = asked.method or METHOD_OF.get(kind, "sft")
    task = asked.task or ("reasoning" if rows.reasoning > 0.3 else "code" if rows.code > 0.3 else "chat")
    length = _length(rows.prompt if method in RL_METHODS else rows.longest)
    question = EstimateSettings(vram_gb=asked.vram_gb, method=method, max_seq_length=length)
    found, passed = _chosen(asked, task, question, here)
    made = settings_of(found.load, found.preset)
    passes = next((n for most, n in PASSES if rows.count <= most), 1)
    steps = max(1, math.ceil(passes * rows.count / STEP_EXAMPLES))
    listed = found.model.listed
    settings = {
        "data": data,
        "model": found.model.ref,
        "method": method,
        "steps": steps,
        **{
            k: v
            for k, v in made.items()
            if k not in ("mode", "method", "preset", "target_modules") and v is not None
        },
        **({"preset": found.preset} if found.preset else {}),
    }
    more: tuple[str, ...] = ()
    if method in RL_METHODS:
        settings["rewards"] = "rewards.toml"
        more = (f"backprop reward suggest {shlex.quote(data)} --write rewards.toml",)
    return Plan(
        data=data,
        model=found.model.ref,
        licence=listed.licence if listed else None,
        template=listed.template if listed else None,
        task=task,
        method=method,
        steps=steps,
        settings=settings,
        verdict=found.verdict,
        total_bytes=found.needed.total,
        vram_gb=round(here.capacity / GB, 2),
        device=here.name,
        reasons={
            "task": "as asked" if asked.task else f"{rows.code:.0%} of answers hold code, {rows.reasoning:.0%} of rows reasoning",
            "method": "as asked" if asked.method else f"most rows are of kind {kind}",
            "model": "as asked" if asked.model else f"the largest for {task} that fits {here.capacity / GB:.0f} GB",
            "max_seq_length": f"99 of 100 rows have at most {length} tokens with their template, by bytes",
            "preset": "all linear layers, rank 32" if found.preset == "balanced" else "what fits",
            "quantization": {"none": "16-bit weights fit"}.get(found.load.quantization, "16-bit weights do not fit"),
            "batch_size": "as many examples a pass as fit",
            "steps": f"{passes} pass(es) over {rows.count} rows, {STEP_EXAMPLES} a step",
            "learning_rate": f"left to the method: {LEARNING_RATES['lora'][method]:g}",
        },
        passed_over=passed,
        rows=rows,
        more=more,
    )  # fmt: skip


def _length(tokens: int) -> int:
    """The power of two that holds so many tokens and a template around them, from 256 up."""
    return max(256, 2 ** math.ceil(math.log2(tokens + TEMPLATE_TOKENS)))


def _chosen(
    asked: PlanSettings, task: str, question: EstimateSettings, here: Machine
) -> tuple[Answer, dict[str, str]]:
    """The model with its estimate, and those that were passed over."""
    if asked.model is not None:
        found = answer(known(asked.model), question, here)
        if found.verdict != FITS:
            raise _does_not_fit(
                f"{found.model.ref} takes {found.needed.total / GB:.1f} GB", here, shlex.quote(asked.model)
            )
        return found, {}
    passed: dict[str, str] = {}
    for model in sorted(shortlist(), key=lambda m: -m.shapes.parameters):
        if why := _unfit(model, asked, task, question):
            passed[model.id] = why
            continue
        found = answer(known(model.id), question, here)
        if found.verdict == FITS:
            return found, passed
        passed[model.id] = f"takes {found.needed.total / GB:.1f} GB"
    raise _does_not_fit("no model of the shortlist fits", here, "")


def _unfit(model: Listed, asked: PlanSettings, task: str, question: EstimateSettings) -> str:
    """Why a model is not asked at all; "" where it is."""
    if task not in model.tasks:
        return f"is not for {task}"
    if asked.licence == "open" and model.licence not in OPEN:
        return f"has the licence {model.licence}"
    if model.shapes.context and model.shapes.context < question.max_seq_length:
        return f"reads at most {model.shapes.context} tokens"
    return ""


def _does_not_fit(cause: str, here: Machine, model: str) -> BpError:
    return BpError(
        "CONFIG_DOES_NOT_FIT",
        f"{cause}, {here.name} has {here.capacity / GB:.1f}",
        f"see what would: backprop estimate-vram {model}".strip(),
    )
