# SPDX-License-Identifier: Apache-2.0
"""Documents that are nearly the same: MinHash proposes pairs, their Jaccard index decides. The only importer of datasketch.

Broder 1997 ("On the resemblance and containment of documents"), Lee et al. 2022 (2107.06499, section 4.2). A document is
the set of its runs of 5 words (`contamination.words_of`: lower-cased, without punctuation; in scripts without spaces a
character is a word). Two documents are near-duplicates where their sets share 0.8 of their union. Documents that are linked
by such pairs, however indirectly, are a cluster; of each the first in the order of --input stays.

Signatures of 125 permutations are compared in 25 bands of 5: a pair at 0.8 is missed once in 20,000, one at 0.9 once in
5 billion. Every pair that is proposed is verified on the sets themselves, so nothing is taken for a near-duplicate by chance.

What is found is kept in the folder `near-duplicates` of the work folder, which is laid out as that (see `work_folder`):

    shingles-PPPPP-CCCCC.u64    the sets of the documents of a chunk, one behind the other
    signatures-PPPPP-CCCCC.npz  their signatures, digests, places and where each set ends
    found.json                  what the passport says of them
    left-out-PPPPP.npy          the places of the documents that part P is to be read without (`drop`)

Shapes: D documents of 5 words or more.
"""

import dataclasses
import functools
import hashlib
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.files import complete_or_absent, write_json
from bert_jax.base.lines import grouped
from bert_jax.base.types import JsonObject
from bert_jax.feed.order import mix64
from bert_jax.feed.tokenised import chunk_name
from bert_jax.preparation.chunks import Chunk, ChunkWork
from bert_jax.preparation.contamination import ngrams_of, words_of
from bert_jax.preparation.work_folder import left_out_path, NEAR_DUPLICATES, part_path, read_record, record_path
from bert_jax.text.sources import Part, Source

SHINGLE = 5  # words
LEAST_JACCARD = 0.8
BANDS, ROWS = 25, 5
DOCUMENT_BYTES = 640  # of memory for each of D while clusters are made: a signature, places, keys of a band
FOUND = "found.json"

_EXAMPLES = 3  # pairs told for each source
_LEAST_ESTIMATE = 0.6  # by signatures, of pairs that are verified: at a true 0.8, five standard deviations below it
_WORDS_AT_ONCE = 2**18  # characters
_HASHED_AT_ONCE = 2**14  # shingles; each takes 4 bytes for each permutation
_COMPARED_AT_ONCE = 2**14  # signatures


def require_library() -> None:
    """Refuse where datasketch is not installed."""
    if importlib.util.find_spec("datasketch") is None:
        raise UserError(
            '--near-duplicates needs a library that is not installed: pip install "bert-jax[near-duplicates]"'
        )


# ---- a document ------------------------------------------------------------------------------------------------------


def shingles_of(text: str) -> np.ndarray:
    """The different runs of `SHINGLE` words of a document as hashes, ascending: [S] uint64."""
    last, found = np.zeros(0, np.uint64), [np.zeros(0, np.uint64)]
    for lines in grouped(text.split("\n"), _WORDS_AT_ONCE):
        hashes = np.concatenate([last, words_of("\n".join(lines).lower()).hashes])
        found.append(ngrams_of(hashes, SHINGLE))
        last = hashes[-(SHINGLE - 1) :]
    together = np.concatenate(found)
    del found
    together.sort()
    return together[np.flatnonzero(np.diff(together, prepend=~together[:1]))]


def signature_of(shingles: np.ndarray) -> np.ndarray:
    """The MinHash signature of a set: [BANDS * ROWS] uint32."""
    minhash = _blank().copy()
    for begin in range(0, len(shingles), _HASHED_AT_ONCE):
        minhash.update_batch((shingles[begin : begin + _HASHED_AT_ONCE] & np.uint64(2**32 - 1)).tolist())
    return np.asarray(minhash.hashvalues, np.uint32)


@functools.cache
def _blank() -> Any:
    from datasketch import MinHash

    return MinHash(BANDS * ROWS, seed=1, hashfunc=int, scheme="affine32")


# ---- a chunk -> its files --------------------------------------------------------------------------------------------


def signing(work: ChunkWork) -> ChunkWork:
    """The work of `sign_chunk`, in the folder of near-duplicates."""
    folder = work.folder / NEAR_DUPLICATES
    folder.mkdir(exist_ok=True)
    return dataclasses.replace(work, folder=folder, evaluation=None)


