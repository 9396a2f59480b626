# SPDX-License-Identifier: Apache-2.0
"""Repetitions in a text: equal sentences and equal documents, by 64-bit hashes.

`Occurrences` holds a chunk's hashes and counts exactly. `Repetitions` adds chunks up: what repeats inside a chunk is
known; what repeats across chunks is counted on the hashes that end in some zero bits, and scaled up. A hash is
blake2b's, the same in every process; of 10**12 different sentences some 30,000 pairs would seem equal by chance.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

from bert_jax.base.types import JsonObject

MOST_HASHES = 2**22  # compared across chunks: 32 MB
LINE_SHOWN = 160  # characters of a repeated line that are kept

HASH_BYTES = 8


def hash_of(data: bytes) -> bytes:
    """8 bytes."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def ending_in_zeros(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Keep the hashes [H] whose lowest `bits` bits are zero: a sample that holds all occurrences of what is in it."""
    return hashes[hashes & np.uint64((1 << bits) - 1) == 0]


class Occurrences:
    """The hashes of all sentences or documents of a chunk, ascending, each as often as it occurred."""

    def __init__(self) -> None:
        self._hashes = np.zeros(0, np.uint64)

    def add(self, digests: bytes) -> list[tuple[int, int, int]]:
        """Take in hashes, 8 bytes each.

        Returns:
          (place among the added, hash, times it has occurred by now) of each different one that occurs again.
        """
        new = np.frombuffer(digests, "<u8").astype(np.uint64, copy=False)
        order = np.argsort(new, kind="stable")
        ascending = new[order]
        merged = np.concatenate([self._hashes, ascending])
        merged.sort(kind="stable")  # two ascending runs: a linear merge
        self._hashes = merged
        first = np.flatnonzero(_differs_from_the_one_before(ascending))
        different = ascending[first]
        times = np.searchsorted(merged, different, side="right") - np.searchsorted(merged, different)
        again = times > 1
        places = order[first[again]]
        return list(zip(places.tolist(), different[again].tolist(), times[again].tolist(), strict=True))

    def different(self) -> np.ndarray:
        """Return the different hashes, ascending: [H] uint64."""
        return self._hashes[_differs_from_the_one_before(self._hashes)]

    def summary(self) -> dict[str, int]:
        """How many, and how many different ones."""
        return {"count": len(self._hashes), "different": len(self.different())}

    def sample(self, bits: int) -> np.ndarray:
        """Return the different hashes that are compared across chunks, ascending: [H] uint64."""
        return ending_in_zeros(self.different(), bits)


def _differs_from_the_one_before(ascending: np.ndarray) -> np.ndarray:
    differs = np.ones(len(ascending), bool)
    differs[1:] = ascending[1:] != ascending[:-1]
    return differs


class RepeatedLines:
    """The most repeated lines of a chunk, or of all chunks. Bounded: beyond twice `most`, the rarer half is let go."""

    def __init__(self, most: int):
        self._most = most
        self._lines: dict[int, tuple[int, str]] = {}  # hash -> times, text

    def set(self, number: int, times: int, text: str) -> None:
        """This line has occurred `times` times by now."""
        self._lines[number] = (times, shortened(text))
        if len(self._lines) > 2 * self._most:
            self._lines = {number: (times, text) for number, times, text in self.top(self._most)}

    def add(self, number: int, times: int, text: str) -> None:
        """This line has occurred `times` times more."""
        self.set(number, self._lines.get(number, (0, ""))[0] + times, text)

    def top(self, most: int) -> list[tuple[int, int, str]]:
        """(hash, times, text), most repeated first."""
        lines = [(number, times, text) for number, (times, text) in self._lines.items()]
        return sorted(lines, key=lambda line: (-line[1], line[2], line[0]))[:most]


def shortened(text: str) -> str:
    """A line as it is told."""
    return text if len(text) <= LINE_SHOWN else f"{text[: LINE_SHOWN - 1]}…"


class Repetitions:
    """Repetitions of sentences or of documents over all chunks. Beyond `most` hashes the sample halves."""

    def __init__(self, most: int = MOST_HASHES):
        self._most = most
        self._bits = 0
        self._samples: list[np.ndarray] = []
        self._count = 0
        self._inside = 0

    def add(self, summary: Mapping[str, int], sample: np.ndarray, bits: int) -> None:
        """Take in a chunk: `Occurrences.summary`, and `.sample(bits)`, [H] uint64."""
        self._count += summary["count"]
        self._inside += summary["count"] - summary["different"]
        if bits > self._bits:
            self._thin(bits)
        self._samples.append(ending_in_zeros(np.asarray(sample, np.uint64), self._bits))
        while sum(map(len, self._samples)) > self._most:
            self._thin(self._bits + 1)

    def _thin(self, bits: int) -> None:
        self._bits = bits
        self._samples = [ending_in_zeros(hashes, bits) for hashes in self._samples]

    def result(self) -> JsonObject:
        """How many there are, how many of them are equal to an earlier one, and what share of hashes was compared."""
        together = np.sort(np.concatenate([np.zeros(0, np.uint64), *self._samples]))
        across = int((~_differs_from_the_one_before(together)).sum()) << self._bits
        repeated = min(self._inside + across, max(self._count - 1, 0))
        share = repeated / self._count if self._count else 0.0
        return {"count": self._count, "repeated": repeated, "repeated_share": share, "compared": 2.0**-self._bits}
