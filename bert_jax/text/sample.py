# SPDX-License-Identifier: Apache-2.0
"""One pass over text of any size -> an even sample of its sentences, and a record of what was read."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from bert_jax.base.types import JsonObject
from bert_jax.text.documents import ReadingCounts, ReadingOptions, sentences_of
from bert_jax.text.sources import describe_file, plan_parts, read_part, Source

_ONE_PART = 2**62  # bytes


class EvenSample:
    """Keeps 1 of every `stride` texts, from the first on. The stride doubles whenever the texts kept get too long.

    Args:
      most_characters: bound on the characters of all texts kept; at least one text is kept.
    """

    def __init__(self, most_characters: int):
        self.texts: list[str] = []
        self.count = 0  # texts seen
        self.stride = 1
        self.characters = 0  # of the texts kept
        self._most_characters = most_characters

    def add(self, text: str) -> None:
        """Take the next text of the stream into account."""
        if self.count % self.stride == 0:
            self.texts.append(text)
            self.characters += len(text)
        self.count += 1
        while self.characters > self._most_characters and len(self.texts) > 1:
            del self.texts[1::2]
            self.characters = sum(map(len, self.texts))
            self.stride *= 2

    def thinned(self, texts: int) -> tuple[list[str], str]:
        """Less than twice `texts` of the texts, evenly chosen, and in words which share of all that they are."""
        step = 1
        while len(self.texts) > (2 * texts - 1) * step:
            step *= 2
        stride = self.stride * step
        return self.texts[::step], "all of them" if stride == 1 else f"1 of every {stride}"


def read_sample(
    sources: Sequence[Source], reading: ReadingOptions, most_characters: int
) -> tuple[EvenSample, JsonObject]:
    """An even sample of the sentences, with sources as often as their weights say.

    Returns:
      The sample, and for a record the sources as in a data passport, what was left out or replaced in reading, and
      the numbers of sentences. Memory is bounded by `most_characters`.
    """
    sample, counts = EvenSample(most_characters), ReadingCounts()
    digests: dict[Path, str] = {}
    parts = plan_parts(sources, _ONE_PART)
    total = sum(part.bytes for part in parts)
    with tqdm(total=total, unit="B", unit_scale=True, disable=None, desc="reading", file=sys.stderr) as bar:
        for part in parts:
            for document in read_part(part, sources, reading, counts, bar.update, digests.__setitem__):
                for sentence in sentences_of(document):
                    sample.add(sentence)
    return sample, {
        "sources": described(sources, digests),
        "reading": dataclasses.asdict(counts),
        "sentences": sample.count,
        "learned_from": {
            "sentences": len(sample.texts),
            "one_of_every": sample.stride,
            "characters": sample.characters,
        },
    }


def described(sources: Sequence[Source], digests: Mapping[Path, str] | None = None) -> list[JsonObject]:
    """The sources as a data passport has them; with the sha256 of each file where `digests` gives them."""

    def entry(source: Source, file: Path) -> JsonObject:
        return describe_file(source, file) | ({"sha256": digests[file]} if digests else {})

    return [
        {"source": source.name, "weight": source.weight, "files": [entry(source, file) for file in source.files]}
        for source in sources
    ]
