"""From the files that the user named to the pieces that are trained on and held out.

- Reading, detecting, mapping and splitting are bp-data's; nothing about a file's format is known here.
- What `backprop validate` calls an error is not trained on: reading and rows in memory pass the same check.
- Keys of rows, messages and tools that are not trained on are told before training and recorded (`keys`).
- Every row is accounted for: accepted + rejected = rows, each rejection with file, line and reason.
- The hold-out is leakage-free and recorded by row id, so that every later evaluation uses the same rows.
- The result is written once into the run's folder (`tokens/`), and read from there by resume.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bp_data import KeyAccount, read, refused
from bp_data.example import Example, Rejected
from bp_data.split import split
from bp_merge.common import BpError

from bp_core.encoding.encode import Encoded, Encoder
from bp_core.encoding.example_files import read_examples, write_examples
from bp_core.encoding.refusals import TOLD, way_out
from bp_core.encoding.sources import parse_sources
from bp_core.encoding.tokens import Tokens, describe
from bp_core.settings.knobs import Settings
from bp_core.support.files import write_json

HELDOUT = "heldout.jsonl"  # the held-out rows themselves, which a later evaluation asks
PROMPTS = "prompts.jsonl"  # the rows to train on, where their answers are judged
KEPT_REJECTIONS = 1000  # rejections listed in the record; all are counted
SHOWN_REJECTIONS = 5  # told one by one before training


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Training and held-out pieces, and the account of the rows.

    Args:
        train: pieces to learn from.
        heldout: pieces to evaluate on; empty where the hold-out is off.
        weights: share of each source, or None.
        record: counts, fingerprint and sources for the run record.
        rejections: the first rejected rows.
        heldout_ids: example ids held out.
        first: the first training piece, for the preview.
        stops: ids that end an assistant turn.
        heldout_examples: the rows that `heldout` was made of.
        train_examples: those of `train`, one a unit, where units are prompts; empty otherwise.
    """

    train: Tokens
    heldout: Tokens
    weights: tuple[float, ...] | None
    record: dict[str, Any]
    rejections: tuple[Rejected, ...]
    heldout_ids: tuple[str, ...]
    stops: tuple[int, ...]
    heldout_examples: tuple[Example, ...] = ()
    train_examples: tuple[Example, ...] = ()


EncodeUnits = Callable[[Encoder, Iterable[Example]], Iterator[tuple[Encoded, ...] | Rejected]]


