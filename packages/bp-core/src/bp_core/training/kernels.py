"""Faster ways to compute the same step, each held against the plain one on the loaded model before it is used.

- A way is put on, the loss and every gradient of one short example are compared with those of the plain model, and a way
  that does not agree is taken off again and told. One that was asked for by name is refused then.
- What leaves a model with the run: all of it, so that saving, merging and a second run see the model as PEFT made it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from bp_merge.common import BpError
from torch import nn

from bp_core.encoding.tokens import Unit
from bp_core.models.compiled import CompiledLayers
from bp_core.models.device import is_out_of_memory
from bp_core.models.fast_lora import FastLora
from bp_core.models.fused import FusedLayers
from bp_core.models.generators import generators_kept
from bp_core.training.batch import MicroBatch, collate
from bp_core.training.forward import LanguageLoss, shortened
from bp_core.training.open import Opened

# relative: of the loss, and of the norm of each gradient
AGREEMENT = {torch.float32: (1e-5, 1e-3), torch.bfloat16: (3e-2, 0.15), torch.float16: (3e-2, 0.15)}
PROBED = 64  # tokens of a piece that is compared: less than any step needs
UNLABELLED = "the example that it would be compared on has no label near its end"


class Kernel(Protocol):
    """A way to compute that can be put on a model and taken off.

    Attributes:
        layers: that compute so; a model may have none.
    """

    layers: list[Any]

    def on(self) -> None:
        """Compute this way."""
        ...

    def off(self) -> None:
        """Compute the plain way."""
        ...

    def release(self) -> None:
        """Leave nothing on the model."""
        ...


@contextlib.contextmanager
def kernels(opened: Opened, loss: LanguageLoss, unit: Unit, pad_id: int) -> Iterator[list[str]]:
    """Put on what the settings ask for, or leave open and the model agrees with; off again when the block ends.

    Args:
        opened: the run; hears what was left out.
        loss: of the model.
        unit: an example to compare on.
        pad_id: filler of padded batches.

    Yields:
        names of the knobs whose way is used.

    Raises:
        BpError: `CONFIG_KERNEL_REFUSED` where one that was asked for is not there or does not agree.
    """
    settings, model = opened.settings.training, loss.model
    dtype = opened.device.autocast or opened.device.weights
    batch = collate([shortened(unit, PROBED)] * 2, pad_id, buckets=True).to(loss.device)
    fused = FusedLayers.missing(loss.device)
    if settings.compile and not settings.fused_layers:
        fused = "compiled layers are fused anyway"
    ways = {
        "fused_layers": (lambda: FusedLayers(model), fused),
        "fast_lora": (lambda: FastLora(model, dtype), ""),
        "compile": (lambda: CompiledLayers(model), CompiledLayers.missing(loss.device)),
    }
    plain: tuple[float, dict[str, torch.Tensor]] | None = None
    used: list[str] = []
    with contextlib.ExitStack() as stack:
        for name, (make, why) in ways.items():
            asked = getattr(settings, name)
            if asked is False or (asked is None and why):
                continue
            if not why:
                kernel: Kernel = make()
                stack.callback(kernel.release)
                if not kernel.layers:
                    why = "this model has no such layer"
                    if asked is None:
                        continue
            if not why and not len(batch.where):
                why = UNLABELLED
            if not why and plain is None:
                try:
                    plain = gradients(loss, batch)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    why = "there is no memory to compare it with the model"
            if plain is not None and not why:
                began = time.perf_counter()
                why = disagreement(plain, lambda kernel=kernel: _with(kernel, loss, batch), AGREEMENT[dtype])
                if not why:
                    used.append(name)
                    if name == "compile":
                        took = time.perf_counter() - began
                        opened.tell(
                            f"decoder layers compiled in {took:.0f} s, which no figure below contains"
                        )
                    continue
                kernel.off()
            what = f"{name.replace('_', '-')} is left out: {why}"
            if asked:
                raise BpError(
                    "CONFIG_KERNEL_REFUSED", what, f"add --no-{name.replace('_', '-')} to the command"
                )
            opened.run.event("KERNEL_OFF", what)
            opened.tell(what)
        if used:
            opened.run.event("KERNELS_ON", ", ".join(used))
        yield used


def packing_mixes(loss: LanguageLoss, units: Sequence[Unit], pad_id: int) -> str:
    """In what a packed row differs from its pieces apart, forward and backward; "" where attention keeps them apart."""
    short = [shortened(unit) for unit in units]
    apart = collate(short, pad_id).to(loss.device)
    if not len(apart.where):
        return UNLABELLED
    packed = collate(short, pad_id, packed=True).to(loss.device)
    limits = AGREEMENT[loss.autocast_dtype or loss.head.weight.dtype]
    # dropout draws for positions, which a packed row has others of
    plain = gradients(loss, apart, dropout=False)
    return disagreement(plain, lambda: gradients(loss, packed, dropout=False), limits)


def _with(kernel: Kernel, loss: LanguageLoss, batch: MicroBatch) -> tuple[float, dict[str, torch.Tensor]]:
    kernel.on()
    return gradients(loss, batch)


def gradients(
    loss: LanguageLoss, batch: MicroBatch, *, dropout: bool = True
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and every gradient (of a large one a sample) of a forward and backward pass; the same dropout each time, or none.

    A factor that is zero, as B of a fresh adapter is, would hide the gradient of the other: for the pass it is not.
    """
    model = loss.model
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    was_training = model.training
    with generators_kept(), _not_zero([p for _, p in named]):
        torch.manual_seed(0)
        model.train(dropout)
        try:
            value = loss(batch)
            value.backward()
            found = {n: _sample(p.grad) for n, p in named if p.grad is not None}
        finally:
            model.zero_grad(set_to_none=True)
            model.train(was_training)
        return value.item(), found


def _sample(gradient: torch.Tensor, most: int = 2**16) -> torch.Tensor:
    flat = gradient.detach().flatten()
    return flat[:: max(1, len(flat) // most)].clone()


@contextlib.contextmanager
def _not_zero(parameters: list[nn.Parameter]) -> Iterator[None]:
    with torch.no_grad():
        kept = [(p, p.clone()) for p in parameters if p.ndim == 2 and not p.any()]
        for p, _ in kept:
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) * 0.02)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in kept:
                p.copy_(value)


def disagreement(plain: tuple[float, dict[str, torch.Tensor]], way: Any, limits: tuple[float, float]) -> str:
    """In what a way of computing differs from the plain one by more than the limits; "" where it agrees.

    Args:
        plain: loss and gradients.
        way: computes the same, or fails.
        limits: of the relative difference of the loss, and of the norm of each gradient's.
    """
    try:
        loss, found = way()
    except (RuntimeError, ValueError, TypeError, AttributeError, ImportError, AssertionError) as error:
        return f"it fails here ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]})"
    own, truth = plain
    # none is infinite: what is not finite in both agrees with nothing
    if not abs(loss - own) <= limits[0] * max(1.0, abs(own)):
        return f"it gives a loss of {loss:.5f}, the model {own:.5f}"
    if found.keys() != truth.keys():
        return f"{len(truth.keys() ^ found.keys())} weights have a gradient in one way only"
    worst, where = 0.0, ""
    for name, gradient in truth.items():
        size = float(gradient.norm())
        apart = float((found[name] - gradient).norm())
        relative = apart / size if size else (math.inf if apart else 0.0)
        relative = math.inf if math.isnan(relative) else relative
        if relative > worst:
            worst, where = relative, name
    return "" if worst <= limits[1] else f"the gradient of {where} differs by {worst:.1%}"
