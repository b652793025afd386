"""Input moments of the adapted modules, for RegMean: one forward pass over a sample of a run's own units.

- Modules that are given the very same tensor (query, key and value) share a sketch, as the file's format wants.
- The inputs are those of the model with the run's adapter, as it will be used; padding is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from bp_merge import Sketch, save_moments
from threadpoolctl import threadpool_limits

from bp_core.encoding.tokens import Tokens
from bp_core.models.generators import generators_kept
from bp_core.training.batch import collate
from bp_core.training.forward import LanguageLoss, base_of

SAMPLE = 64  # units
ROWS = 64  # of a stored sketch: 16 strong directions need some 32


@torch.no_grad()
@generators_kept()
def gather(forward: LanguageLoss, tokens: Tokens, pad_id: int, size: int, path: Path) -> None:
    """Write the moments of the adapted modules of the model, seen over `tokens`.

    Args:
        forward: of the model with its adapter.
        tokens: whose inputs count.
        pad_id: filler.
        size: units of a forward pass.
        path: the file.
    """
    model = forward.model
    sketches: dict[str, Sketch] = {}
    keys: dict[str, str] = {}
    last: list[Any] = [None, ""]  # the newest input, and its key
    real = np.zeros(0, bool)  # which positions of the pass are no padding

    def watch(name: str) -> Any:
        def see(module: Any, arguments: tuple[Any, ...]) -> None:
            (hidden,) = arguments[:1]
            if hidden is last[0]:
                keys[name] = last[1]
                return
            last[:] = [hidden, name]
            keys[name] = name
            values = hidden.detach().reshape(-1, hidden.shape[-1]).float().cpu().numpy()[real]
            sketch = sketches.setdefault(name, Sketch(values.shape[1], ROWS))
            sketch.update(values)

        return see

    handles = [
        module.register_forward_pre_hook(watch(name))
        for name, module in base_of(model).named_modules()
        if hasattr(module, "lora_A")
    ]
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(tokens), size):
            units = [tokens.unit(i) for i in range(start, min(start + size, len(tokens)))]
            batch = collate(units, pad_id).to(forward.device)
            lengths = [len(piece.ids) for unit in units for piece in unit]
            width = batch.input_ids.shape[1]
            real = (np.arange(width)[None] < np.array(lengths)[:, None]).ravel()
            last[:] = [None, ""]
            with forward.autocast():
                forward.decoder(input_ids=batch.input_ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    with threadpool_limits(1, user_api="blas"):  # small matrices: a second thread costs more than it does
        save_moments(path, sketches, keys)
