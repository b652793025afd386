"""What draws the answers: vLLM where it is there and can, else transformers."""

from __future__ import annotations

import warnings

from bp_merge.common import BpError
from trl.import_utils import is_vllm_available

from bp_core.models.device import Device
from bp_core.settings.knobs import Settings


def use_vllm(settings: Settings, device: Device) -> bool:
    """Whether answers are drawn by vLLM, in this process.

    Raises:
        BpError: `DEP_VLLM_MISSING` where it was asked for by name and cannot be.
    """
    wanted, why = settings.rl.rollouts, ""
    if wanted == "transformers":
        return False
    if not _known():
        why = "vllm is not installed, or not in a version that TRL knows"
    elif device.device.type != "cuda":
        why = "vllm draws on a card, and there is none"
    elif settings.model.wanted_quantization not in ("auto", "none"):
        why = f"vllm would load a second base beside the one in {settings.model.wanted_quantization}"
    if wanted == "vllm" and why:
        raise BpError(
            "DEP_VLLM_MISSING", why, 'pip install "trl[vllm]", or add --rollouts transformers to the command'
        )
    return not why


def _known() -> bool:
    """Whether vLLM is installed in a version that TRL supports; it takes others too, with a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return bool(is_vllm_available())
        except UserWarning:
            return False
