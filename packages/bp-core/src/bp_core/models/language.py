"""The language part of a model: all of it, or what stands beside a vision tower and its projector.

- Of a checkpoint with vision (Gemma 3 from 4B, Mistral Small 3) the decoder and the output head are tuned, on text; the rest is
  loaded with it, stays as it is, and is delivered and exported with it.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText


def auto_class(config: Any) -> Any:
    """The class of transformers' automatic ones that loads a model with its language head, by its configuration."""
    known = type(config) in AutoModelForCausalLM._model_mapping
    sees = type(config) in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if sees and not known else AutoModelForCausalLM


def beside_language(model: Any) -> str | None:
    r"""A pattern of the modules beside the language part, None where there are none.

    Example:
        Gemma 3 4B: `(?!model\.language_model\.).*` matches `model.vision_tower.…`, not `model.language_model.…`.
    """
    if model.config.get_text_config() is model.config:
        return None
    decoder = model.get_decoder()
    name = next(name for name, module in model.named_modules() if module is decoder)
    return rf"(?!{re.escape(name)}\.).*"


def language_parameters(model: Any) -> list[nn.Parameter]:
    """The parameters of decoder and output head, each once."""
    if beside_language(model) is None:
        return list(model.parameters())
    parts = nn.ModuleList([model.get_decoder(), model.get_output_embeddings()])
    return list(parts.parameters())
