"""The public face of training: three lines from a dataset to a model that runs elsewhere.

    from bp_core import Trainer
    t = Trainer("Qwen/Qwen2.5-7B-Instruct")
    t.train("data.jsonl")
    t.export("gguf")

- Every keyword is a knob of `bp_core.settings.knobs`, by its name or one of its aliases; an unknown one is refused with the
  nearest. `Trainer(...)` sets what all its runs share, `train(...)` what one run has.
- `save`, `export`, `generate`, `push_to_hub` and `register_with_ollama` work on the last run, or on an adapter
  directory that is named.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_data.example import Example, Turn
from bp_merge.common import BpError

from bp_core.memory.machine import machine
from bp_core.memory.report import answer, asked_by
from bp_core.memory.source import known
from bp_core.run import resume_training, run_training
from bp_core.runs.results import RunResult, SessionResult
from bp_core.runs.store import RunStore
from bp_core.settings.knobs import Settings
from bp_core.settings.resolve import by_field, resolve
from bp_core.training.callbacks import Callback
from bp_core.training.deliver import Trained
from bp_core.training.inputs import to_stderr


class Trainer:
    """Trains LoRA adapters.

    Args:
        model: a Hub id, a folder, or `tiny`; Qwen/Qwen2.5-7B-Instruct unless some source names another.
        config_file: a TOML file instead of `backprop.toml`.
        callbacks: told of steps, evaluations and checkpoints.
        tell: gets what the user should read while it runs; stderr by default.
        **settings: knobs.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` for an unknown or invalid setting.

    Attributes:
        settings: as resolved.
        result: of the last run, None before.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        config_file: str | Path | None = None,
        callbacks: Iterable[Callback] = (),
        tell: Callable[[str], None] = to_stderr,
        **settings: Any,
    ) -> None:
        if model is not None:
            settings["model"] = model
        self._given = by_field(settings)
        self._config_file = Path(config_file) if config_file is not None else None
        self.callbacks, self.tell = tuple(callbacks), tell
        self.settings: Settings = resolve(self._given, config_file=self._config_file)
        self._last: Trained | None = None

    @property
    def result(self) -> RunResult | None:
        """The outcome of the last run."""
        return self._last.result if self._last else None

    def train(
        self, data: Any = None, *, steps: int | None = None, samples: int | None = None, **settings: Any
    ) -> RunResult:
        """Train one run.

        Args:
            data: a file, folder, glob or `hf:` id; several of them in a list; a `bp_data.Example` iterable.
            steps: optimizer steps.
            samples: use at most so many examples.
            **settings: further knobs, for this run alone.

        Returns:
            RunResult: with `run_id`, `adapter_path`, measured figures.

        Raises:
            BpError: of settings (`CONFIG_…`), data (`INPUT_…`), model (`DEP_…`) or the run (`RUNTIME_…`).
        """
        given = self._given | by_field(settings)
        sources = None
        if isinstance(data, str | Path):
            given["data"] = (str(data),)
        elif data is not None:
            items = list(data)
            if items and all(isinstance(item, Example) for item in items):
                sources = items
            else:
                given["data"] = tuple(map(str, items))
        given |= {k: v for k, v in (("steps", steps), ("samples", samples)) if v is not None}
        self.settings = resolve(given, config_file=self._config_file)
        self._last = run_training(self.settings, sources=sources, callbacks=self.callbacks, tell=self.tell)
        self.settings = self._last.settings
        return self._last.result

    def estimate_vram(self, vram_gb: float | None = None, **asked: Any) -> dict[str, Any]:
        """The memory that training would take, before anything is fetched: what `backprop estimate-vram --json` prints.

        Args:
            vram_gb: of a card that need not be here, in GB of 2^30 bytes; the card or main memory here unless given.
            **asked: further settings of the command, on top of the trainer's own.

        Raises:
            BpError: `INPUT_SHAPES_UNKNOWN` for an architecture that is not counted, `DEP_MODEL_LOAD_FAILED`.
        """
        model = self.settings.model
        question = asked_by(self.settings, vram_gb=vram_gb, **asked)
        found = answer(
            known(model.model, model.revision), question, machine(vram_gb, cpu=model.backend == "cpu")
        )
        return found.to_dict(question.keep_last + question.keep_best)

    def multi_run(
        self,
        data: Any = None,
        *,
        run_id: str | None = None,
        resume_from: str | None = None,
        **settings: Any,
    ) -> SessionResult:
        """Train a session: many runs, one after the other, whose adapters become one.

        Args:
            data: one dataset, which is cut into parts, one a run; or several in a list, one a task; or task → dataset.
                A dataset is as in `train`.
            run_id: name of the session.
            resume_from: id of a session to go on with, or `off` to start anew; unless given, an unfinished one with the
                same settings and data is continued.
            **settings: knobs of the session (`num_runs`, `merge_strategy`, `replay_fraction`, …) and of its runs; `steps`,
                or `steps_per_run`, and `samples`, or `samples_per_run`, are those of one run.

        Returns:
            SessionResult: with the merged adapter's path and what was forgotten.

        Raises:
            BpError: as `train`; `RUNTIME_EVAL_GATE_REGRESSED`, `RUNTIME_DRIFT_GATE_TRIPPED` with `on_reject="stop"`;
                `STATE_SESSION_EMPTY` where no run was merged.
        """
        from bp_core.continual.refusals import tasks_of
        from bp_core.continual.start import run_session

        for alias, name in (("steps_per_run", "steps"), ("samples_per_run", "samples")):
            if alias in settings:
                settings[name] = settings.pop(alias)
        given = self._given | by_field(settings)
        tasks = tasks_of(data)
        if tasks is not None and all(isinstance(s, str | Path) for s in tasks.values()):
            given["data"] = tuple(map(str, tasks.values()))
            tasks = tasks if isinstance(data, Mapping) else None  # else files name their tasks themselves
        self.settings = resolve(given, config_file=self._config_file)
        self._last = run_session(
            self.settings,
            given=tasks,
            callbacks=self.callbacks,
            tell=self.tell,
            run_id=run_id,
            resume_from=resume_from,
        )
        self.settings = self._last.settings
        return self._last.result  # type: ignore[return-value]

    def resume(self, run_id: str) -> RunResult:
        """Continue a stopped or killed run or session, bit for bit; `run_id` may be a prefix, or `latest`."""
        output = self.settings.tracking.output
        record = RunStore(output).trained(run_id)
        run_id = record.run_id
        if record.kind == "multi-run":
            from bp_core.continual.start import resume_session

            self._last = resume_session(output, run_id, callbacks=self.callbacks, tell=self.tell)
        else:
            self._last = resume_training(output, run_id, callbacks=self.callbacks, tell=self.tell)
        self.settings = self._last.settings
        return self._last.result

    def generate(
        self,
        prompt: str | Sequence[Turn],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        **settings: Any,
    ) -> str:
        """The tuned model's answer to one user message, or to the turns of a conversation.

        Args:
            prompt: text, or turns that end before the assistant's.
            tools: JSON-schema declarations of what it may call.
            **settings: those of `backprop generate`: max_new_tokens, temperature, top_p, stop, seed, …

        Raises:
            BpError: `STATE_NOT_TRAINED`; `INPUT_VALIDATION_FAILED` for a setting that `generate` refuses.
        """
        from bp_core.generation.answers import answers

        trained = self._trained()
        return answers(
            self._model(),
            trained.encoder,
            [prompt],
            tools=tools,
            **settings,
        )[0]

    def save(self, path: str | Path | None = None) -> Path:
        """Copy the adapter directory to `path` and return it; without a path, where it is.

        Raises:
            BpError: `INPUT_PATH_EXISTS` where something else lies there.
        """
        adapter = self._trained().result.adapter_path
        if path is None:
            return adapter
        target = Path(path)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise BpError(
                "INPUT_PATH_EXISTS",
                f"{target} is no empty folder",
                f"choose another folder, or remove {target}",
            )
        staging = target.with_name(f".{target.name}.partial")
        shutil.rmtree(staging, ignore_errors=True)
        shutil.copytree(adapter, staging)
        if target.exists():
            target.rmdir()
        staging.replace(target)
        return target

    def export(self, format: str = "gguf", **options: Any) -> Any:
        """Export the last adapter: `lora`, `merged`, `gguf`, `gguf-lora` (see `bp_export.export`).

        With `verify=True` a GGUF file's predictions are compared with those of the trained model itself.
        """
        from bp_export import export

        from bp_core.generation.answers import logits_of

        trained = self._trained()
        if format == "gguf" and options.get("verify"):
            options.setdefault("reference", logits_of(self._model()))
        return export(trained.result.adapter_path, format=format, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Push the last adapter to the Hub (see `bp_export.push`)."""
        from bp_export import push

        return push(self._trained().result.adapter_path, repo_id, **options)

    def register_with_ollama(self, name: str, **options: Any) -> Any:
        """Export to GGUF and create an Ollama model of that name."""
        return self.export("gguf", ollama=True, ollama_name=name, **options)

    def _model(self) -> Any:
        """The trained model; after MLX what it delivered, on the unchanged base."""
        trained = self._trained()
        if trained.settings.model.backend == "mlx" and not hasattr(trained.model, "generate"):
            from bp_core.generation.load import Tuned

            trained.model = Tuned.load(trained.result.adapter_path).model
        return trained.model

    def _trained(self) -> Trained:
        if self._last is None:
            raise BpError("STATE_NOT_TRAINED", "nothing was trained yet", 'call train("data.jsonl") first')
        return self._last


def register_with_ollama(path: str | Path, name: str | None = None, **options: Any) -> Any:
    """Create an Ollama model from an exported GGUF file, on the server of OLLAMA_HOST (see `bp_export.register`)."""
    from bp_export import Ollama, register

    with Ollama() as client:
        return register(Path(path), name, client=client, **options)
