"""How much of a fine-tune is left in a file: rounded once from the f32 sum, against merging to bf16 first.

    python benchmarks/survival.py [--size 2048]

- W is normal (σ 0.02) in bf16, ΔW = B·A of rank 16 with rms ΔW = ρ · rms W.
- `once` is Q(W+ΔW), what one pass writes. `chain` is Q(bf16(W+ΔW)), what merge, save and convert write.
- The share is ⟨Q(W+ΔW) − Q(W), ΔW⟩ / ‖ΔW‖²: 1 is all of the change, 0 is none. `noise` is the rms of what the
  file adds beside it, in units of the change: ‖Q(W+ΔW) − (W+ΔW)‖ / ‖ΔW‖.
"""

from __future__ import annotations

import argparse

import numpy as np
from bp_export.verify.delta import rounded

TYPES = ("bf16", "f16", "q8_0", "q6_k", "q4_k")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=2048)
    n = parser.parse_args().size
    rng = np.random.default_rng(0)
    w = rounded((rng.standard_normal((n, n)) * 0.02).astype(np.float32), "bf16")
    change = (rng.standard_normal((n, 16)) @ rng.standard_normal((16, n))).astype(np.float32)
    change *= np.sqrt(np.square(w).mean() / np.square(change).mean())

    def share(written: np.ndarray, before: np.ndarray, delta: np.ndarray) -> float:
        return float(np.vdot(written - before, delta) / np.vdot(delta, delta))

    base = {kind: rounded(w, kind) for kind in TYPES}
    print(f"{'rms ΔW / rms W':>15} {'type':5} {'once':>7} {'chain':>7} {'noise':>7}")
    for ratio in (3e-4, 1e-3, 3e-3, 1e-2):
        delta = change * np.float32(ratio)
        target = w + delta
        merged = rounded(target, "bf16")
        for kind in TYPES:
            once = rounded(target, kind)
            chain = rounded(merged, kind)
            noise = float(np.linalg.norm(once - target) / np.linalg.norm(delta))
            print(
                f"{ratio:15.0e} {kind:5} {share(once, base[kind], delta):7.2f}"
                f" {share(chain, base[kind], delta):7.2f} {noise:7.2f}"
            )


if __name__ == "__main__":
    main()
