# SPDX-License-Identifier: Apache-2.0
"""The shapes of the JSON files of a run: which values are numbers, texts, lists, objects; what else they hold is free."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_jax.files import reading
from bert_jax.types import JsonObject

type Shape = type | tuple[type, ...] | Sequence[Shape] | Mapping[str, Shape]

NUMBER = (int, float)
ANY = "*"  # stands for every name of an object that has no shape of its own
COUNTS: Shape = {ANY: NUMBER}

_SAMPLE: Shape = {
    "text": str,
    "answers": [str],
    "predictions": [[[(str, int, float)]]],
    "pair": {"label": str, "prediction": str, "probability": NUMBER},
}
EVALUATION: Shape = {
    **dict.fromkeys(
        (
            *("step", "sequence_length", "masked_tokens", "pairs", "picked_share", "is_next_share"),
            *("mlm_loss", "mlm_perplexity", "mlm_accuracy", "nsp_loss", "nsp_accuracy"),
            *("unigram_loss", "unigram_entropy", "commonest_token_accuracy"),
        ),
        NUMBER,
    ),
    "split": str,
    "mlm_accuracy_95": [NUMBER],
    "nsp_accuracy_95": [NUMBER],
    "mask_histogram": COUNTS,
    "samples": [_SAMPLE],
}
ENVIRONMENT: Shape = {"device_count": NUMBER, "peak_flops_per_device": NUMBER, "peak_source": str}
_TABLE: Shape = {
    "kind": str,
    "length_histogram": [NUMBER],
    **dict.fromkeys(
        (
            *("sequence_length", "examples", "is_next_share", "in_order_share", "valid_token_share", "cut_token_share"),
            *("same_document_negatives", "unpaired_documents"),
        ),
        NUMBER,
    ),
}
_SPLIT: Shape = {
    **dict.fromkeys(
        (
            *("documents", "sentences", "tokens", "unknown_tokens"),
            *("unigram_entropy", "commonest_token", "commonest_token_share"),
        ),
        NUMBER,
    ),
    "tables": {ANY: _TABLE},
    "shards": [{"bytes": NUMBER, "documents": NUMBER, "sentences": NUMBER, "tokens": NUMBER}],
}
_LENGTHS: Shape = {"mean": NUMBER, "median_at_least": NUMBER, "longest": NUMBER, "bins": [NUMBER], "counts": [NUMBER]}
_TEXT: Shape = {
    "characters": NUMBER,
    "tokens": NUMBER,
    "scripts": COUNTS,
    "other_characters": COUNTS,
    "sentences": COUNTS,
    "documents": COUNTS,
    "repeated_lines": [{"text": str, "times": NUMBER}],
    "marks": {"words": NUMBER, "marked": NUMBER, "distinct": NUMBER, "forms": NUMBER, "examples": [[str]]},
    "tokens_per_sentence": _LENGTHS,
    "tokens_per_document": _LENGTHS,
}
_MASKS: Shape = {
    **dict.fromkeys(("picked", "picked_share", "p_value", "chi_square"), NUMBER),
    "treatment": COUNTS,
    "expected": COUNTS,
}
_OVERLAP: Shape = {
    "file": str,
    "examples": [str],
    **dict.fromkeys(
        ("ngram_words", "ngrams", "found_ngrams", "found_share", "texts", "texts_with_found", "short_texts"), NUMBER
    ),
}
PASSPORT: Shape = {
    **dict.fromkeys(
        ("vocab_size", "held_out", "dropped_sentences", "dropped_documents", "unreachable_entries"), NUMBER
    ),
    "kinds": [str],
    "sequence_lengths": [NUMBER],
    "sources": [{"source": str, "weight": NUMBER, "files": [{"file": str, "bytes": NUMBER}]}],
    "splits": {ANY: _SPLIT},
    "text": _TEXT,
    "masks": {ANY: _MASKS},
    "contamination": [_OVERLAP],
    "reading": dict,
}
_JUDGED: Shape = {"kind": str, "explanation": str}
SCORES: Shape = {
    "scores": {ANY: COUNTS},
    "main": {"metric": str, "split": str, "value": NUMBER},
    "degenerate": _JUDGED,
    "undecided": str,
    "seconds": NUMBER,
    "examples_per_second": NUMBER,
}
FINETUNE: Shape = {
    "task": dict,
    "title": str,
    "kind": str,
    "metrics": [str],
    "labels": list,
    "settings": dict,
    "found": COUNTS,
    "source": dict,
    "examples": COUNTS,
    "counts": {ANY: dict},
    "total_steps": NUMBER,
}
SEEDS: Shape = {
    "title": str,
    "metric": str,
    "split": str,
    "runs": [{"folder": str, "value": NUMBER, "degenerate": _JUDGED, "settings": dict}],
}


def require_shape(path: Path, content: JsonObject | None, shape: Shape, remedy: str) -> None:
    """Refuse what a file holds where a value is not of its shape; a value that is absent or null is let through.

    Raises:
      UserError: with the name of the file, the place in it, and the remedy.
    """
    with reading(path, remedy):
        _check(content, shape, "")


def _check(value: Any, shape: Shape, place: str) -> None:
    if value is None:
        return
    if isinstance(shape, type | tuple):
        kinds = shape if isinstance(shape, tuple) else (shape,)
        if not isinstance(value, kinds) or isinstance(value, bool):
            names = " or ".join("number" if kind is float else kind.__name__ for kind in kinds if kind is not int)
            raise ValueError(f"{place} is {value!r:.60}, no {names}")
    elif isinstance(shape, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{place or 'it'} is {value!r:.60}, no object")
        for name, inner in value.items():
            if (wanted := shape.get(name, shape.get(ANY))) is not None:
                _check(inner, wanted, f"{place}.{name}".lstrip("."))
    else:
        if not isinstance(value, list):
            raise ValueError(f"{place} is {value!r:.60}, no list")
        for number, inner in enumerate(value):
            _check(inner, shape[0], f"{place}[{number}]")
