"""PEFT, and with it bitsandbytes where that is installed, imported so that neither prints nor asks a hub.

- On a CPU with AVX512-BF16 bitsandbytes fetches a kernel from a hub as it is imported, where the package `kernels` is
  installed, and logs a warning where it is not. Its own kernel serves.
- PEFT imports bitsandbytes: whoever needs PEFT takes it from here.
"""

from __future__ import annotations

import logging
import sys

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
_absent = "kernels" not in sys.modules
if _absent:
    sys.modules["kernels"] = None  # type: ignore[assignment]  # an import of it fails
try:
    from peft import (
        EvaConfig,
        LoraConfig,
        PeftModel,
        get_peft_model,
        get_peft_model_state_dict,
        initialize_lora_eva_weights,
        set_peft_model_state_dict,
    )
finally:
    if _absent:
        del sys.modules["kernels"]

__all__ = [
    "EvaConfig",
    "LoraConfig",
    "PeftModel",
    "get_peft_model",
    "get_peft_model_state_dict",
    "initialize_lora_eva_weights",
    "set_peft_model_state_dict",
]
