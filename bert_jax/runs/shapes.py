# SPDX-License-Identifier: Apache-2.0
"""The shapes of the JSON files of a run: which values are numbers, texts, lists, objects; what else they hold is free."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_jax.base.files import reading
from bert_jax.base.types import JsonObject

type Shape = type | tuple[type, ...] | Sequence[Shape] | Mapping[str, Shape]

NUMBER = (int, float)
ANY = "*"  # stands for every name of an object that has no shape of its own
COUNTS: Shape = {ANY: NUMBER}


def _numbers(names: str) -> dict[str, Shape]:
    return dict.fromkeys(names.split(), NUMBER)


EVALUATION: Shape = {
    **_numbers(
        "step sequence_length masked_tokens pairs picked_share is_next_share mlm_loss mlm_perplexity mlm_accuracy"
    ),
    **_numbers("next_tokens ltr_loss ltr_perplexity ltr_accuracy rtl_loss rtl_perplexity rtl_accuracy"),
    **_numbers(
        "rtd_loss rtd_accuracy rtd_recall rtd_precision replaced_share rtd_tokens rtd_always_original rtd_share_loss"
    ),
    **_numbers("nsp_loss nsp_accuracy unigram_loss unigram_entropy commonest_token_accuracy"),
    "mlm_accuracy_95": [NUMBER],
    "ltr_accuracy_95": [NUMBER],
    "rtl_accuracy_95": [NUMBER],
    "nsp_accuracy_95": [NUMBER],
    "split": str,
    "mask_histogram": COUNTS,
    "samples": [
        {
            "text": str,
            "answers": [str],
            "predictions": [[[(str, int, float)]]],
            "pair": {"label": str, "prediction": str, "probability": NUMBER},
        }
    ],
}
EVALUATION_TEXT: Shape = {
    **_numbers("step next_tokens masked_tokens mlm_loss mlm_perplexity"),
    **_numbers("ltr_loss ltr_perplexity rtl_loss rtl_perplexity"),
    "text": {**_numbers("documents sentences tokens"), "files": [{"file": str}]},
    "pseudo": {**_numbers("sentences tokens loss perplexity")},
    "ngrams": {**_numbers("counted_tokens"), "text": str},
}
ENVIRONMENT: Shape = {**_numbers("device_count peak_flops_per_device"), "peak_source": str}
_TABLE: Shape = {
    **_numbers("sequence_length examples is_next_share in_order_share valid_token_share cut_token_share"),
    **_numbers("same_document_negatives unpaired_documents"),
    "kind": str,
    "length_histogram": [NUMBER],
}
_SPLIT: Shape = {
    **_numbers("documents sentences tokens unknown_tokens unigram_entropy commonest_token commonest_token_share"),
    "tables": {ANY: _TABLE},
    "shards": [_numbers("bytes documents sentences tokens")],
}
_LENGTHS: Shape = {**_numbers("mean median_at_least longest"), "bins": [NUMBER], "counts": [NUMBER]}
_TEXT: Shape = {
    **_numbers("characters tokens"),
    **dict.fromkeys(("scripts", "other_characters", "sentences", "documents"), COUNTS),
    **dict.fromkeys(("tokens_per_sentence", "tokens_per_document"), _LENGTHS),
    "repeated_lines": [{"text": str, "times": NUMBER}],
    "marks": {**_numbers("words marked distinct forms"), "examples": [[str]]},
}
_MASKS: Shape = {**_numbers("picked picked_share p_value chi_square"), "treatment": COUNTS, "expected": COUNTS}
_OVERLAP: Shape = {
    **_numbers("ngram_words ngrams found_ngrams found_share texts texts_with_found short_texts"),
    "file": str,
    "examples": [str],
}
PASSPORT: Shape = {
    **_numbers("vocab_size held_out dropped_sentences dropped_documents unreachable_entries"),
    "kinds": [str],
    "sequence_lengths": [NUMBER],
    "sources": [{"source": str, "weight": NUMBER, "files": [{"file": str, "bytes": NUMBER}]}],
    "splits": {ANY: _SPLIT},
    "text": _TEXT,
    "masks": {ANY: _MASKS},
    "contamination": [_OVERLAP],
    "reading": dict,
}
TEACHER: Shape = {"path": str, "summary": str, "weights_sha256": str}
SOURCE: Shape = {"path": str, "keep": str, "longest": NUMBER, "entries": dict, "asked": dict}
_JUDGED: Shape = {"kind": str, "explanation": str}
SCORES: Shape = {
    "scores": {ANY: COUNTS},
    "main": {"metric": str, "split": str, "value": NUMBER},
    "degenerate": _JUDGED,
    "undecided": str,
    "seconds": NUMBER,
    "examples_per_second": NUMBER,
    "mix": {"layers": [NUMBER], "weights": [NUMBER], "scale": NUMBER},
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
            if inner is None and isinstance(shape[0], Mapping):
                raise ValueError(f"{place}[{number}] is null, no object")
            _check(inner, shape[0], f"{place}[{number}]")
