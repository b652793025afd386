"""GGUF files: planned, written, read."""

from bp_export.gguf.plan import Plan, plan_gguf
from bp_export.gguf.read import GgufFile
from bp_export.gguf.recipe import QUANTIZATIONS
from bp_export.gguf.write import GgufResult, write_gguf

__all__ = ["QUANTIZATIONS", "GgufFile", "GgufResult", "Plan", "plan_gguf", "write_gguf"]
