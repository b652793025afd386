"""The fields of config.json that GGUF needs, in whichever generation of transformers it was written.

- transformers 5 moved the rope settings to `rope_parameters` (nested by layer type for Gemma 3); earlier ones have
  `rope_theta` and `rope_scaling`. Reading only one of them loses the frequency base without a word.
- The text part of a multimodal configuration lies in `text_config`.
- A missing field is an error by name, never a default that happens to fit one family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_merge.common import BpError


class Hparams:
    """A text model's configuration.

    Args:
        config: config.json as a dict.

    Raises:
        BpError: `INPUT_CONFIG_INVALID` when a field that every model has is missing or senseless.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        inner = config.get("text_config")
        self.config: dict[str, Any] = {**config, **inner} if isinstance(inner, Mapping) else dict(config)
        self.hidden = self.integer("hidden_size")
        self.layers = self.integer("num_hidden_layers")
        self.heads = self.integer("num_attention_heads")
        self.kv_heads = self.integer("num_key_value_heads", self.heads)
        self.head_dim = self.integer("head_dim", self.hidden // self.heads)
        self.ffn = self.integer("intermediate_size")
        self.context = self.integer("max_position_embeddings")
        self.eps = self.number("rms_norm_eps")
        self.tied = bool(self.config.get("tie_word_embeddings", False))
        if self.heads % self.kv_heads:
            raise self._invalid(
                f"num_attention_heads {self.heads} is no multiple of num_key_value_heads {self.kv_heads}"
            )

    def _invalid(self, why: str) -> BpError:
        return BpError(
            "INPUT_CONFIG_INVALID", f"config.json: {why}", "take config.json from the base model's own files"
        )

    def get(self, name: str, default: Any = None) -> Any:
        """A field, or the default when it is missing or null."""
        value = self.config.get(name)
        return default if value is None else value

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive integer field."""
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise self._invalid(f"{name} must be a positive integer, not {value!r}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number field."""
        value = self.get(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise self._invalid(f"{name} must be a positive number, not {value!r}")
        return float(value)

    def rope(self, layer_type: str = "full_attention") -> dict[str, Any]:
        """The rope settings of one layer type: always has `rope_theta` and `rope_type`."""
        found = self.get("rope_parameters", {})
        if layer_type in found:
            found = found[layer_type]
        elif found and all(isinstance(v, Mapping) for v in found.values()):
            found = {}
        scaling = self.get("rope_scaling", {})
        merged: dict[str, Any] = {**scaling, **found}
        merged["rope_type"] = merged.get("rope_type") or merged.get("type") or "default"
        if merged.get("rope_theta") is None:
            merged["rope_theta"] = self.get("rope_theta", 10000.0)
        return merged
