"""What a run delivered, as a model that answers: the base as recorded, the tokenizer and template as trained."""

from __future__ import annotations

import dataclasses
import datetime as dt
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_data.example import Turn
from bp_export.adapter.base import ResolvedBase, resolve_base
from bp_export.adapter.directory import AdapterInfo
from bp_export.adapter.inputs import is_model
from bp_merge.common import BpError, expanded

from bp_core.encoding.encode import Encoder
from bp_core.generation.answers import answers
from bp_core.models.device import choose_device
from bp_core.models.load import load_model, load_tokenizer
from bp_core.models.peft_quietly import PeftModel
from bp_core.settings.groups.generation import GenerationSettings
from bp_core.settings.resolve import resolve


@dataclasses.dataclass
class Tuned:
    """A base model with an adapter on it, or a model that was trained whole, ready to answer.

    Args:
        path: its directory.
        model: PEFT model, or transformers', in evaluation mode.
        encoder: of its tokenizer.
    """

    path: Path
    model: Any
    encoder: Encoder

    @classmethod
    def load(cls, path: str | Path, *, base: str | None = None, backend: str = "auto") -> Tuned:
        """Load an adapter directory, or a whole model's.

        Args:
            path: the directory.
            base: another base model than the one that the adapter recorded.
            backend: auto, cuda or cpu.

        Raises:
            BpError: `INPUT_ADAPTER_INVALID`, `INPUT_WRONG_BASE`, `DEP_MODEL_LOAD_FAILED`; `INPUT_VALIDATION_FAILED`
                where neither the adapter nor the call names a base.
        """
        folder = expanded(path)
        adapter = None if is_model(folder) and base is None else AdapterInfo.read(folder)
        found = resolve_base(folder) if adapter is None else _base_of(adapter, base)
        settings = resolve({"model": str(found.path), "backend": backend})
        tokenizer = load_tokenizer(folder if (folder / "tokenizer.json").is_file() else found.path, settings)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # transformers and peft warn of each other's old names
            model = load_model(found.path, settings, choose_device(settings))
            if adapter is not None:
                model = PeftModel.from_pretrained(model, str(folder))
        return cls(folder, model.eval(), Encoder(tokenizer, now=dt.datetime.now(), end_ids=_ends(folder)))

    def answer(
        self,
        prompt: str | Sequence[Turn],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        max_new_tokens: int = GenerationSettings.max_new_tokens,
        temperature: float = GenerationSettings.temperature,
        seed: int = GenerationSettings.seed,
    ) -> str:
        """The answer to one user message, or to the turns of a conversation, with the tools that may be called."""
        return answers(
            self.model,
            self.encoder,
            [prompt],
            tools=tools,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            stops=_ends(self.path),
        )[0]


def _base_of(adapter: AdapterInfo, given: str | None) -> ResolvedBase:
    """The base model that the call names, else the one that the adapter was trained on."""
    ref = given or adapter.base_ref
    if not ref:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{adapter.path} does not say which base model it belongs to",
            f"backprop generate {adapter.path} PROMPT --base OWNER/NAME",
        )
    found = resolve_base(ref, revision=None if given else adapter.base_revision)
    if given is None:
        adapter.check_base(found.path)
    return found


def _ends(folder: Path) -> list[int]:
    import json

    file = folder / "generation_config.json"
    if not file.is_file():
        return []
    ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