def sign_chunk(chunk: Chunk, work: ChunkWork, on_batch: Callable[[], None] = lambda: None) -> None:
    """Write the shingles and signatures of a chunk's documents. As `chunks.process_chunk`, a function of its arguments."""
    signatures, digests, places, sizes = [np.zeros(0, np.uint32)], [b""], [], []
    with complete_or_absent(work.folder / f"shingles-{chunk.name}.u64") as file:
        for content, _, place in chunk.documents:
            on_batch()
            shingles = shingles_of(content.decode())
            if len(shingles):
                file.write(shingles.tobytes())
                signatures.append(signature_of(shingles))
                digests.append(hashlib.blake2b(shingles.tobytes(), digest_size=8).digest())
                places.append(place)
                sizes.append(len(shingles))
    with complete_or_absent(work.folder / f"signatures-{chunk.name}.npz") as file:
        np.savez(
            file,
            signatures=np.concatenate(signatures).reshape(-1, BANDS * ROWS),
            digests=np.frombuffer(b"".join(digests), np.uint64),
            places=np.array(places, np.int64).reshape(-1, 2),
            ends=np.cumsum(sizes, dtype=np.int64),
        )
    counts = {"documents": len(chunk.documents), "compared": len(places), "splits": {}}
    write_json(work.folder / f"record-{chunk.name}.json", {"fingerprint": chunk.fingerprint()} | counts)


# ---- pairs and clusters ----------------------------------------------------------------------------------------------


def clusters_of(
    signatures: np.ndarray, digests: np.ndarray, sizes: np.ndarray, jaccard: Callable[[int, int], float]
) -> np.ndarray:
    """The first document of each document's cluster: [D] int64.

    Args:
      signatures: [D, BANDS * ROWS] uint32.
      digests: [D] uint64, equal where the sets are.
      sizes: [D] of the sets.
      jaccard: of the sets of two documents.
    """
    _, first, equal = np.unique(digests, return_index=True, return_inverse=True)
    parents = first[equal]  # a document's is one before it in its cluster; the first one's is itself
    different = np.sort(first)
    for band in range(BANDS):
        for bucket in _buckets(different, signatures[:, band * ROWS : (band + 1) * ROWS]):
            _join(bucket, band, signatures, sizes, parents, jaccard)
    while (parents[parents] != parents).any():
        parents = parents[parents]
    return parents


