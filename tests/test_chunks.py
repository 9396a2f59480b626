# SPDX-License-Identifier: Apache-2.0
"""Cutting documents into chunks, and what a chunk's fingerprint tells apart."""

import dataclasses
import random

import pytest

from bert_jax.feed.tokenised import cut, Text
from bert_jax.preparation.chunks import Chunk
from bert_jax.text.documents import RawDocument


def documents(*sizes: int) -> list[RawDocument]:
    """Documents of so many bytes."""
    return [RawDocument(["x" * size], False) for size in sizes]


@pytest.mark.parametrize(
    ("sizes", "chunks"),
    [
        ([], []),
        ([3], [[3]]),
        ([10], [[10]]),
        ([4, 4, 4, 4, 4, 4], [[4, 4, 4], [4, 4, 4]]),  # a chunk is full with the document that reaches its size
        ([10, 2], [[10, 2]]),  # a rest of less than a quarter joins the chunk before
        ([10, 3], [[10], [3]]),
        ([10, 10, 1, 1], [[10], [10, 1, 1]]),
        ([1, 50, 1, 9], [[1, 50], [1, 9]]),
    ],
)
def test_chunks_are_cut_between_documents(sizes, chunks):
    assert [[len(text.content) for text in chunk] for chunk in cut(documents(*sizes), 10)] == chunks


def test_no_document_is_lost_or_moved():
    draw = random.Random(0)
    for _ in range(50):
        given = documents(*(draw.randint(1, 30) for _ in range(draw.randint(1, 40))))
        chunks = list(cut(given, 25))
        assert [text for chunk in chunks for text in chunk] == [Text(b"x" * len(d.lines[0]), False) for d in given]
        assert all(sum(len(text.content) for text in chunk) >= 25 for chunk in chunks[:-1])


def test_sizes_are_of_utf8():
    """Bytes and not characters bound the memory: 。 has three."""
    [first, second] = cut([RawDocument(["。。"], False), RawDocument(["。。"], True)], 6)
    assert first == [Text("。。".encode(), False)]
    assert second == [Text("。。".encode(), True)]


def test_a_fingerprint_tells_documents_and_how_they_were_taken_apart():
    chunk = Chunk(0, 0, 0, 0, 100, [Text(b"a\nb", False), Text(b"c", False)])
    others = [
        {"documents": [Text(b"a", False), Text(b"b\nc", False)]},  # another border
        {"documents": [Text(b"a\nb", True), Text(b"c", False)]},  # lines are paragraphs
        {"documents": [Text(b"a\nb", False)]},
        {"repetition": 1},
        {"source": 1},
    ]
    prints = {dataclasses.replace(chunk, **other).fingerprint() for other in [{}, *others]}
    assert len(prints) == 6
    assert dataclasses.replace(chunk, stored_bytes=7, part=3).fingerprint() == chunk.fingerprint()
