# SPDX-License-Identifier: Apache-2.0
"""Sample texts of an evaluation, cut into the pieces that the page shows."""

import re
from collections.abc import Sequence
from typing import Any

from bert_jax.runs.reading import Record


def sample_card(sample: Record) -> dict[str, Any]:
    """A sample text in pieces, with the predictions of each masked slot and of the pair."""
    answers, predictions = sample.get("answers", []), sample.get("predictions", [])
    pairs = zip(answers, predictions, strict=False)
    slots = [_slot(place, answer, ranked) for place, (answer, ranked) in enumerate(pairs, 1)]
    return {"pieces": _pieces(sample.get("text", ""), slots), "slots": slots, "pair": sample.get("pair")}


def _slot(place: int, answer: str, ranked: Sequence[Sequence[Any]]) -> dict[str, Any]:
    rows = [{"token": token, "share": share, "right": token == answer} for token, share in ranked]
    rank = next((rank for rank, row in enumerate(rows, 1) if row["right"]), None)
    return {"place": place, "answer": answer, "rows": rows, "rank": rank}


def _pieces(text: str, slots: Sequence[Any]) -> list[dict[str, Any]]:
    """The text cut at [MASK] and [SEP]: pieces with `text`, `slot` or `separator`."""
    pieces: list[dict[str, Any]] = []
    masks = 0
    for piece in re.split(r"(\[MASK\]|\[SEP\])", text):
        if piece == "[MASK]" and masks < len(slots):
            pieces.append({"slot": slots[masks]})
            masks += 1
        elif piece == "[SEP]":
            pieces.append({"separator": True})
        elif piece:
            pieces.append({"text": piece})
    return pieces
