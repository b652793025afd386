"""The quickstart: from a dataset with faults to a model that answers, every step for real, in a minute and a half.

- The embedded base `tiny`, on the CPU, without a network: the same code paths as with a large model.
- What is promised is measured: held-out loss and exact match before and after, on phrasings that were trained on, on
  phrasings that were not, and on facts that were never taught (those it does not know, and that is said).
- Writes into `<output>`: the dataset, runs.db and one folder per run. Running it again adds a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from bp_data import report

from bp_core.encoding.encode import Encoder
from bp_core.errors import as_ours
from bp_core.generation.answers import answers, logits_of
from bp_core.quickstart import facts
from bp_core.run import run_training
from bp_core.settings.resolve import resolve
from bp_core.training.callbacks import Callback
from bp_core.training.inputs import to_stderr

QUESTION = "Which river flows through Kestrel Bay?"
Pairs = list[tuple[str, str]]


def quickstart(
    output: str | Path = "quickstart",
    *,
    quantization: str = "q8_0",
    callbacks: Iterable[Callback] = (),
    tell: Callable[[str], None] = to_stderr,
) -> dict[str, Any]:
    """Run it all; returns what `backprop quickstart --json` prints.

    Args:
        output: folder for dataset and runs.
        quantization: of the GGUF file.
        callbacks: told of the training's steps.
        tell: shown to the user.
    """
    from bp_export import export

    began = time.perf_counter()
    torch.set_num_threads(
        1
    )  # matrices of 128 columns: a second thread only waits, and on a busy machine it spins
    folder = Path(output)
    files, heldout = facts.write(folder / "data")
    with as_ours():
        checked = report(list(map(str, files))).to_dict()
    tell(
        f"data: {checked['rows_total']} rows in {len(files)} files, {checked['rows_accepted']} can be used, "
        f"{checked['rows_rejected']} cannot ({', '.join(f'{n} {r}' for r, n in checked['rejections'].items())})"
    )
    settings = resolve(
        {
            "model": "tiny",
            "backend": "cpu",
            "data": tuple(map(str, files)),
            "heldout": str(heldout),
            "output": folder,
            "max_seq_length": 256,
        }
    )
    measured: dict[str, Any] = {}

    def measure(model: Any, encoder: Encoder) -> dict[str, Any]:
        sets = {
            "exact_match": facts.trained(),
            "unseen_match": facts.unseen(),
            "untaught_match": facts.untaught(),
        }
        shown: list[dict[str, Any]] = []
        for name, pairs in sets.items():
            with model.disable_adapter():
                before = _asked(model, encoder, pairs)
            after = _asked(model, encoder, pairs)
            measured[f"{name}_before"], measured[f"{name}_after"] = (
                _match(before, pairs),
                _match(after, pairs),
            )
            for i in range(0, len(pairs), max(1, len(pairs) // 3)):
                question, expected = pairs[i]
                shown.append(
                    {
                        "prompt": question,
                        "before": before[i],
                        "after": after[i],
                        "expected": expected,
                        "trained": name == "exact_match",
                    }
                )
        with model.disable_adapter():
            measured["answer_before"] = answers(model, encoder, [QUESTION], max_new_tokens=24)[0]
        measured["answer_after"] = answers(model, encoder, [QUESTION], max_new_tokens=24)[0]
        return {**measured, "answers": shown}

    trained = run_training(settings, callbacks=callbacks, tell=tell, after=measure)
    result = trained.result
    reference = logits_of(trained.model)
    tell("merging the adapter into the base, and writing a GGUF file")
    merged = export(result.adapter_path, format="merged", output=result.path / "merged")
    gguf = export(
        result.adapter_path,
        format="gguf",
        quantization=quantization,
        output=result.path / "gguf",
        verify=True,
        reference=reference,
    )
    for kind, made in (("merged", merged), ("gguf", gguf)):
        _record(folder, result.run_id, kind, Path(made.path))
    return {
        "run_id": result.run_id,
        "base_model": result.base_model,
        "question": QUESTION,
        "rows_accepted": result.rows_accepted,
        "rows_rejected": result.rows_rejected,
        "rejections": result.rejections,
        "steps": result.steps,
        "tokens_per_second": result.tokens_per_second,
        "heldout_loss_before": result.heldout_loss_before,
        "heldout_loss_after": result.heldout_loss_after,
        **measured,
        "output": folder.as_posix(),
        "adapter_path": result.adapter_path.as_posix(),
        "merged_path": Path(merged.path).as_posix(),
        "gguf_path": Path(gguf.path).as_posix(),
        "gguf_bytes": gguf.size_bytes,
        "gguf_tensors": gguf.tensors,
        "gguf_verified": gguf.verified,
        "gguf_token_ids_equal": gguf.token_ids_equal,
        "gguf_top1_agreement": gguf.top1_agreement,
        "gguf_kl": gguf.kl,
        "report_path": (result.path / "report.html").as_posix(),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _asked(model: Any, encoder: Encoder, pairs: Pairs) -> list[str]:
    return answers(model, encoder, [question for question, _ in pairs], max_new_tokens=24)


def _match(given: list[str], pairs: Pairs) -> float:
    """Share of answers that equal the expected ones, every character."""
    return round(sum(a == expected for a, (_, expected) in zip(given, pairs, strict=True)) / len(pairs), 4)


def _record(folder: Path, run_id: str, kind: str, path: Path) -> None:
    from bp_core.runs.report import write_report
    from bp_core.runs.store import RunStore

    store = RunStore(folder)
    store.add_artifact(run_id, kind, path)
    write_report(store, run_id)  # again, with the link to what was just made
