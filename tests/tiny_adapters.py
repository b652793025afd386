"""Small random adapters and their folders, for the tests of merging."""

from __future__ import annotations

import numpy as np
from bp_merge.adapter import Adapter
from bp_merge.common import BpError
from bp_merge.lora_module import LoraModule
from bp_merge.lowrank import LowRank, distance, norm

NAMES = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj")


def adapter(seed, r=3, m=12, n=16, names=NAMES, scale=0.5, kind=np.float32, **config):
    rng = np.random.default_rng(seed)
    made = {
        x: LoraModule(x, rng.normal(size=(r, n)).astype(kind), rng.normal(size=(m, r)).astype(kind), scale)
        for x in names
    }
    targets = sorted({x.rsplit(".", 1)[-1] for x in names})
    return Adapter(made, {"peft_type": "LORA", "target_modules": targets, **config})


def folders(tmp_path, count=2, **more):
    return [adapter(i + 1, **more).save(tmp_path / f"a{i}") for i in range(count)]


def part(module):
    return LowRank.of(module.b, module.a, module.scale)


def apart(x, y):
    """The largest relative distance of two adapters' changes."""
    assert set(x.modules) == set(y.modules)
    pairs = [(part(x.modules[n]), part(y.modules[n])) for n in x.modules]
    return max(distance(p, q) / max(norm(p), norm(q), 1e-30) for p, q in pairs)


def tree(folder):
    """Every file below a folder with its bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def identical(x, y):
    """Whether all factors have the same bits."""
    pairs = [(x.modules[n], y.modules[n]) for n in x.modules]
    return set(x.modules) == set(y.modules) and all(
        np.array_equal(p.a, q.a) and np.array_equal(p.b, q.b) and p.scale == q.scale for p, q in pairs
    )


def code_of(run):
    """The code that a call is refused with, or None; any other exception is a defect and goes through."""
    try:
        run()
    except BpError as error:
        return error.code if error.hint else "no hint"
    return None
