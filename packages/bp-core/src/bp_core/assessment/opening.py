"""A found model, loaded and ready to answer."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import warnings
from pathlib import Path
from typing import Any

from bp_data.example import Example, Turn
from bp_export.adapter.base import resolve_base
from bp_export.adapter.directory import AdapterInfo

from bp_core.assessment.sources import Source
from bp_core.encoding.encode import Encoder
from bp_core.encoding.templates import choose_template
from bp_core.generation.prompts import Answerer
from bp_core.settings.groups.generation import SourceSettings
from bp_core.settings.resolve import resolve


def open_source(source: Source, settings: SourceSettings | None = None) -> Answerer:
    """Load a model; close it when it is no longer asked.

    Raises:
        BpError: `DEP_MODEL_LOAD_FAILED`, `INPUT_WRONG_BASE`, `CONFIG_TEMPLATE_MISSING`, `CONFIG_TEMPLATE_UNKNOWN`,
            `DEP_LLAMA_MISSING`, `RUNTIME_LLAMA_LOAD_FAILED`, `RUNTIME_ENDPOINT_FAILED`, `CONFIG_ENDPOINT_KEY`.
    """
    settings = settings or SourceSettings()
    if source.kind == "endpoint":
        from bp_core.generation.endpoint import Endpoint

        return Endpoint(source.where, model=settings.endpoint_model, key_env=settings.key_env)
    if source.kind == "gguf":
        from bp_core.generation.llama import LlamaFile

        return LlamaFile(Path(source.where), context=settings.context, threads=os.cpu_count() or 1)
    return _local(source, settings)


def _local(source: Source, settings: SourceSettings) -> Any:
    from bp_core.generation.answers import LocalModel
    from bp_core.models.device import choose_device
    from bp_core.models.load import load_model, load_tokenizer
    from bp_core.models.peft_quietly import PeftModel

    given = resolve(
        {n: v for n in ("backend", "dtype", "trust_remote_code") if (v := getattr(settings, n)) != _UNSET[n]}
    )
    adapter = AdapterInfo.read(source.where) if source.kind == "adapter" else None
    if adapter is None:
        base = resolve_base(source.where)
    else:
        base = resolve_base(source.base or "", revision=None if settings.base else adapter.base_revision)
        if settings.base is None:
            adapter.check_base(base.path)
    folder = base.path if adapter is None else adapter.path
    own = (folder / "tokenizer.json").is_file()
    tokenizer = load_tokenizer(folder if own else base.path, given)
    chosen = settings.chat_template or (given.model.chat_template if adapter is None or not own else None)
    choose_template(tokenizer, chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers and peft warn of each other's old names
        model = load_model(base.path, given, choose_device(given))
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(folder))
    encoder = Encoder(
        tokenizer, max_length=2**24, now=_moment(source), end_ids={*ends_of(base.path), *ends_of(folder)}
    )
    learn_end(encoder)
    return LocalModel(model.eval(), encoder, name=source.name)


_UNSET = {f.name: f.default for f in dataclasses.fields(SourceSettings)}


def _moment(source: Source) -> dt.datetime:
    """The moment that dated templates see: that of the run, so that its rows encode as in training."""
    told = source.run.dataset.get("now") if source.run is not None else None
    return dt.datetime.fromisoformat(told) if told else dt.datetime.now()


def ends_of(folder: Path) -> list[int]:
    """The ids at which the generation configuration of a folder stops."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return []
    ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def learn_end(encoder: Encoder) -> None:
    """Let the encoder see how its template ends a turn: a chosen template ends it otherwise than the base model."""
    turns = (Turn("user", "x"), Turn("assistant", "y"))
    for _ in encoder.encode([Example("probe", "probe", 1, "chat", turns)]):
        pass
