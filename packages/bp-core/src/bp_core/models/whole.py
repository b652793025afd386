"""Which models are trained whole: up to how many parameters, on which card."""

from __future__ import annotations

import math

from bp_merge.common import BpError

from bp_core.models.device import Device
from bp_core.settings.knobs import Settings
from bp_core.support import environment

BYTES_HELD = (
    16  # of a parameter in main memory, where layers stay there: weight, gradient and AdamW's two moments
)


def ceiling_billions(card_bytes: float) -> float:
    """Largest model that is trained whole on a card, in billions of parameters.

    Args:
        card_bytes: memory of the card.

    Returns:
        A quarter of the card's GiB up to 16, from there on one more for every 8 GiB.

    Example:
        16 GB give 4, 24 give 5, 32 give 6.
    """
    gib = round(card_bytes / 2**30)
    return gib / 4 if gib < 16 else 2 + gib / 8


def refuse_whole(settings: Settings, device: Device, parameters: int) -> None:
    """Refuse to train a model whole that is past the ceiling: the one that was given, else the card's; a CPU has none.

    Raises:
        BpError: `RUNTIME_FULL_FT_MODEL_TOO_LARGE` with both ways out.
    """
    ceiling, where = settings.model.full_ft_ceiling_billions, "--full-ft-ceiling-billions"
    offload = settings.model.full_ft_offload
    if ceiling is None and offload:
        room = environment.memory_room().total or math.inf
        ceiling, where = room / BYTES_HELD / 1e9, f"main memory of {room / 2**30:.0f} GiB"
    if ceiling is None:
        if device.device.type != "cuda":
            return
        ceiling, where = ceiling_billions(device.memory), f"a card of {device.memory / 2**30:.0f} GiB"
    if parameters <= ceiling * 1e9:
        return
    raise BpError(
        "RUNTIME_FULL_FT_MODEL_TOO_LARGE",
        f"{settings.model.model} has {parameters / 1e9:.3g} billion parameters, "
        f"{where} allows {ceiling:g} to be trained whole",
        "add --mode lora to the command, which trains an adapter, "
        + ("" if offload else "or --full-ft-offload, which keeps the layers in main memory, ")
        + f"or insist with --full-ft-ceiling-billions {parameters / 1e9 * 1.001:.4g}",
        details={"parameters": parameters, "ceiling": ceiling * 1e9},
    )
