"""What the pairwise methods share: how a pair is encoded, and what is told of it.

- Chosen and rejected share the ids of their prompt; the mask covers the answers alone.
- A pair is never cut: where one side cannot be encoded or is too long, the row is rejected with that side's reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import torch
from bp_data.example import Example, Rejected

from bp_core.encoding.encode import Encoded, Encoder
from bp_core.encoding.refusals import rejected

METRICS: Mapping[str, str] = dict.fromkeys(
    (
        "rewards_chosen",
        "rewards_rejected",
        "rewards_margin",
        "rewards_accuracy",
        "logps_chosen",
        "logps_rejected",
    ),
    "pairs",
)


def pair_metrics(policy: torch.Tensor, rewards: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """Sums over pairs of rewards, their margin, how often the chosen one is preferred, and log-probabilities.

    Args:
        policy: log-probability of each answer, as the method takes it, (2·pairs,), chosen first.
        rewards: of each piece, likewise.

    Example:
        Rewards (2, 1, 0, 3) are two pairs with margins 1 and −3: margin sum −2, accuracy sum 1 (a tie counts half).
    """
    with torch.no_grad():
        chosen, rejected = rewards[0::2], rewards[1::2]
        won = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
        return {
            "rewards_chosen": chosen.sum(),
            "rewards_rejected": rejected.sum(),
            "rewards_margin": (chosen - rejected).sum(),
            "rewards_accuracy": won.sum(),
            "logps_chosen": policy[0::2].sum(),
            "logps_rejected": policy[1::2].sum(),
        }


def encode_pairs(encoder: Encoder, examples: Iterable[Example]) -> Iterator[tuple[Encoded, ...] | Rejected]:
    """(chosen, rejected) of each preference pair, through the one encoder."""
    rows = list(examples)
    encoded = encoder.encode_each(side for row in rows if row.kind == "preference" for side in _sides(row))
    for row in rows:
        if row.kind != "preference":
            yield rejected(
                row,
                "wrong_kind",
                f"a {row.kind} row holds no pair of answers; preference tuning takes a chosen and a rejected one",
            )
            continue
        pair: list[Encoded] = []
        refusals: list[Rejected] = []
        for name in ("chosen", "rejected"):
            pieces = next(encoded)
            refusals += [
                dataclasses.replace(piece, field=f"{name}: {piece.field}" if piece.field else name)
                for piece in pieces
                if isinstance(piece, Rejected)
            ]
            whole = [piece for piece in pieces if isinstance(piece, Encoded)]
            if len(whole) > 1:
                refusals.append(
                    rejected(
                        row,
                        "pair_split",
                        f"the chat template rewrites earlier turns, so that {name} is no single piece; "
                        "keep one assistant turn in it",
                        name,
                    )
                )
            pair += whole
        if refusals:
            yield refusals[0]
        elif pair[0].ids == pair[1].ids:
            yield rejected(row, "pair_same", "chosen and rejected are the same once rendered", "rejected")
        else:
            yield tuple(pair)


def _sides(example: Example) -> Iterator[Example]:
    """The two conversations of a pair, each with only its answer taught."""
    prompt = tuple(dataclasses.replace(turn, train=False) for turn in example.turns)
    for answer in (example.chosen, example.rejected):
        yield dataclasses.replace(example, kind="chat", turns=(*prompt, *answer), chosen=(), rejected=())
