"""Models at hand: base models in the Hub's cache, adapters of runs, exports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bp_ui.service.catalogue import MODELS
from bp_ui.service.jobs import Jobs
from bp_ui.service.places import Places
from bp_ui.service.runs import size_of


class Models:
    """Lists them.

    Args:
        places: the folders of the server.
        jobs: asks Ollama.
    """

    def __init__(self, places: Places, jobs: Jobs) -> None:
        self.places, self.jobs = places, jobs

    def cached(self) -> list[dict[str, Any]]:
        """Base models in the cache of the Hub: id and bytes."""
        home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
        cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
        return [
            {"id": f.name.removeprefix("models--").replace("--", "/"), "bytes": size_of(f / "blobs")}
            for f in sorted(cache.glob("models--*"))
            if f.is_dir()
        ]

    def adapters(self) -> list[dict[str, Any]]:
        """Adapters and whole models that runs and sessions left, newest first, with what was exported from them."""
        from bp_core.runs.store import RunStore

        store = RunStore(self.places.output)
        found = []
        for record in store.list():
            if (folder := record.delivered) is None:
                continue
            made = [
                {
                    "format": a.kind,
                    "path": str(a.path),
                    "bytes": a.path.stat().st_size if a.path.is_file() else size_of(a.path),
                }
                for a in store.artifacts(record.run_id)
                if a.kind in ("gguf", "gguf-lora", "merged", "lora") and a.path.exists()
            ]
            found.append(
                {
                    "run_id": record.run_id,
                    "name": record.name,
                    "path": str(folder),
                    "base": str(record.base_model.get("ref", "")),
                    "status": record.status,
                    "created_at": record.created_at,
                    "bytes": size_of(folder),
                    "exports": made,
                    "exported": ", ".join(sorted({e["format"] for e in made})),
                }
            )
        return found

    def ollama(self) -> list[dict[str, Any]]:
        """The models that Ollama has, each with the base that it is of; asks its server.

        Raises:
            BpError: those of `backprop ollama list`.
        """
        listed = self.jobs.now(["ollama", "list"], timeout=30)["models"]
        details = [m.get("details") or {} for m in listed]
        found = [
            {
                "name": m["name"],
                "base": d.get("parent_model") or str(m["name"]).partition(":")[0],
                "bytes": m.get("size"),
                "quantization": d.get("quantization_level") or "",
            }
            for m, d in zip(listed, details, strict=True)
        ]
        return sorted(found, key=lambda m: m["name"])

    def families(self, memory: int | None) -> list[dict[str, Any]]:
        """Well-known base models against the memory of the card.

        Args:
            memory: bytes of the card, None without one.
        """
        return [{**m, "fits": fits(m["billions"], memory)} for m in MODELS]


def fits(billions: float, memory: int | None) -> str:
    """A first guess from the size of the weights in 16 bit and half as much again for LoRA; `estimate-vram` computes it.

    >>> fits(0.6, 8 * 2**30), fits(7.6, 8 * 2**30), fits(7.6, None)
    ('fits', 'too large', 'no card')
    """
    if memory is None:
        return "fits" if billions < 0.1 else "no card"
    need = billions * 2e9 * 1.5 + 1e9
    return "fits" if need < 0.85 * memory else "tight" if need < memory else "too large"