def prepare(
    settings: Settings,
    encoder: Encoder,
    encode: EncodeUnits,
    *,
    width: int = 1,
    prompts: bool = False,
    form: Callable[[Example], Example] | None = None,
    sources: Sequence[Any] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Read, split and encode.

    Args:
        settings: data settings.
        encoder: of the model.
        encode: the method's way from examples to units.
        width: pieces of a unit.
        prompts: whether a unit is a prompt without labels, whose row is kept.
        form: what is done with each row after the split, None for nothing; rows are kept as it gives them.
        sources: instead of `settings.data.data`: paths, or an iterable of `Example`.
        tell: shown to the user line by line.

    Raises:
        BpError: `INPUT_DATASET_EMPTY` where no row can be used, `INPUT_TOO_FEW_TRAINABLE` where almost no token
            carries a label, and those of bp-data.
    """
    data = settings.data
    names, weights = parse_sources(data.data) if sources is None else (["in memory"], None)
    examples: list[Example] = []
    origin: dict[str, int] = {}
    counts: collections.Counter[str] = collections.Counter()
    rejections: list[Rejected] = []

    def account(row: Example | Rejected, index: int) -> None:
        if isinstance(row, Rejected):
            counts[row.reason] += 1
            if len(rejections) < KEPT_REJECTIONS:
                rejections.append(row)
        elif data.samples is None or len(examples) < data.samples:
            origin[row.id] = index
            examples.append(row)

    def lead(row: Rejected) -> str:
        file = row.source if Path(row.source).exists() else names[0]
        return way_out(row, data=file, model=settings.model.model, template=encoder.fitting)

    keys: list[KeyAccount] = []
    for index, name in enumerate(names):
        if sources is not None:
            keys.append(KeyAccount())
            for row in sources:
                if isinstance(row, Example):
                    keys[-1].add(row)
                    row = refused(row) or row
                account(row, index)
            for line in keys[-1].tell():
                tell(line)
            continue
        rows = read(
            name, format=data.data_format, mapping=data.map, note=tell, drop_keys=data.drop_keys, check=True
        )
        keys.append(rows.account)
        for row in rows:
            account(row, index)
    rows_accepted, rows_rejected = len(examples), sum(counts.values())
    if not examples:
        first = rejections[0] if rejections else None
        raise BpError(
            "INPUT_DATASET_EMPTY",
            f"none of {rows_rejected} rows can be used"
            + (f"; line {first.line}: {first.reason}, {first.hint}" if first else ""),
            f"backprop validate {names[0]}",
            details={"rejections": dict(counts)},
        )
    train_rows, held_rows = _hold_out(settings, examples, account)
    if form is not None:
        train_rows, held_rows = ([form(row) for row in rows] for rows in (train_rows, held_rows))
    encoded = list(encode(encoder, train_rows))
    train_units = _encode(encoded, account)
    held_units = _encode(encode(encoder, held_rows), account)
    if not train_units:
        reason, number = counts.most_common(1)[0]
        row = next((r for r in rejections if r.reason == reason), rejections[-1])
        raise BpError(
            "INPUT_DATASET_EMPTY",
            f"no row is left to train on; {number} were rejected as {reason}, the first for {row.field or 'the row'}: {row.hint}",
            lead(row),
            details={"rejections": dict(counts)},
        )
    train = Tokens.of(train_units, [origin.get(u[0].example_id, 0) for u in train_units], width=width)
    heldout = Tokens.of(held_units, width=width)
    share = float(train.mask.sum()) / len(train.ids)
    if share < data.min_trainable and not prompts:
        raise BpError(
            "INPUT_TOO_FEW_TRAINABLE",
            f"only {share:.2%} of the tokens carry a label (at least {data.min_trainable:.2%} is asked for)",
            "look at the loss mask: add --preview 5 to the command, or lower --min-trainable",
        )
    _tell_rejections(rejections, counts, lead, tell)
    cut = sum(piece.cut for unit in train_units for piece in unit)
    record = {
        "sources": [_fingerprint(name) for name in names] if sources is None else [{"source": "in memory"}],
        "weights": list(weights) if weights else None,
        "rows": rows_accepted + rows_rejected,
        "accepted": rows_accepted + rows_rejected - sum(counts.values()),
        "rejected": sum(counts.values()),
        "rejections": dict(counts.most_common()),
        "keys": [told for found in keys for told in found.to_list()],
        "train": describe(train),
        "heldout": describe(heldout),
        "split_conversations": encoder.split_rows,
        "truncated_tokens": cut,
        "told": dict(encoder.told.most_common()),
        "trainable_share": round(share, 4),
        "fingerprint": fingerprint(train, heldout),
    }
    if encoder.split_rows:
        tell(
            f"{encoder.split_rows} conversations became one piece per assistant turn: the template rewrites earlier turns"
        )
    for what, number in encoder.told.most_common():
        tell(f"{number} rows: {TOLD[what]}")
    if cut:
        tell(f"{cut} tokens were cut off by --truncate")
    return Prepared(
        train,
        heldout,
        weights,
        record,
        tuple(rejections),
        tuple(dict.fromkeys(e.id for e in held_rows)),
        tuple(sorted(encoder.stops)),
        tuple(held_rows),
        tuple(row for row, unit in zip(train_rows, encoded, strict=True) if not isinstance(unit, Rejected))
        if prompts
        else (),
    )


def _tell_rejections(
    rejections: Sequence[Rejected],
    counts: collections.Counter[str],
    lead: Callable[[Rejected], str],
    tell: Callable[[str], None],
) -> None:
    """The first rejections one by one, then every reason with its number and the command that leads on."""
    for row in rejections[:SHOWN_REJECTIONS]:
        where = f" in {row.field}" if row.field else ""
        tell(f"{row.source}:{row.line} cannot be used: {row.reason}{where}; {row.hint}")
    for reason, number in counts.most_common():
        row = next((r for r in rejections if r.reason == reason), None)
        if row is not None:
            tell(f"{number} rows cannot be used, {reason}: {lead(row)}")


def _hold_out(
    settings: Settings, examples: list[Example], account: Callable[[Example | Rejected, int], None]
) -> tuple[list[Example], list[Example]]:
    data = settings.data
    if data.heldout:
        held = []
        for row in read(
            data.heldout, format=data.data_format, mapping=data.map, drop_keys=data.drop_keys, check=True
        ):
            if isinstance(row, Rejected):
                account(row, 0)
            else:
                held.append(row)
        return examples, held
    if not data.heldout_ratio or len(examples) < 2:
        return examples, []
    parts = split(examples, ratio=data.heldout_ratio, seed=settings.training.seed)
    return list(parts.train), list(parts.heldout)


def _encode(
    units: Iterable[tuple[Encoded, ...] | Rejected], account: Callable[[Example | Rejected, int], None]
) -> list[tuple[Encoded, ...]]:
    taken = []
    for unit in units:
        if isinstance(unit, Rejected):
            account(unit, 0)
        else:
            taken.append(unit)
    return taken


def fingerprint(*parts: Tokens) -> str:
    """SHA-256 of the ids, masks and cuts of the pieces: two runs with the same one learn from the same tokens."""
    digest = hashlib.sha256()
    for part in parts:
        for array in (part.ids, part.mask, part.offsets):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _fingerprint(source: str) -> dict[str, Any]:
    path = Path(source)
    if not path.is_file():
        return {"source": source}
    with path.open("rb") as file:
        return {
            "source": path.as_posix(),
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def save(prepared: Prepared, folder: Path) -> None:
    """Write the pieces and the account into a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    prepared.train.save(folder / "train")
    prepared.heldout.save(folder / "heldout")
    with (folder / "rejected.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(
            json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in prepared.rejections
        )
    write_examples(folder / HELDOUT, prepared.heldout_examples)
    if prepared.train_examples:
        write_examples(folder / PROMPTS, prepared.train_examples)
    account = {
        "record": prepared.record,
        "weights": prepared.weights,
        "heldout_ids": prepared.heldout_ids,
        "stops": prepared.stops,
    }
    write_json(folder / "account.json", account)  # last, and whole: without it there is nothing to resume


def load(folder: Path) -> Prepared:
    """Read what `save` wrote.

    Raises:
        BpError: `STATE_TOKENS_MISSING` where the folder is incomplete.
    """
    try:
        account = json.loads((folder / "account.json").read_text(encoding="utf-8"))
        train, heldout = Tokens.load(folder / "train"), Tokens.load(folder / "heldout")
    except (OSError, ValueError, KeyError) as error:
        raise BpError(
            "STATE_TOKENS_MISSING",
            f"{folder} is incomplete: {error}",
            f"start again: backprop replay {folder.parent.name}",
        ) from None
    weights = account["weights"]
    return Prepared(
        train,
        heldout,
        tuple(weights) if weights else None,
        account["record"],
        (),
        tuple(account["heldout_ids"]),
        tuple(account["stops"]),
        *(tuple(read_examples(folder / n)) if (folder / n).is_file() else () for n in (HELDOUT, PROMPTS)),
    )
