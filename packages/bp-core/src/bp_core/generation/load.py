"""An adapter directory as a model that answers: the base as recorded, the tokenizer and template as trained."""

from __future__ import annotations

import dataclasses
import datetime as dt
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_data.example import Turn
from bp_export.adapter.base import resolve_base
from bp_export.adapter.directory import AdapterInfo
from bp_merge.common import BpError

from bp_core.encoding.encode import Encoder
from bp_core.generation.answers import answers
from bp_core.models.device import choose_device
from bp_core.models.load import load_model, load_tokenizer
from bp_core.models.weights import AdapterWeights
from bp_core.settings.groups.generation import GenerationSettings
from bp_core.settings.resolve import resolve


@dataclasses.dataclass
class Tuned:
    """A base model with an adapter on it, ready to answer.

    Args:
        info: what the adapter says of itself.
        model: PEFT model in evaluation mode.
        encoder: of the adapter's tokenizer.
    """

    info: AdapterInfo
    model: Any
    encoder: Encoder

    @classmethod
    def load(cls, path: str | Path, *, base: str | None = None, backend: str = "auto") -> Tuned:
        """Load an adapter directory.

        Args:
            path: the directory.
            base: another base model than the one recorded.
            backend: auto, cuda or cpu.

        Raises:
            BpError: `INPUT_ADAPTER_INVALID`, `INPUT_WRONG_BASE`, `DEP_MODEL_LOAD_FAILED`; `INPUT_VALIDATION_FAILED`
                where neither the adapter nor the call names a base.
        """
        info = AdapterInfo.read(path)
        ref = base or info.base_ref
        if not ref:
            raise BpError(
                "INPUT_VALIDATION_FAILED",
                f"{path} does not say which base model it belongs to",
                f"backprop generate {path} PROMPT --base OWNER/NAME",
            )
        found = resolve_base(ref, revision=None if base else info.base_revision)
        if base is None:
            info.check_base(found.path)
        settings = resolve({"model": ref, "backend": backend})
        tokenizer = load_tokenizer(
            info.path if (info.path / "tokenizer.json").is_file() else found.path, settings
        )
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # transformers and peft warn of each other's old names
            model = AdapterWeights().on(load_model(found.path, settings, choose_device(settings)), info.path)
        return cls(info, model.eval(), Encoder(tokenizer, now=dt.datetime.now(), end_ids=_ends(info.path)))

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
            stops=_ends(self.info.path),
        )[0]


def _ends(folder: Path) -> list[int]:
    import json

    file = folder / "generation_config.json"
    if not file.is_file():
        return []
    ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
