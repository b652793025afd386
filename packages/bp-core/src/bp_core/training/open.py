"""The opening of a run: its record exists, its data is read, everything is decided; no weights are loaded yet.

- The run's folder holds all that resume needs: settings, tokens, checkpoints. Nothing is asked again.
- Of several processes (`bp_core.training.processes`) the first opens the run, and the others read it from its folder.
- Leaving the block ends the record whatever happens, and names the run in a coded error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bp_export.adapter import directory as adapter_dir
from bp_export.adapter.base import ResolvedBase, resolve_base

from bp_core.encoding.dataset import Prepared, load, save
from bp_core.encoding.encode import Encoder
from bp_core.errors import BpError
from bp_core.models.device import Device, choose_device
from bp_core.models.load import vocabulary_size
from bp_core.runs.cards import cards_of
from bp_core.runs.jobs import ended, on_cards, record_training
from bp_core.runs.rows import RunRecord
from bp_core.runs.store import RunStore
from bp_core.runs.unrecorded import Unrecorded
from bp_core.runs.writer import Run
from bp_core.settings.decided import Decided
from bp_core.settings.knobs import Settings
from bp_core.settings.resolve import from_record
from bp_core.support import environment
from bp_core.support.launch import launch
from bp_core.training import checkpoint, processes
from bp_core.training.decide import decide
from bp_core.training.inputs import Inputs, make_encoder, read_inputs, to_stderr
from bp_core.training.ranks import ALONE, Ranks
from bp_core.training.refusals import refuse_early
from bp_core.training.snapshot import save_tokenizer


@dataclasses.dataclass
class Opened:
    """A recorded run with all that it trains with but the weights.

    Args:
        run: its record.
        inputs: device, tokenizer, data, every setting.
        base: the base model.
        tell: shows a line to the user.
        resumed: whether it began before.
        found: the checkpoint to go on from.
        ranks: the processes that train it.
    """

    run: Run
    inputs: Inputs
    base: ResolvedBase
    tell: Callable[[str], None]
    resumed: bool = False
    found: checkpoint.Checkpoint | None = None
    ranks: Ranks = ALONE

    @property
    def decided(self) -> Decided:
        """Every setting of the run."""
        return self.inputs.decided

    @property
    def settings(self) -> Settings:
        """The same as they are recorded."""
        return self.inputs.decided.settings

    @property
    def device(self) -> Device:
        """In use."""
        return self.inputs.device

    @property
    def encoder(self) -> Encoder:
        """Of the tokenizer."""
        return self.inputs.encoder

    @property
    def prepared(self) -> Prepared:
        """The data."""
        return self.inputs.prepared


@contextlib.contextmanager
def open_run(
    settings: Settings,
    *,
    sources: Any = None,
    tell: Callable[[str], None] = to_stderr,
    parent: str | None = None,
    now: dt.datetime | None = None,
    run_id: str | None = None,
    base: ResolvedBase | None = None,
    run: Run | None = None,
) -> Iterator[Opened]:
    """Open a new run.

    Args:
        settings: as resolved.
        sources: an iterable of `Example` instead of `settings.data.data`.
        tell: shown to the user.
        parent: the run that this one replays.
        now: the moment that dated templates see; this one unless given.
        run_id: its name; made from the time unless given.
        base: of the settings, where `refuse_early` gave both; asked here otherwise.
        run: its record where the caller made it before (`record_training`), and ends it.

    Raises:
        BpError: with the run's id in its details once there is one.
    """
    if not launch().first:
        with follow_run() as followed:
            yield followed
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        lead = stack.enter_context(processes.leading())
        # what is wrong by itself leaves no record
        if base is None:
            settings, base = refuse_early(settings, tell, data=sources is None)
        device = choose_device(settings)
        if run is None:
            run = stack.enter_context(record_training(settings, tell=tell, parent=parent, run_id=run_id))
        inputs = read_inputs(settings, base, device, sources=sources, tell=tell, now=now)
        base = resolve_base(settings.model.model, revision=base.revision)
        _describe(run, inputs, base)
        run.begin(total=inputs.decided.steps)
        save(inputs.prepared, run.path / "tokens")
        save_tokenizer(inputs.encoder.tokenizer, inputs.encoder.ends, run.path / "tokenizer")
        yield _met(Opened(run, inputs, base, tell), lead)


def _describe(run: Run, inputs: Inputs, base: ResolvedBase) -> None:
    """Put into the record what its inputs say."""
    settings, prepared = inputs.decided.settings, inputs.prepared
    run.describe(
        config=settings.to_dict(),
        sources=settings.sources,
        environment=environment.collect(settings.tracking.output),
        dataset={
            **prepared.record,
            "now": inputs.encoder.now.isoformat(),
            "heldout_ids": list(prepared.heldout_ids),
        },
        base_model={
            "ref": base.ref,
            "revision": base.revision,
            "source": base.source,
            "config_sha256": adapter_dir.config_sha256(base.path),
        },
        seed=settings.training.seed,
    )


@contextlib.contextmanager
def reopen_run(output: Path, run_id: str, *, tell: Callable[[str], None] = to_stderr) -> Iterator[Opened]:
    """Open a recorded run to go on from its newest complete checkpoint, or to start it over where it has none.

    Raises:
        BpError: `INPUT_RUN_NOT_FOUND`, `STATE_RUN_FINISHED`, `STATE_RUN_ACTIVE`, `STATE_TOKENS_MISSING`, `INPUT_WRONG_BASE`.
    """
    if not launch().first:
        with follow_run() as followed:
            yield followed
        return
    with processes.leading() as lead:
        store = RunStore(output)
        record = store.resumable(run_id)
        inputs, base = _recorded(store, record)
        found, skipped = checkpoint.newest(output / record.run_id / "checkpoints")
        for why in skipped:
            tell(f"checkpoint passed over: {why}")
        run = store.open(record.run_id, step=found.step if found else 0)
        cards = cards_of(inputs.decided.settings.model.backend)
        with _quiet(), ended(run), on_cards(run, cards, tell=tell):
            tell(
                f"resuming {record.run_id} at step {found.step}"
                if found
                else f"{record.run_id} has no checkpoint: starting it over"
            )
            before, now = found.manifest.get("processes", 1) if found else launch().world, launch().world
            if before != now:
                tell(
                    f"its last steps were made by {before} process(es), the next by {now}: sums are added in another "
                    "order, and dropout draws other numbers, so that this is not bit for bit the run that went on"
                )
            here = environment.collect(output)
            if found and (changed := environment.numeric_differences(record.environment, here)):
                tell(
                    f"not on what the run began with: {'; '.join(changed)}. It goes on from the same state, but not bit for "
                    "bit as it would have gone on there"
                )
            yield _met(Opened(run, inputs, base, tell, resumed=True, found=found), lead)


def _recorded(store: RunStore, record: RunRecord) -> tuple[Inputs, ResolvedBase]:
    """The inputs of a recorded run from its record and its folder."""
    settings = from_record(record.config)
    settings = dataclasses.replace(settings, sources={**settings.sources, **record.sources})
    prepared = load(store.output / record.run_id / "tokens")
    device = choose_device(settings)
    base = resolve_base(
        settings.model.model, revision=record.base_model.get("revision") or settings.model.revision
    )
    if adapter_dir.config_sha256(base.path) != record.base_model.get("config_sha256"):
        raise BpError(
            "INPUT_WRONG_BASE",
            f"{base.ref} is not the model that run {record.run_id} began with",
            f"backprop show-run {record.run_id}{store.flag}",
        )
    encoder = make_encoder(base.path, settings, dt.datetime.fromisoformat(record.dataset["now"]))
    encoder.stops |= set(prepared.stops)
    # a record holds what was decided; only a setting that it is too old to know is decided here
    decided = decide(settings, {}, device, prepared, vocabulary=vocabulary_size(base.path))
    return Inputs(decided, device, base.path, encoder, prepared), base


def _met(opened: Opened, lead: processes.Lead) -> Opened:
    """The first process has opened a run: the others read it, and meet."""
    opened.ranks = lead(
        opened.device.device,
        output=str(opened.run.store.output.absolute()),
        run_id=opened.run.run_id,
        resumed=opened.resumed,
        step=opened.found.step if opened.found else None,
    )
    return opened


@contextlib.contextmanager
def follow_run() -> Iterator[Opened]:
    """The run that the first process opens, as another one sees it: it records nothing and tells nothing.

    Raises:
        BpError: `RUNTIME_PROCESS_LOST` where the first process opens none.
    """
    facts = processes.follow()
    store = RunStore(facts["output"])
    inputs, base = _recorded(store, store.get(facts["run_id"]))
    run = Unrecorded(store, facts["run_id"])
    found = None
    if facts["step"] is not None:
        found = checkpoint.read(
            run.path / "checkpoints" / checkpoint.folder_name(facts["step"]), verify=False
        )
    met = processes.joined(inputs.device.device)
    with _quiet():
        yield Opened(run, inputs, base, lambda _: None, facts["resumed"], found, met)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of transformers and peft about each other's old names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
