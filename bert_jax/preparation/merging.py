# SPDX-License-Identifier: Apache-2.0
"""The records of all chunks -> the manifest."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject
from bert_jax.feed.shards import table_name, TRAIN
from bert_jax.preparation.chunks import ChunkWork, SPLITS
from bert_jax.preparation.contamination import contamination_report
from bert_jax.preparation.near_duplicates import FOUND
from bert_jax.preparation.request import PrepareSettings
from bert_jax.preparation.work_folder import NEAR_DUPLICATES, part_path, read_record, record_path
from bert_jax.text.documents import ReadingCounts
from bert_jax.text.sources import Part
from bert_jax.text.statistics import merge_statistics

FIRST_LABEL_SHARES = {"nsp": "is_next_share", "sop": "in_order_share"}


class Totals:
    """The sums of all chunks. The records are read one after the other and not kept."""

    def __init__(self, folder: Path, parts: Sequence[Part], work: ChunkWork):
        self.parts = [_required(part_path(folder, part.number)) for part in parts]
        self.shards: dict[str, list[JsonObject]] = {name: [] for name in SPLITS}  # records, in the order of the text
        self.sources: dict[int, Counter[str]] = {part.source: Counter() for part in parts}
        self.token_counts = {name: np.zeros(work.tokenizer.vocab_size, np.int64) for name in SPLITS}
        self.dropped: Counter[str] = Counter()
        self._tables: dict[str, dict[str, Counter[str]]] = {name: {} for name in SPLITS}
        self._histograms: dict[tuple[str, str], np.ndarray] = {}
        self.hits = {part.source: np.zeros(0, np.uint64) for part in parts}  # of evaluation data, by source
        self.text = merge_statistics(self._records(folder, parts))

    def _records(self, folder: Path, parts: Sequence[Part]) -> Iterator[tuple[JsonObject, Mapping[str, np.ndarray]]]:
        """The statistics of each chunk; the rest is added up on the way."""
        for part, read in zip(parts, self.parts, strict=True):
            for chunk in range(read["chunks"]):
                path = record_path(folder, part.number, chunk)
                record = _required(path)
                with np.load(path.with_suffix(".npz")) as arrays:
                    self._add(record, arrays)
                    yield record["statistics"], arrays

    def _add(self, record: JsonObject, arrays: Mapping[str, np.ndarray]) -> None:
        source = record["source"]
        self.hits[source] = np.union1d(self.hits[source], arrays["contamination"])
        for name in ("dropped_sentences", "dropped_documents"):
            self.dropped[name] += record[name]
        for split, written in record["splits"].items():
            shard = written["shard"] | {"source": source}
            self.shards[split].append(shard)
            self.sources[source].update({key: shard[key] for key in ("documents", "sentences", "tokens")})
            self.token_counts[split] += arrays[f"{split}_counts"]
            for table, counts in written["tables"].items():
                histogram = np.array(counts.pop("length_histogram"))
                self._histograms[split, table] = self._histograms.get((split, table), 0) + histogram
                self._tables[split].setdefault(table, Counter()).update(counts)

    def split_record(self, split: str, work: ChunkWork) -> JsonObject:
        """The record of a split for the manifest; its shards have the names of the work folder still."""
        counts = self.token_counts[split]
        tokens = int(counts.sum())
        shares = counts[counts > 0] / tokens
        commonest = int(counts.argmax())
        return {
            **{name: self.documents(split, name) for name in ("documents", "sentences")},
            "tokens": tokens,
            "unknown_tokens": int(counts[work.tokenizer.unk_id]),
            "unigram_entropy": math.fsum(-shares * np.log(shares)),
            "commonest_token": commonest,
            "commonest_token_share": int(counts[commonest]) / tokens,
            "tables": {
                table_name(kind, length): self._table_record(split, kind, length, tokens)
                for kind in work.settings.kinds
                for length in work.settings.sequence_lengths
            },
            "shards": self.shards[split],
        }

    def documents(self, split: str, name: str = "documents") -> int:
        """Documents (sentences) of a split."""
        return sum(shard[name] for shard in self.shards[split])

    def _table_record(self, split: str, kind: str, length: int, tokens: int) -> JsonObject:
        name = table_name(kind, length)
        counts = self._tables[split][name]
        examples = counts["examples"]
        if not examples:
            raise UserError(
                f"the {split} split gives no {kind} example: each of its documents is a single sentence; separate"
                " documents by blank lines and sentences by line breaks, or use --objective mlm_full_sentences"
            )
        record = {"kind": kind, "sequence_length": length, "examples": examples}
        if kind in FIRST_LABEL_SHARES:
            record[FIRST_LABEL_SHARES[kind]] = counts["first_label"] / examples
            record["unpaired_documents"] = counts["unpaired_documents"]
        if kind == "nsp":
            record["same_document_negatives"] = counts["same_document_negatives"]
        return record | {
            "valid_token_share": counts["valid_tokens"] / (examples * length),
            "cut_token_share": counts["cut_tokens"] / tokens,
            "length_histogram": self._histograms[split, name].tolist(),
        }


def _required(path: Path) -> JsonObject:
    record = read_record(path)
    if record is None:
        raise UserError(f"{path} is missing: run the same command again")
    return record


def make_manifest(totals: Totals, request: JsonObject, parts: Sequence[Part], work: ChunkWork) -> JsonObject:
    """The manifest, but for what is measured and judged in the end: `masks` and `warnings`.

    Raises:
      UserError: too few documents for the examples that were asked for.
    """
    _require_documents(totals.documents(TRAIN), totals.documents(SPLITS[1]), work.settings)
    reading = ReadingCounts()
    for part, read in zip(parts, totals.parts, strict=True):
        if not part.repetition:
            reading.add(ReadingCounts(**read["reading"]))
    return {
        **{name: value for name, value in request.items() if name not in ("evaluation_data", "sources")},
        "sources": _sources(totals, request, parts),
        **totals.dropped,
        "reading": dataclasses.asdict(reading),
        "text": totals.text,
        "near_duplicate_documents": read_record(work.folder / NEAR_DUPLICATES / FOUND),
        "contamination": _contamination(totals, request, work),
        "splits": {
            split: totals.split_record(split, work) for split in (SPLITS if work.settings.held_out else [TRAIN])
        },
    }


def _contamination(totals: Totals, request: JsonObject, work: ChunkWork) -> list[JsonObject]:
    if work.evaluation is None:
        return []
    of_sources = [(source["source"], totals.hits[number]) for number, source in enumerate(request["sources"])]
    return contamination_report(work.evaluation, np.concatenate([hits for _, hits in of_sources]), of_sources)


def _sources(totals: Totals, request: JsonObject, parts: Sequence[Part]) -> list[JsonObject]:
    """The sources, with what was taken of them on all passes, and their files with their hashes."""
    described = []
    for number, source in enumerate(request["sources"]):
        first_pass = [
            read["files"]
            for part, read in zip(parts, totals.parts, strict=True)
            if part.source == number and not part.repetition
        ]
        files = [file for files in first_pass for file in files]
        counts = {name: totals.sources[number][name] for name in ("documents", "sentences", "tokens")}
        described.append({"source": source["source"], "weight": source["weight"], **counts, "files": files})
    return described


def _require_documents(train: int, validation: int, settings: PrepareSettings) -> None:
    """Each split needs a document, and two where next-sentence prediction draws from another one."""
    total = train + validation
    if not total:
        raise UserError("the text of --input gives no tokens: give files with text in the language of --vocab")
    needed = 2 if "nsp" in settings.kinds else 1
    why = ", and next-sentence prediction needs two" if needed == 2 else ""
    if total < needed:
        raise UserError(
            "the text of --input is 1 document, and next-sentence prediction needs another one to draw from:"
            " add text, separate documents by blank lines, or use --objective mlm_full_sentences"
        )
    for name, documents in {SPLITS[0]: train, SPLITS[1]: validation if settings.held_out else needed}.items():
        if documents < needed:
            raise UserError(
                f"--held-out {settings.held_out} leaves {documents} of {total} documents to the {name} split{why}:"
                " add text, raise --held-out, or set it to 0 for no validation split"
            )
