"""The scale searches of the K-quants, vectorised over many groups of 16 or 32 weights at once.

- Arrays are element-major, (n, G): n weights of G groups. Every ufunc then runs over long contiguous rows, and a sum
  over axis 0 adds in the order of ggml's scalar loop, so that nearly all blocks are the same bytes.
- A candidate's weighted squared error is expanded into sums that the least squares needs anyway:
  Σw(s·l+m−x)² = s²Σwl² + m²Σw + Σwx² + 2smΣwl − 2sΣwlx − 2mΣwx, in f64. That saves a third of the passes.
- Clipping is left out where no candidate can leave the range.
- Bounds are rows, because numpy's minimum is four times slower against a scalar.
- Rounding is to the nearest even (`rint`), as ggml's `nearest_int`.
"""

from __future__ import annotations

import numpy as np

_F = np.float32
EPS = _F(1e-15)  # groups with no larger value count as zero


def _dot(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Σ a·b over axis 0, (n, G) · (n, G) → (G,)."""
    return np.einsum("ng,ng->g", a, b, out=out)


def scale_and_min(
    x: np.ndarray, w: np.ndarray, most: int, first: float, step: float, steps: int, error_by: str
) -> tuple[np.ndarray, np.ndarray]:
    """Scale s ≥ 0 and minimum m ≤ 0 of each group that minimise Σw(s·l+m−x)² with l in 0…most.

    Candidates are the roundings of (most + first + step·i)·(x−m)/(max−m), i = 0…steps, each refined by weighted least
    squares. The minimum found so far enters the next candidate, as in ggml.

    Args:
        x: (n, G) f32.
        w: (n, G) f32, weights ≥ 0.
        most: largest code.
        first: offset of the first candidate.
        step: distance of candidates.
        steps: number of candidates after the first.
        error_by: "sums" (the expansion above), "squares" (Σw(…)² weight by weight, slower, ggml's last bit) or
            "distances" (Σw|…|).

    Returns:
        Scale and −minimum, each (G,) f32 ≥ 0.
    """
    groups = x.shape[1]
    low = np.minimum(x.min(axis=0), _F(0))
    high = x.max(axis=0)
    flat = high == low
    zero, top = np.zeros(groups, np.float32), np.full(groups, most, np.float32)
    span = np.where(flat, _F(1), high - low)
    sum_w = w.sum(axis=0)
    t, u = np.empty_like(x), np.empty_like(x)
    sum_x, sum_l, sum_l2, sum_xl = (np.empty(groups, np.float32) for _ in range(4))
    _dot(w, x, sum_x)
    sum_x2 = _dot(np.multiply(w, x, out=u), x, np.empty(groups, np.float32)).astype(np.float64)
    wide = [a.astype(np.float64) for a in (sum_w, sum_x)]

    def codes(factor: float) -> None:
        """T = l of each value, for the current minimum."""
        np.subtract(x, low, out=t)
        np.multiply(t, _F(factor) / span, out=t)
        np.rint(t, out=t)
        np.maximum(t, zero, out=t)
        if factor > most + 0.49:
            np.minimum(t, top, out=t)

    def sums() -> None:
        np.multiply(w, t, out=u)
        np.add.reduce(u, axis=0, out=sum_l)
        _dot(u, x, sum_xl)
        _dot(u, t, sum_l2)

    def error(s: np.ndarray, m: np.ndarray) -> np.ndarray:
        if error_by != "sums":
            np.multiply(t, s, out=u)
            np.add(u, m, out=u)
            np.subtract(u, x, out=u)
            np.abs(u, out=u) if error_by == "distances" else np.multiply(u, u, out=u)
            return _dot(u, w, np.empty(groups, np.float32))
        s, m = s.astype(np.float64), m.astype(np.float64)
        return s * (s * sum_l2 + 2 * (m * sum_l - sum_xl)) + m * (m * wide[0] - 2 * wide[1]) + sum_x2

    scale = span / _F(most)
    codes(float(most))
    if error_by == "sums":
        sums()
    best = error(scale, low)
    with np.errstate(divide="ignore", invalid="ignore"):
        for i in range(steps + 1):
            codes(float(_F(_F(first) + _F(step) * _F(i)) + _F(most)))
            sums()
            det = sum_w * sum_l2 - sum_l * sum_l
            s = (sum_w * sum_xl - sum_x * sum_l) / det
            m = (sum_l2 * sum_x - sum_l * sum_xl) / det
            above = m > 0
            if above.any():
                m = np.where(above, _F(0), m)
                s = np.where(above, sum_xl / sum_l2, s)
            tried = error(s, m)
            better = (tried < best) & (det > 0)
            np.copyto(best, tried, where=better)
            np.copyto(scale, s, where=better)
            np.copyto(low, m, where=better)
            span = np.where(flat, _F(1), high - low)
    return np.where(flat, _F(0), scale), -low


def signed_pivot(x: np.ndarray) -> np.ndarray:
    """The value of largest magnitude of each group, with its sign, the first of equals: (n, G) → (G,)."""
    high, low = x.max(axis=0), x.min(axis=0)
    pivot = np.where(-low > high, low, high)
    tie = np.flatnonzero((-low == high) & (high > 0))
    if tie.size:
        pivot[tie] = x[np.abs(x[:, tie]).argmax(axis=0), tie]
    return pivot


def signed_scale(x: np.ndarray, most: int) -> np.ndarray:
    """Scale of each group for codes −most…most−1 that minimises Σx²(s·l−x)²: (n, G) → (G,), 0 for groups of zeros.

    19 candidates around −most / pivot; the one with the largest (Σwxl)²/Σwl² wins.
    """
    groups = x.shape[1]
    pivot = signed_pivot(x)
    zero = np.abs(pivot) < EPS
    pivot = np.where(zero, _F(1), pivot)
    w = x * x
    wx = w * x
    t, u = np.empty_like(x), np.empty_like(x)
    bottom, top = np.full(groups, -most, np.float32), np.full(groups, most - 1, np.float32)
    sum_lx, sum_l2 = np.empty(groups, np.float32), np.empty(groups, np.float32)

    def sums(factor: float) -> None:
        np.multiply(x, _F(-factor) / pivot, out=t)
        np.rint(t, out=t)
        if factor > most - 0.51:
            np.minimum(t, top, out=t)
        if factor > most + 0.49:
            np.maximum(t, bottom, out=t)
        _dot(wx, t, sum_lx)
        np.multiply(w, t, out=u)
        _dot(u, t, sum_l2)

    with np.errstate(divide="ignore", invalid="ignore"):
        sums(float(most))
        scale = np.where(sum_l2 > 0, sum_lx / sum_l2, _F(0))
        best = scale * sum_lx
        for i in range(-9, 10):
            if i == 0:
                continue
            sums(float(_F(most) + _F(0.1) * _F(i)))
            better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
            np.copyto(scale, sum_lx / sum_l2, where=better)
            np.copyto(best, scale * sum_lx, where=better)
    return np.where(zero, _F(0), scale)


def descended_scale(x: np.ndarray, most: int, sweeps: int = 5) -> np.ndarray:
    """As `signed_scale`, by coordinate descent: each code in turn takes its best value while the scale is free.

    Groups that a sweep leaves unchanged are done; later sweeps run on the others alone.

    Args:
        x: (n, G) f32.
        most: codes are −most…most−1.
        sweeps: at most so many passes over the group.

    Returns:
        (G,) f32.
    """
    pivot = signed_pivot(x)
    zero = np.abs(pivot) < EPS
    pivot = np.where(zero, _F(1), pivot)
    codes = np.rint(x * (_F(-most) / pivot))
    np.minimum(codes, _F(most - 1), out=codes)
    w = x * x
    wx = w * x
    groups = x.shape[1]
    sum_lx = _dot(wx, codes, np.empty(groups, np.float32))
    sum_l2 = _dot(w * codes, codes, np.empty(groups, np.float32))
    active = np.arange(groups)
    ax, aw, awx, al, s1, s2 = x, w, wx, codes, sum_lx.copy(), sum_l2.copy()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for _ in range(sweeps):
            changed = np.zeros(len(active), bool)
            bottom, top = np.full(len(active), -most, np.float32), np.full(len(active), most - 1, np.float32)
            for i in range(len(ax)):
                old = al[i]
                rest1 = s1 - awx[i] * old
                rest2 = s2 - aw[i] * old * old
                new = ax[i] * rest2
                new /= rest1
                np.rint(new, out=new)
                np.minimum(new, top, out=new)
                np.maximum(new, bottom, out=new)
                take = (rest1 > 0) & (new != old)
                rest1 += awx[i] * new
                rest2 += aw[i] * new * new
                take &= (rest2 > 0) & (rest1 * rest1 * s2 > s1 * s1 * rest2)
                np.copyto(al[i], new, where=take)
                np.copyto(s1, rest1, where=take)
                np.copyto(s2, rest2, where=take)
                changed |= take
            sum_lx[active], sum_l2[active] = s1, s2
            keep = np.flatnonzero(changed)
            if not keep.size:
                break
            if len(keep) < len(active):
                active, s1, s2 = active[keep], s1[keep], s2[keep]
                ax, aw, awx, al = (a[:, keep] for a in (ax, aw, awx, al))
        scale = np.where(sum_l2 > 0, sum_lx / sum_l2, _F(0))
    return np.where(zero, _F(0), scale)
