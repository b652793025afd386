"""What looks after a run: each part by itself, and all of them around a loop that is no trainer of ours."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest
from bp_core import BpError, Callback, RunStore
from bp_core.safety.guards import DiskGuard, LossGuard
from bp_core.safety.monitor import Monitor
from bp_core.settings.resolve import resolve
from bp_core.training import checkpoint
from bp_core.training.watching.best import Best
from bp_core.training.watching.build import watch_of
from bp_core.training.watching.disk import Disk
from bp_core.training.watching.evaluators import HeldOut, Prompts
from bp_core.training.watching.heat import Heat
from bp_core.training.watching.keeper import Keeper
from bp_core.training.watching.listeners import Listeners
from bp_core.training.watching.losses import Losses
from bp_core.training.watching.orders import Hold, Stop
from bp_core.training.watching.pace import Pace
from bp_core.training.watching.recorder import Recorder
from bp_core.training.watching.requests import Requests
from bp_core.training.watching.signals import Signals
from settled import settled


class Said(list):
    def __call__(self, code, message, **details):
        self.append(code)


def test_the_parts_need_no_torch():
    code = (
        "import sys, bp_core.training.watching.build; "
        "print([m for m in ('torch', 'transformers', 'peft', 'pydantic') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------- part by part


def test_a_first_signal_asks_and_a_second_one_ends():
    before, said = signal.getsignal(signal.SIGTERM), Said()
    with Signals(said) as signals:
        assert signals.look(1) is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.look(1) == Stop("interrupted", "SIGNAL")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert said == ["STOP_REQUESTED"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_pause_lasts_until_it_is_taken_back_or_the_run_is_stopped():
    asked = iter([None, "pause", None, "resume", "pause", "stop-and-save", "stop"])
    requests = Requests(lambda: next(asked))
    hold, go = Hold(), None
    assert [requests.look(1) for _ in range(7)] == [
        go,
        hold,
        hold,
        go,
        hold,
        Stop("stopped", "CONTROL_STOP", save=True),
        Stop("stopped", "CONTROL_STOP", save=False),
    ]


def test_without_a_card_heat_goes_on():
    assert Heat(Monitor(None), "backprop resume r").look(1) is None


def test_the_disk_is_looked_at_once_a_step_and_stops_while_a_checkpoint_still_fits(tmp_path, monkeypatch):
    free, said = [2e9], Said()
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(free[0]))
    next_save = [0.0]
    guard = DiskGuard(1.5e9)
    disk = Disk(tmp_path, guard, next_save=lambda: next_save[0], resume="backprop resume r", say=said)
    assert [disk.look(19), disk.look(20), disk.look(20)] == [None, None, None]
    assert said == ["DISK_LOW"], "a run that is held is asked again and again, and told once"
    next_save[0] = 1e9
    order = disk.look(40)
    assert isinstance(order, Stop)
    assert order.error is not None
    assert (order.error.code, order.save) == ("RUNTIME_DISK_FULL", True)
    assert "backprop resume r" in str(order.error.hint)


def test_a_loss_that_is_not_finite_is_raised_with_the_run():
    said = Said()
    losses = Losses(LossGuard(), said, "run-7")
    losses.judge(1, 2.0, 0.5)
    with pytest.raises(BpError) as error:
        losses.judge(2, float("nan"), 0.5)
    assert (error.value.code, error.value.details["run_id"]) == ("RUNTIME_LOSS_NOT_FINITE", "run-7")
    assert losses.last[1] == 0.5


def test_the_best_is_remembered_and_patience_runs_out():
    best = Best(patience=2)
    assert [best.observe(step, loss) for step, loss in enumerate((3.0, 2.0, 2.0))] == [False, False, False]
    again = Best(patience=2)
    again.restore(best.memory())
    assert again.observe(3, 2.5)
    assert again.is_at(1)
    assert again.steps(2) == [1, 2]
    assert Best(0).observe(1, 9.0) is False


def test_evaluators_name_their_values(tmp_path):
    said = []
    assert HeldOut(lambda: {"loss": 2.0, "margin": 0.5})(4) == {"heldout_loss": 2.0, "heldout_margin": 0.5}
    prompts = Prompts(("a", "b"), str.upper, lambda code, text, **facts: said.append((code, text, facts)))
    assert prompts(4) == {}
    assert said[1] == ("SAMPLE_GENERATED", "B", {"prompt": "b", "step": 4})


def test_a_callback_that_raises_is_switched_off():
    heard, said = [], Said()

    class Good(Callback):
        def on_end(self, run_id, status):
            heard.append(status)

    class Bad(Callback):
        def on_end(self, run_id, status):
            raise RuntimeError("mine")

    listeners = Listeners([Bad(), Good()], said)
    listeners.call("on_end", "r", "completed")
    listeners.call("on_end", "r", "stopped")
    assert (heard, said) == (["completed", "stopped"], ["CALLBACK_FAILED"])


def test_pauses_are_no_training_time():
    now = [0.0]
    pace = Pace(lambda: now[0])
    now[0] = 2.0
    assert pace.step(100) == 50.0
    now[0] = 60.0  # evaluated and saved
    pace.begin()
    now[0] = 61.0
    assert pace.step(100) == 100.0
    assert (pace.tokens, pace.seconds) == (200, 3.0)


# ------------------------------------------------------------------------------------------- together


class Loop:
    """The smallest thing that can be watched."""

    step_tokens, metrics = 10, {"reward": 0.5}

    def __init__(self, steps):
        self.steps = steps
        self.state = SimpleNamespace(global_step=0, stateful_callbacks={})
        self.control = SimpleNamespace(should_training_stop=False)

    def save_checkpoint(self, root, **facts):
        def fill(folder):
            (folder / "weights").write_text(str(self.state.global_step))

        return checkpoint.write(root, self.state.global_step, fill, **facts)

    def run(self, watch):
        watch.start(self)
        while self.state.global_step < self.steps and not self.control.should_training_stop:
            watch.before_update(self.state.global_step + 1, 2.0 - self.state.global_step / 10, 1.0)
            self.state.global_step += 1
            watch.after_step(self, 1e-3)
        watch.after_step(self, 1e-3)  # loops log once more when they end


class Draws(Callback):
    def on_evaluate(self, step, heldout_loss):
        random.random()


def watched(folder, run, steps=6, callbacks=(), losses=(3.0, 1.0, 2.0, 2.5), **settings):
    given = {"eval_steps": 2, "save_steps": 3, "steps": steps, "output": folder, **settings}
    recorder = Recorder(run)
    watch = watch_of(
        recorder,
        settled(resolve(given, folder=folder)),
        Signals(recorder.say),
        Monitor(None),
        callbacks=callbacks,
    )
    values = iter(losses)
    watch.evaluators += [HeldOut(lambda: {"loss": next(values)}), lambda step: {"exact_match": step / 10}]
    return watch


def test_any_loop_is_watched_by_the_same_parts(tmp_path):
    store, loop = RunStore(tmp_path), Loop(6)
    random.seed(3)
    expected = random.random()
    random.seed(3)
    with store.create("train") as run:
        watch = watched(tmp_path, run, callbacks=[Draws()])
        loop.run(watch)
        run.finish(watch.status)
    assert watch.status == "completed"
    assert [s for s, _ in store.metrics(run.run_id, "loss")] == [1, 2, 3, 4, 5, 6]
    assert dict(store.metrics(run.run_id, "reward"))[6] == 0.5
    assert dict(store.metrics(run.run_id, "exact_match")) == {0: 0.0, 2: 0.2, 4: 0.4, 6: 0.6}
    assert watch.best.best == (1.0, 2)
    assert [c.step for c in checkpoint.complete(run.path / "checkpoints")] == [3, 6]
    assert random.random() == expected


def test_a_request_stops_it_and_its_memory_goes_on(tmp_path):
    store, loop = RunStore(tmp_path), Loop(6)

    class Ask(Callback):
        def on_step(self, info):
            if info.step == 2:
                store.request(info.run_id, "stop-and-save")

    with store.create("train") as run:
        watch = watched(tmp_path, run, callbacks=[Ask()])
        loop.run(watch)
        assert (watch.status, watch.stop_code) == ("stopped", "CONTROL_STOP")
        assert [c.step for c in checkpoint.complete(run.path / "checkpoints")] == [3]
        again = watched(tmp_path, run, losses=(0.5, 0.6))
        loop.control.should_training_stop = False
        loop.run(again)
        assert again.status == "completed"
        assert again.best.losses == {0: 3.0, 2: 1.0, 4: 0.5, 6: 0.6}
        assert again.pace.tokens == 60


def test_patience_ends_it(tmp_path):
    store, loop = RunStore(tmp_path), Loop(20)
    with store.create("train") as run:
        watch = watched(tmp_path, run, steps=20, patience=2)
        loop.run(watch)
    assert (watch.status, watch.stop_code, loop.state.global_step) == ("completed", "EARLY_STOPPED", 6)


def test_the_keeper_saves_when_due_and_at_the_best(tmp_path):
    best = Best()
    best.observe(2, 1.0)
    assert [Keeper(tmp_path, every=3).due(step, best) for step in (2, 3)] == [False, True]
    assert [Keeper(tmp_path, every=0, each_best=True).due(step, best) for step in (2, 3)] == [True, False]
