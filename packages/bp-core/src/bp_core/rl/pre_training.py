"""The supervised phase before the rewards: the rows' own answers, in the form that the rewards look for.

- It is a supervised run like any other, recorded beside the run that it is of (`RUN-sft`), on the rows of that run's
  training part: what is held out stays unseen. Settings that the run was given are its too, learning rate and length of
  the run apart; what was left open is decided for it as for every supervised run.
- The rewards go on with its adapter. The KL divergence is from the model after it: the reference is what the rewards
  began with.
- Killed or stopped within it, the run goes on within it; after it, its adapter is read from its folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from bp_data.example import Example, Turn
from bp_merge.common import BpError

from bp_core.encoding.dataset import prepare
from bp_core.encoding.encode import Encoder
from bp_core.errors import as_ours
from bp_core.models.load import recommended, vocabulary_size
from bp_core.rewards.presets import Prompt
from bp_core.rewards.prompt_templates import answer_in_form
from bp_core.rewards.text import answers
from bp_core.runs.rows import PHASE
from bp_core.runs.store import RunStore
from bp_core.settings.decided import DECIDABLE
from bp_core.settings.knobs import Settings, knob_of
from bp_core.training.callbacks import Callback
from bp_core.training.decide import decide
from bp_core.training.deliver import deliver
from bp_core.training.fit import fit
from bp_core.training.inputs import Inputs, make_encoder
from bp_core.training.member import open_member, recorded
from bp_core.training.objectives.sft import Sft
from bp_core.training.open import Opened


def after_pre_training(
    opened: Opened, template: Prompt | None, *, callbacks: Iterable[Callback] = ()
) -> Opened:
    """The run with the adapter of its supervised phase to begin with; the phase is worked where it is not over.

    Args:
        opened: a run by rewards.
        template: the form of its answers, or None.
        callbacks: told of the phase too.

    Raises:
        BpError: `STATE_JOB_CANCELLED` where the phase was stopped, and the run with it; `CONFIG_CONFLICT` where no row
            has an answer; those of a supervised run.
    """
    store = RunStore(opened.run.store.output)
    run_id = f"{opened.run.run_id[:60]}-sft"
    record = recorded(store, run_id)
    if record is None or record.status != "completed":
        _work(opened, store, run_id, taught_rows(opened, template), tuple(callbacks))
    settings = opened.settings.replace(PHASE, init_adapter=store.output / run_id / "adapter")
    decided = dataclasses.replace(opened.decided, settings=settings)
    return dataclasses.replace(opened, inputs=dataclasses.replace(opened.inputs, decided=decided))


def _work(
    opened: Opened, store: RunStore, run_id: str, rows: list[Example], callbacks: tuple[Callback, ...]
) -> None:
    inputs = _inputs(opened, rows)
    opened.tell(
        f"pre-training: {inputs.decided.steps} supervised steps on {len(inputs.prepared.train)} answers ({run_id})"
    )
    opening = open_member(
        store,
        run_id,
        inputs,
        opened.base,
        whole=opened.run.run_id,
        name=f"pre-training of {opened.run.run_id}",
        tell=opened.tell,
        kind=PHASE,
    )
    with opening as phase:
        own, asked = phase.run.control, opened.run.control
        phase.run.control = lambda: asked() or own()  # what the run is asked is obeyed by its phase
        result = deliver(fit(phase, callbacks=callbacks)).result
    if result.status != "completed":
        opened.run.finish(
            result.status,
            {"reason": result.reason, "error": f"its pre-training {run_id} was {result.status}"},
        )
        raise BpError(
            "STATE_JOB_CANCELLED",
            f"{opened.run.run_id} was {result.status} in its pre-training, at step {result.steps}",
            f"backprop resume {opened.run.run_id}{store.flag}",
            details={"run_id": opened.run.run_id},
        )
    opened.run.event("PRE_TRAINED", f"{run_id} taught the form in {result.steps} steps", run=run_id)


def _inputs(opened: Opened, rows: list[Example]) -> Inputs:
    """What the phase trains with."""
    settings = supervised(opened.settings)
    encoder: Encoder = make_encoder(opened.base.path, settings, opened.encoder.now)
    with as_ours():
        prepared = prepare(settings, encoder, Sft().encode, sources=rows, tell=opened.tell)
    folder = opened.base.path
    decided = decide(
        settings,
        recommended(folder),
        opened.device,
        prepared,
        vocabulary=vocabulary_size(folder),
        attention=opened.decided.attn_implementation,
    )
    return Inputs(decided, opened.device, folder, encoder, prepared)


def supervised(settings: Settings) -> Settings:
    """The settings of the phase: those of the run, what it left open is open again.

    Args:
        settings: of a run by rewards, decided.
    """
    rl = settings.rl
    free = {
        name: knob_of(name).default
        for name in DECIDABLE
        if not settings.given(name) or name in ("batch_size", "gradient_accumulation", "learning_rate")
    }
    phase = {
        **free,
        "method": "sft",
        "steps": None,
        "epochs": rl.pre_training_epochs,
        "learning_rate": rl.pre_training_learning_rate,
        "max_seq_length": settings.model.max_seq_length + rl.max_completion_length,
        "heldout": None,
        "heldout_ratio": 0.0,
        "samples": None,
        "eval_metrics": (),
        "best_by": "loss",
        "keep": "last",
        "prompt_template": None,  # the rows are in form
        "pre_training_epochs": 0.0,
    }
    made = settings.replace("default", **{k: v for k, v in phase.items() if v == knob_of(k).default})
    return made.replace(PHASE, **{k: v for k, v in phase.items() if v != knob_of(k).default})


def taught_rows(opened: Opened, template: Prompt | None) -> list[Example]:
    """The rows of the run's training part that bring an answer, with it in the form of the template.

    Raises:
        BpError: `CONFIG_CONFLICT` where none does.
    """
    rows = [r for e in opened.prepared.train_examples if (r := taught(e, template)) is not None]
    if not rows:
        raise BpError(
            "CONFIG_CONFLICT",
            "a pre-training copies the rows' own answers, and no row brings one",
            "leave --pre-training-epochs out, or map a field: --map question=prompt,answer=reference",
        )
    if left := len(opened.prepared.train_examples) - len(rows):
        opened.tell(f"pre-training: {left} rows bring no answer")
    return rows[: opened.settings.rl.pre_training_samples]


def taught(example: Example, template: Prompt | None) -> Example | None:
    """A row by rewards as one to copy: what is asked, and the answer that the row brings; None where it brings none.

    Example:
        The prompt "2+2?" with the reference "4" and the response "<a>{solution}</a>" becomes user "2+2?", assistant
        "<a>4</a>".
    """
    if example.kind == "chat":
        last = max(i for i, turn in enumerate(example.turns) if turn.role == "assistant")
        asked, said = example.turns[:last], example.turns[last]
    else:
        found = answers(example.reference) if example.reference is not None else []
        asked, said = example.turns, Turn("assistant", found[0] if found else "")
    if not said.content.strip() and not said.tool_calls:
        return None
    if template is not None:
        said = answer_in_form(said, template)
    return dataclasses.replace(example, kind="chat", turns=(*asked, said), reference=None, task="")