def _buckets(documents: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Groups of two or more documents, ascending, whose signatures agree in all `rows` [D, ROWS] of a band."""
    keys = np.zeros(len(documents), np.uint64)
    for column in rows.T:
        keys = mix64(keys + column[documents])
    order = np.argsort(keys, kind="stable")
    borders = np.flatnonzero(np.diff(keys[order], prepend=~keys[order][:1], append=~keys[order][-1:]))
    for place in np.flatnonzero(np.diff(borders) > 1):
        yield documents[order[borders[place] : borders[place + 1]]]


def _join(
    bucket: np.ndarray,
    band: int,
    signatures: np.ndarray,
    sizes: np.ndarray,
    parents: np.ndarray,
    jaccard: Callable[[int, int], float],
) -> None:
    """Put those documents of a bucket into one cluster that are near-duplicates: changes `parents`."""
    firsts = np.array([_first(parents, document) for document in bucket.tolist()])
    for place in range(1, len(bucket)):
        for other in _likely(bucket, place, np.flatnonzero(firsts[:place] != firsts[place]), band, signatures, sizes):
            if firsts[other] != firsts[place] and jaccard(bucket[other], bucket[place]) >= LEAST_JACCARD:
                early, late = sorted((firsts[other], firsts[place]))
                parents[late] = early
                firsts[firsts == late] = early


def _first(parents: np.ndarray, document: int) -> int:
    while parents[document] != document:
        document = parents[document]
    return document


def _likely(
    bucket: np.ndarray, place: int, others: np.ndarray, band: int, signatures: np.ndarray, sizes: np.ndarray
) -> Iterator[int]:
    """Those of the `others` that may be near-duplicates of the document at `place` and were met in no band before."""
    signature, size = signatures[bucket[place]], sizes[bucket[place]]
    for begin in range(0, len(others), _COMPARED_AT_ONCE):
        some = others[begin : begin + _COMPARED_AT_ONCE]
        agree = signatures[bucket[some]] == signature
        before = agree[:, : band * ROWS].reshape(len(some), band, ROWS).all(2).any(1)
        near = np.minimum(sizes[bucket[some]], size) >= LEAST_JACCARD * np.maximum(sizes[bucket[some]], size)
        yield from some[near & ~before & (agree.mean(1) >= _LEAST_ESTIMATE)].tolist()


# ---- all chunks ------------------------------------------------------------------------------------------------------


class _Documents(NamedTuple):
    """The documents of 5 words or more of all first passes, in the order of --input."""

    signatures: np.ndarray  # [D, BANDS * ROWS] uint32
    digests: np.ndarray  # [D] uint64
    places: np.ndarray  # [D, 2] the file in the part, and the number in the file
    begins: np.ndarray  # [D] of the sets in the file of their chunk
    ends: np.ndarray  # [D]
    parts: np.ndarray  # [D] int32, numbers
    chunks: np.ndarray  # [D] int32, places in `sets`
    sets: list[np.ndarray]  # of each chunk, mapped

    def shingles(self, document: int) -> np.ndarray:
        return self.sets[self.chunks[document]][self.begins[document] : self.ends[document]]

    def jaccard(self, one: int, other: int) -> float:
        """The size of what two sets share, over that of what they have together."""
        first, second = self.shingles(one), self.shingles(other)
        shared = len(np.intersect1d(first, second, assume_unique=True))
        return shared / (len(first) + len(second) - shared)


def find_near_duplicates(folder: Path, parts: Sequence[Part], sources: Sequence[Source], drop: bool) -> None:
    """Make clusters of all documents that were signed; write what was found, and what is left out."""
    first_passes = [part for part in parts if not part.repetition]
    documents, counts = _load(folder, first_passes)
    sizes = documents.ends - documents.begins
    firsts = clusters_of(documents.signatures, documents.digests, sizes, documents.jaccard)
    again = np.flatnonzero(firsts != np.arange(len(firsts)))
    source_of = np.array([part.source for part in parts], np.int32)[documents.parts]
    described = []
    for number, source in enumerate(sources):
        own = again[source_of[again] == number]
        others = own[source_of[firsts[own]] != number]
        shown = (others if len(others) else own)[:_EXAMPLES]
        described.append(
            {"source": source.name, **counts[number]}
            | {"found": len(own), "of_other_sources": len(others)}
            | {"examples": [_pair(documents, parts, sources, one, firsts[one]) for one in shown.tolist()]}
        )
    rule = {"shingle_words": SHINGLE, "permutations": BANDS * ROWS, "bands": BANDS, "least_jaccard": LEAST_JACCARD}
    write_json(folder / FOUND, {**rule, "dropped": drop, "sources": described})
    if drop:
        _write_left_out(folder.parent, parts, documents, again)


def _load(folder: Path, parts: Sequence[Part]) -> tuple[_Documents, list[Counter[str]]]:
    """The documents of these parts, and for each source how many there are and how many are compared."""
    chunks = [(part, number) for part in parts for number in range(_record(part_path(folder, part.number))["chunks"])]
    records = [_record(record_path(folder, part.number, number)) for part, number in chunks]
    counts = [Counter(documents=0, compared=0) for _ in range(1 + max(part.source for part in parts))]
    total = sum(record["compared"] for record in records)
    wide, place, kind = np.zeros((total, BANDS * ROWS), np.uint32), np.zeros((total, 2), np.int64), np.int32
    begins, ends, digests = (np.zeros(total, dtype) for dtype in (np.int64, np.int64, np.uint64))
    of_part, of_chunk = np.zeros(total, kind), np.zeros(total, kind)
    sets, begin = [], 0
    for index, ((part, number), record) in enumerate(zip(chunks, records, strict=True)):
        counts[part.source].update(documents=record["documents"], compared=record["compared"])
        name, to = chunk_name(part.number, number), slice(begin, begin + record["compared"])
        path = folder / f"shingles-{name}.u64"
        sets.append(np.memmap(path, np.uint64, "r") if record["compared"] else np.zeros(0, np.uint64))
        with np.load(folder / f"signatures-{name}.npz") as arrays:
            wide[to], digests[to], place[to] = (arrays[key] for key in ("signatures", "digests", "places"))
            ends[to] = arrays["ends"]
        begins[to] = np.append(0, ends[to])[:-1]
        of_part[to], of_chunk[to] = part.number, index
        begin = to.stop
    return _Documents(wide, digests, place, begins, ends, of_part, of_chunk, sets), counts


def _record(path: Path) -> JsonObject:
    record = read_record(path)
    if record is None:
        raise UserError(f"{path} is missing: run the same command again")
    return record


def _pair(documents: _Documents, parts: Sequence[Part], sources: Sequence[Source], late: int, early: int) -> JsonObject:
    """A near-duplicate and the first document of its cluster, by file and number."""

    def named(document: int) -> str:
        part, (file, number) = parts[documents.parts[document]], documents.places[document].tolist()
        source = sources[part.source]
        name = source.name if source.tfds is not None else source.name_of(part.files[file])
        return f"{name}, document {number + 1}"

    return {"document": named(late), "first": named(early), "jaccard": round(documents.jaccard(late, early), 4)}


def _write_left_out(folder: Path, parts: Sequence[Part], documents: _Documents, again: np.ndarray) -> None:
    """Write for each part which of its documents are left out; later passes leave out those of the first one."""
    first_pass = {(part.source, part.files): part.number for part in parts if not part.repetition}
    for part in parts:
        own = again[documents.parts[again] == first_pass[part.source, part.files]]
        with complete_or_absent(left_out_path(folder, part.number)) as file:
            np.save(file, documents.places[own])
