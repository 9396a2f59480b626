# SPDX-License-Identifier: Apache-2.0
"""A passport and a run with nothing wrong, made up, for tests that spoil one thing at a time."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.settings import to_dict

PHASES = (PhaseConfig(128, 20_000, 256, 20), PhaseConfig(512, 2_000, 256, 80))
CONFIG = dataclasses.replace(
    PretrainConfig(), phases=PHASES, optimizer=dataclasses.replace(PretrainConfig().optimizer, warmup_steps=1_000)
)
ENTROPY = 7.2


def example_table(kind: str, length: int, examples: int, **changes: Any) -> dict[str, Any]:
    """The passport's entry of one table."""
    share = {"nsp": {"is_next_share": 0.49, "same_document_negatives": 0}, "sop": {"in_order_share": 0.5}}.get(kind, {})
    histogram = [examples // 100] * (length // 16) + [examples - (length // 16) * (examples // 100)]
    pairs = {"unpaired_documents": 0} if kind in ("nsp", "sop") else {}
    filled = {"valid_token_share": 0.9, "cut_token_share": 0.01, "length_histogram": histogram}
    table = {"kind": kind, "sequence_length": length, "examples": examples, **share, **pairs, **filled}
    return {**table, **changes}


def split(documents: int, tables: list[dict[str, Any]]) -> dict[str, Any]:
    """The passport's entry of a split."""
    tokens = 3_000 * documents
    shard = {
        "file": "train-00000-of-00001.safetensors", "bytes": 2 * tokens, "sha256": "c" * 64, "documents": documents,
        "sentences": tokens // 25, "tokens": tokens, "max_id": 30_000, "source": 0,
        "examples": {f"{table['kind']}_{table['sequence_length']}": table["examples"] for table in tables},
    }  # fmt: skip
    return {
        "documents": documents, "sentences": tokens // 25, "tokens": tokens, "unknown_tokens": tokens // 10_000,
        "unigram_entropy": ENTROPY, "commonest_token": 1996, "commonest_token_share": 0.055,
        "tables": {f"{table['kind']}_{table['sequence_length']}": table for table in tables}, "shards": [shard],
    }  # fmt: skip


def masks_of(picked: int = 20_000) -> dict[str, Any]:
    """What `mask_report` says of masks that are as they should be."""
    return {
        "picked": picked, "picked_share": 0.1501, "p_value": 0.4, "chi_square": 1.83,
        "treatment": {"mask": picked * 8 // 10, "random": picked // 10, "kept": picked // 10},
        "expected": {"mask": 0.8, "random": 0.1, "kept": 0.1},
    }  # fmt: skip


def near_duplicates(found: int, dropped: bool = False) -> dict[str, Any]:
    """What is found among 20,000 documents of two sources."""
    pair = {"document": "b.txt, document 7", "first": "a.txt, document 3", "jaccard": 0.9312}
    sources = [
        {"source": "wiki", "documents": 10_100, "compared": 10_000, "found": 0, "of_other_sources": 0, "examples": []},
        {"source": "web", "documents": 10_200, "compared": 10_000, "found": found, "of_other_sources": 5, "examples": [pair]},
    ]  # fmt: skip
    rule = {"shingle_words": 5, "permutations": 125, "bands": 25, "least_jaccard": 0.8}
    return {**rule, "dropped": dropped, "sources": sources}


def passport(spoil: Callable[[dict[str, Any]], None] = lambda passport: None) -> dict[str, Any]:
    """The passport of a sound text of English prose; `spoil` changes it in place."""
    tables = [example_table("nsp", 128, 400_000), example_table("nsp", 512, 100_000)]
    held_out = [example_table("nsp", 128, 20_000), example_table("nsp", 512, 5_000)]
    histogram = {"mean": 25.0, "median_at_least": 20, "longest": 40, "bins": [0, 1, 2, 3, 4], "counts": [0, 1, 5, 9, 2]}
    counts = {"count": 2_520_000, "repeated": 50_000, "repeated_share": 0.0198, "compared": 1.0}
    file = {"file": "wiki_00", "bytes": 5_000_000, "modified": 1_400_000_000 * 10**9, "sha256": "d" * 64}
    text = {
        "characters": 270_000_000, "tokens": 63_000_000, "scripts": {"Latin": 210_000_000, "Greek": 90_000, "Kana": 4_000},
        "other_characters": {"white space": 45_000_000, "numbers": 4_000_000, "control and unassigned": 100},
        "sentences": counts, "documents": {**counts, "count": 21_000, "repeated": 0, "repeated_share": 0.0},
        "repeated_lines": [{"text": "History.", "times": 4_000}, {"text": "<b>References</b>", "times": 2_000}],
        "marks": {"words": 20_000, "marked": 200, "distinct": 5_000, "forms": 4_995, "examples": [["resume", "résumé"]]},
        "tokens_per_sentence": histogram, "tokens_per_document": {**histogram, "mean": 3_000.0, "longest": 90_000},
    }  # fmt: skip
    made = {
        "format": 2, "bert_jax": "0.2.0", "tokenizer": "ab" * 32, "tokenizer_kind": "wordpiece", "vocab_size": 30_522,
        "strip_accents": True, "unreachable_entries": 0,
        "kinds": ["nsp"], "sequence_lengths": [128, 512], "held_out": 0.05, "short_seq_prob": 0.1,
        "random_next_prob": 0.5, "seed": 0, "shard_size": 4_000_000, "lines": "sentences", "json_field": "text",
        "errors": "strict", "splitter": "rules", "segmenter": "none", "licence": "CC BY-SA 3.0",
        "sources": [{"source": "wiki", "weight": 1.0, "documents": 21_000, "sentences": 2_520_000, "tokens": 63_000_000,
                     "files": [file]}],
        "dropped_sentences": 3, "dropped_documents": 0, "reading": {"replaced_bytes": 0, "control_lines": 0},
        "text": text, "masks": {"nsp_128": masks_of(), "nsp_512": masks_of()}, "contamination": [], "warnings": [],
        "splits": {"train": split(20_000, tables), "validation": split(1_000, held_out)},
    }  # fmt: skip
    spoil(made)
    return made


# ---- runs ------------------------------------------------------------------------------------------------------------


def mlm_loss(step: int) -> float:
    """A curve as BERT's: fast to the word frequencies, a while there, then below."""
    return ENTROPY + 3 * math.exp(-step / 150) - 2.8 * (1 - math.exp(-max(step - 3_000, 0) / 4_000))


def train_line(step: int, **changes: Any) -> dict[str, Any]:
    """A training line of metrics.jsonl."""
    second = step > PHASES[0].steps
    line = {
        "kind": "train", "step": step, "phase": int(second), "loss": mlm_loss(step) + 0.4, "mlm_loss": mlm_loss(step),
        "mlm_accuracy": 0.3, "nsp_loss": 0.4, "nsp_accuracy": 0.8 if step > 5_000 else 0.6, "is_next_share": 0.49,
        "grad_norm": 0.7 + 0.2 * math.sin(step), "learning_rate": 5e-5, "valid_tokens": 2_900_000, "seconds": 10.0,
        "tokens_per_second": 290_000.0 + 5_000 * math.sin(step), "sequences_per_second": 2_560.0,
        "picked_share": 0.1497, "mask_share": 0.8001, "random_share": 0.0999, "kept_share": 0.1,
        "valid_token_share": 0.9, "examples_per_row": 1.0,
    }  # fmt: skip
    return {**line, **changes}


def eval_line(step: int, **changes: Any) -> dict[str, Any]:
    """A held-out line."""
    line = {
        "kind": "eval",
        "step": step,
        "mlm_loss": mlm_loss(step) - 0.1,
        "nsp_accuracy": 0.8,
        "masked_tokens": 240_000,
    }
    return {**line, **changes}


def data_line(phase: int, **changes: Any) -> dict[str, Any]:
    """What was measured of a phase's first batches."""
    units = {"units": 20_000, "mean_unit_length": 1.0, "whole_word_share": 0.8, "long_word_share": 0.2}
    rows = {"rows": 1024, "examples": 1024, "examples_per_row": 1.0, "valid_token_share": 0.9, "is_next_share": 0.49}
    return {"kind": "data", "step": 0, "phase": phase, **masks_of(), **units, **rows, "warnings": [], **changes}


def lines(last: int = 22_000, every: int = 100, **changes: Any) -> list[dict[str, Any]]:
    """A run's metrics up to step `last`; `changes` are values, or functions of the step, of training lines."""
    made = [data_line(0), data_line(1)]
    for step in range(every, last + 1, every):
        made.append(
            train_line(step, **{key: value(step) if callable(value) else value for key, value in changes.items()})
        )
        if step % 1_000 == 0:
            made.append(eval_line(step))
    return made


def write_run(
    directory: Path,
    metrics: list[dict[str, Any]] | None = None,
    config: PretrainConfig = CONFIG,
    data: Mapping[str, Any] | None = None,
) -> Path:
    """A run directory; by default one with nothing wrong."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(to_dict(config)), encoding="utf-8")
    (directory / "passport.json").write_text(json.dumps(passport() if data is None else data), encoding="utf-8")
    text = "".join(json.dumps(line) + "\n" for line in (lines() if metrics is None else metrics))
    (directory / "metrics.jsonl").write_text(text, encoding="utf-8")
    return directory
