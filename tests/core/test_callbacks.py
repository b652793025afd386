"""Callbacks can be written and imported without what training needs."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "peft", "pydantic", "numpy")
CODE = f"""
import sys
import bp_core.training
from bp_core.training.callbacks import Callback, StepInfo
import bp_core
assert (bp_core.Callback, bp_core.StepInfo) == (Callback, StepInfo)
from bp_cli.progress import Progress
print([m for m in {HEAVY!r} if m in sys.modules])
"""


def test_a_callback_needs_no_torch():
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
