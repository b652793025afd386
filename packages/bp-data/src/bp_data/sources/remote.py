"""Sources that are no files: `hf:<id>[:split[:revision]]`, and third parties by entry point `bp_data.sources`.

- `hf:openai/gsm8k/main:train` names the configuration as a third path part. Rows are streamed, never a whole split.
- An entry point's name is its scheme; its value is a callable that takes what follows the colon and yields rows as
  mappings. An error in the middle is one refused row and the end of that source, told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bp_data.errors import BpError
from bp_data.example import Rejected
from bp_data.excerpt import excerpt
from bp_data.sources.base import Batch
from bp_data.sources.columns import json_row
from bp_data.sources.jsonl import TOO_DEEP

GROUP = "bp_data.sources"


def hub(rest: str) -> Iterable[Any]:
    """The rows of a Hub dataset, streamed.

    Raises:
        BpError: `DEP_DATASETS_MISSING`, `HUB_DATASET_FAILED`.
    """
    try:
        import datasets
    except ImportError:
        raise BpError(
            "DEP_DATASETS_MISSING", f"hf:{rest} needs the package datasets", 'pip install "bp-data[hf]"'
        ) from None
    ident, _, tail = rest.partition(":")
    split, _, revision = tail.partition(":")
    parts = ident.split("/")
    config = parts[2] if len(parts) > 2 else None
    try:
        return datasets.load_dataset(
            "/".join(parts[:2]), config, split=split or "train", revision=revision or None, streaming=True
        )
    except Exception as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BpError(
            "HUB_DATASET_FAILED",
            f"hf:{rest}: {cause}",
            f"hf download --repo-type dataset {ident}",
            retryable=True,
        ) from error


def scheme(name: str) -> Callable[[str], Iterable[Any]] | None:
    """The opener of a third-party scheme, or None where nobody offers it.

    Raises:
        BpError: `INPUT_SOURCE_FAILED` where its module cannot be loaded.
    """
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP, name=name):
        try:
            return point.load()
        except Exception as error:
            cause = f"the source {name!r} ({point.value}) cannot be loaded: {error}"
            raise BpError(
                "INPUT_SOURCE_FAILED", cause, f"pip show {point.value.split(':')[0].split('.')[0]}"
            ) from error
    return None


def batches(rows: Iterable[Any], name: str) -> Iterator[Batch]:
    """Rows of any iterable of mappings, as lists of `(position, row)` or `Rejected`."""
    number, iterator = 0, iter(rows)
    while True:
        number += 1
        try:
            row = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001 - a third party's code: told as the row it happened at
            yield [Rejected(name, number, "source_failed", "", f"{type(error).__name__}: {error}"[:300], "")]
            return
        if isinstance(row, Mapping):
            try:
                yield [(number, json_row(row))]
            except RecursionError:
                yield [Rejected(name, number, "nesting_too_deep", "", TOO_DEEP, "")]
        else:
            yield [Rejected(name, number, "not_an_object", "", "a source yields objects", excerpt(row))]
