"""Quantizers in numpy, one file per family of types, byte-compatible with ggml's reference."""

from bp_export.quant.convert import dequantize, quantize
from bp_export.quant.types import BY_ID, TYPES, NumberType

__all__ = ["BY_ID", "TYPES", "NumberType", "dequantize", "quantize"]
