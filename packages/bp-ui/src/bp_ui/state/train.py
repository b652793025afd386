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
RECOMMENDED = ("data", "model", "method", "steps", "rewards")
ADVISING = frozenset({"data", "model", "method"})


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
    advised: dict[str, str] = {}
    advice: list[dict[str, str]] = []
    advice_head: str = ""
    advice_more: list[str] = []
    advising: bool = False
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
        return [Train.weigh, Train.recommend]

    def _given(self) -> dict[str, str]:
        """What the run is given: at Recommended the plan's settings, but for what was set by hand."""
        if self.level != "Recommended":
            return dict(self.values)
        by_hand = self.values.get("steps") or self.values.get("epochs")
        taken = {k: v for k, v in self.advised.items() if k != "steps" or not by_hand}
        return {**taken, **self.values}

    @rx.event(background=True, supersedes=True)
    async def recommend(self):
        """Ask the autopilot; a later question takes the place of one under way."""
        async with self:
            values = {k: self.values.get(k, "") for k in ADVISING}
            self.advised, self.advice, self.advice_head, self.advice_more = {}, [], "", []
            self.advising = bool(values["data"]) and self.level == "Recommended"
            if not self.advising:
                return
        told, error = await work(_recommend, values)
        async with self:
            self.advising = False
            with self.telling():
                if error is not None:
                    raise error
                self._advise(told)
        return Train.weigh

    def _advise(self, told: dict[str, Any]) -> None:
        self.advised = told["values"]
        rows, reasons = told["rows"], told["reasons"]
        self.advice_head = (
            f"{number(rows['count'])} rows can be used"
            + (f", {number(rows['rejected'])} cannot" if rows["rejected"] else "")
            + f". {size(told['total_bytes'])} of {told['vram_gb']:g} GB on {told['device']}: {told['verdict']}."
        )
        names = [*self.advised, *(r for r in reasons if r == "task")]
        self.advice = [
            {
                "name": n.replace("_", " ").capitalize(),
                "value": self.advised.get(n, str(told.get(n, ""))),
                "why": reasons.get(n, ""),
            }
            for n in names
        ]
        self.advice_more = [
            *(f"{model} is passed over: {why}" for model, why in list(told["passed_over"].items())[:4]),
            *(["Name the rewards: page Rewards composes a set of them."] if told["more"] else []),
        ]

    @rx.event
    def change_advice(self):
        """Take the plan's settings into the form, to change them."""
        self.values, self.level = self._given(), "Custom"
        self._choose()
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
        return [Train.weigh, Train.recommend] if level == "Recommended" and not self.advised else Train.weigh

    @rx.event
    def put(self, name: str, value: str):
        """Set one value; an empty one is taken back."""
        values = {**self.values, name: value.strip()}
        self.values = {k: v for k, v in values.items() if v != ""}
        self.plan, self.mask = [], []
        self._choose()
        if name in ADVISING and self.level == "Recommended":
            return Train.recommend
        if name in WEIGHTY:
            self.verdict, self.memory = "", []
            return Train.weigh

    @rx.event(background=True, supersedes=True)
    async def weigh(self):
        """Ask whether it fits; a later question takes the place of one under way."""
        async with self:
            values = self._given()
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
            values = self._given()
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
            flags = await work(train_flags, self._given(), found.places)
            self.command = command_line(flags)
            run_id = await work(found.jobs.train, flags, run_id=self.run_id or None)
            self.run_id = ""
            return rx.redirect(f"/run/?id={run_id}")

    @rx.event
    async def show_command(self):
        """The command that does the same."""
        with self.telling():
            from bp_ui.service.forms import command_line, train_flags

            self.command = command_line(await work(train_flags, self._given(), services().places))

    @rx.event
    def put_config_name(self, value: str):
        """Name the configuration to save."""
        self.config_name = value.strip()

    @rx.event
    async def save_config(self):
        """Save the values under the name."""
        with self.telling():
            found = services()
            await work(found.configs.save, self.config_name, self._given())
            self.configs = await work(found.configs.list)
            self.notice = f"Saved as {self.config_name}"

    @rx.event
    async def load_config(self, name: str):
        """Take the values of a saved name."""
        if not name:
            return
        with self.telling():
            self._take(name, await work(services().configs.load, name))
            self.level = "Custom" if self.level == "Recommended" else self.level
            self._choose()
            return Train.weigh

    def _take(self, name: str, told: dict[str, Any]) -> None:
        known = {f["name"] for f in self._form}
        self.values = {k: str(v) for k, v in told.items() if k in known}
        self.notice = f"These are the values of {name}"


def _or_error(function: Any, *arguments: Any) -> tuple[dict[str, Any], Any]:
    """What a function of the services says, or its coded error."""
    from bp_merge.common import is_coded

    try:
        return function(*arguments), None
    except Exception as error:
        if not is_coded(error):
            raise
        return {}, error


def _plan(values: dict[str, str]) -> tuple[dict[str, Any], Any]:
    from bp_ui.service.forms import train_flags

    found = services()
    return _or_error(lambda: found.jobs.now(["train", *train_flags(values, found.places), "--dry-run"]))


def _weigh(values: dict[str, str]) -> tuple[dict[str, Any], Any]:
    from bp_ui.service.memory import will_it_fit

    return _or_error(will_it_fit, services(), values)


def _recommend(values: dict[str, str]) -> tuple[dict[str, Any], Any]:
    from bp_ui.service.autopilot import recommend

    return _or_error(recommend, services(), values)


def mask_of(said: str) -> tuple[str, list[dict[str, str]]]:
    """The head line and the parts of the example that the command shows: what is learnt stands in ⟦ ⟧."""
    found = re.search(r"^example (.*?)$\n(.*)", said, re.M | re.S)
    if not found:
        return "", []
    parts = re.split(r"⟦(.*?)⟧", found[2].split("\nexample ")[0].strip("\n"), flags=re.S)
    return found[1], [{"text": p, "learnt": "yes" if i % 2 else ""} for i, p in enumerate(parts) if p]
