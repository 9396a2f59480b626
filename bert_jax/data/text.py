# SPDX-License-Identifier: Apache-2.0
"""The former names of `sources` and `documents`, for pipelines/vocab.py until it takes the new ones."""

from collections.abc import Sequence
from pathlib import Path

from bert_jax.data.documents import read_documents
from bert_jax.data.sources import parse_sources

__all__ = ["input_files", "read_documents"]


def input_files(paths: Sequence[Path]) -> list[Path]:
    """The files that `paths` stand for."""
    return [file for source in parse_sources(paths) for file in source.files]
