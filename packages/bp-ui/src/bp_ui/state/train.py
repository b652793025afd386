"""The form of a training: every knob, the plan, the start."""

from __future__ import annotations

import re
from typing import Any

import reflex as rx

from bp_ui.state.told import Told, services, work
from bp_ui.state.words import duration, number, size

LEVELS = ("Recommended", "Custom", "Advanced")
CUSTOM = (*["model", "data", "method", "preset", "steps", "epochs", "learning_rate", "max_seq_length", "batch_size", "rank", "alpha", "heldout_ratio", "seed"], "gradient_accumulation", "scheduler", "warmup_ratio", "eval_steps", "save_steps", "samples", "map", "rewards", "group_size", "max_completion_length")  # fmt: skip
WEIGHTY = frozenset(
    {
        "model",
        "method",
        "preset",
        "max_seq_length",
        "batch_size",
        "gradient_accumulation",
        "rank",
        "use_dora",
        "optim",
    }
)
RECOMMENDED = ("model", "data", "method", "preset", "steps", "epochs")


class Train(Told, rx.State):
    """Values by field name, as text; what is empty is decided by the run."""

    level: str = "Recommended"
    fields: list[dict[str, str]] = []
    values: dict[str, str] = {}
    models: list[dict[str, str]] = []
    datasets: list[dict[str, str]] = []
    run_id: str = ""
    command: str = ""
    ready: bool = False
    planning: bool = False
    plan: list[dict[str, str]] = []
    mask: list[dict[str, str]] = []
    learnt: str = ""
    plan_notes: list[str] = []
    weighing: bool = False
    verdict: str = ""
    verdict_look: str = ""
    memory: list[dict[str, str]] = []
    memory_total: str = ""
    configs: list[str] = []
    config_name: str = ""

    @rx.event
    async def load(self):
        """The form, the models and the datasets."""
        with self.telling():
            from bp_ui.service.forms import train_form

            found = services()
            everything = await work(train_form)
            self._form = everything
            told = await work(found.system.read)
            self.models = [
                {"id": m["id"], "told": f"{m['family']}, {m['billions']:g} B, {m['fits']}"}
                for m in found.models.families(told["gpu_memory_total"])
            ]
            self.datasets = [{"path": d["path"], "name": d["name"]} for d in await work(found.datasets.list)]
            self.configs = await work(found.configs.list)
            given = {
                k: v
                for k, v in self.router.url.query_parameters.items()
                if any(f["name"] == k for f in everything)
            }
            self.values = {**self.values, **given}
            if name := self.router.url.query_parameters.get("config"):
                self._take(name, await work(found.configs.load, name))
            self._choose()
        self.ready = True
        return Train.weigh

    _form: list[dict[str, Any]] = []

    def _choose(self) -> None:
        names = {"Recommended": RECOMMENDED, "Custom": CUSTOM}.get(self.level)
        found = [f for f in self._form if names is None or f["name"] in names]
        if names is not None:
            found.sort(key=lambda f: names.index(f["name"]))
        self.fields = [
            {
                **{k: str(v) for k, v in f.items() if k != "choices"},
                "choices": "|".join(f["choices"]),
                "value": self.values.get(f["name"], ""),
                "hint": f"{f['default']}" if f["default"] else "decided by the run",
                "head": f["group"].capitalize()
                if names is None and (i == 0 or found[i - 1]["group"] != f["group"])
                else "",
            }
            for i, f in enumerate(found)
        ]

    @rx.event
    def choose_level(self, level: str):
        """Show fewer or more settings."""
        self.level = level
        self._choose()

    @rx.event
    def put(self, name: str, value: str):
        """Set one value; an empty one is taken back."""
        values = {**self.values, name: value.strip()}
        self.values = {k: v for k, v in values.items() if v != ""}
        self.plan, self.mask = [], []
        self._choose()
        if name in WEIGHTY:
            self.verdict, self.memory = "", []
            return Train.weigh

    @rx.event(background=True, supersedes=True)
    async def weigh(self):
        """Ask whether it fits; a later question takes the place of one under way."""
        async with self:
            values = dict(self.values)
            if not values.get("model"):
                return
            self.weighing = True
        told, error = await work(_weigh, values)
        async with self:
            self.weighing = False
            if error is not None:
                self.verdict, self.verdict_look, self.memory_total = (
                    f"{error.code}: {error.message}",
                    "warn",
                    "",
                )
                return
            total, room = told["total_bytes"], told["vram_gb"] * 2**30
            self.verdict = told["verdict"]
            self.verdict_look = {"fits": "fits", "tight": "tight"}.get(told["verdict"], "large")
            self.memory_total = f"{total / 2**30:.1f} of {told['vram_gb']:.1f} GiB, {told['device']}"
            self.memory = [
                {"name": n.capitalize(), "text": size(b), "share": f"{min(100.0, 100 * b / room):.1f}%"}
                for n, b in told["components"].items()
                if b
            ]

    @rx.event
    def put_run_id(self, value: str):
        """Name the run."""
        self.run_id = value.strip()

    @rx.event(background=True)
    async def make_plan(self):
        """Ask the command what it would do."""
        async with self:
            if self.planning:
                return
            self.planning, self.plan, self.mask, self.plan_notes = True, [], [], []
            values = dict(self.values)
        try:
            told, error = await work(_plan, values)
        finally:
            async with self:
                self.planning = False
        async with self:
            with self.telling():
                if error is not None:
                    raise error
                self._show(told)

    def _show(self, told: dict[str, Any]) -> None:
        data = told["data"]
        seconds = told.get("cpu_seconds")
        rows = [
            (
                "Model",
                f"{told['base_model']}, {number(told['parameters'])} parameters, {size(told['base_weights_bytes'])} of weights",
            ),
            ("Computes on", told["device"] + (f", about {duration(seconds)}" if seconds is not None else "")),
            ("Rows", f"{number(data['accepted'])} of {number(data['rows'])} can be used"),
            ("Left out", ", ".join(f"{n} {reason}" for reason, n in data["rejections"].items())),
            (
                "Training",
                f"{number(data['train']['pieces'])} pieces, {number(data['train']['tokens'])} tokens, {number(data['train']['labels'])} learnt",
            ),
            ("Held out", f"{number(data['heldout']['pieces'])} pieces"),
            (
                "Steps",
                f"{number(told['steps'])} of {number(told['examples_per_step'])} examples, {told['epochs']:g} epochs",
            ),
        ]
        self.plan = [{"name": n, "value": v} for n, v in rows if v]
        said = told["told"]
        self.learnt, self.mask = mask_of(said)
        self.plan_notes = [line for line in said.split("\nexample ")[0].splitlines() if line.strip()][:12]

    @rx.event
    async def start(self):
        """Start the training and show it."""
        with self.telling():
            from bp_ui.service.forms import command_line, train_flags

            found = services()
            flags = await work(train_flags, self.values, found.places)
            self.command = command_line(flags)
            run_id = await work(found.jobs.train, flags, run_id=self.run_id or None)
            self.run_id = ""
            return rx.redirect(f"/run/?id={run_id}")

    @rx.event
    async def show_command(self):
        """The command that does the same."""
        with self.telling():
            from bp_ui.service.forms import command_line, train_flags

            self.command = command_line(await work(train_flags, self.values, services().places))

    @rx.event
    def put_config_name(self, value: str):
        """Name the configuration to save."""
        self.config_name = value.strip()

    @rx.event
    async def save_config(self):
        """Save the values under the name."""
        with self.telling():
            found = services()
            await work(found.configs.save, self.config_name, self.values)
            self.configs = await work(found.configs.list)
            self.notice = f"Saved as {self.config_name}"

    @rx.event
    async def load_config(self, name: str):
        """Take the values of a saved name."""
        if not name:
            return
        with self.telling():
            self._take(name, await work(services().configs.load, name))
            self._choose()

    def _take(self, name: str, told: dict[str, Any]) -> None:
        known = {f["name"] for f in self._form}
        self.values = {k: str(v) for k, v in told.items() if k in known}
        self.notice = f"These are the values of {name}"


def _plan(values: dict[str, str]) -> tuple[dict[str, Any], Exception | None]:
    from bp_merge.common import is_coded

    from bp_ui.service.forms import train_flags

    found = services()
    try:
        return found.jobs.now(["train", *train_flags(values, found.places), "--dry-run"]), None
    except Exception as error:
        if not is_coded(error):
            raise
        return {}, error


def _weigh(values: dict[str, str]) -> tuple[dict[str, Any], Any]:
    from bp_merge.common import is_coded

    from bp_ui.service.memory import will_it_fit

    try:
        return will_it_fit(services(), values), None
    except Exception as error:
        if not is_coded(error):
            raise
        return {}, error


def mask_of(said: str) -> tuple[str, list[dict[str, str]]]:
    """The head line and the parts of the example that the command shows: what is learnt stands in ⟦ ⟧."""
    found = re.search(r"^example (.*?)$\n(.*)", said, re.M | re.S)
    if not found:
        return "", []
    parts = re.split(r"⟦(.*?)⟧", found[2].split("\nexample ")[0].strip("\n"), flags=re.S)
    return found[1], [{"text": p, "learnt": "yes" if i % 2 else ""} for i, p in enumerate(parts) if p]
