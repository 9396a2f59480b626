# SPDX-License-Identifier: Apache-2.0
"""SQuAD-shaped files that were made up for tests, one that google-research/bert worked on, and where real ones are."""

import json
from pathlib import Path
from typing import Any

from tokenization_samples import VOCABULARY

from bert_jax.tokenization import WordPieceTokenizer


def squad(*qas: Any, context: str = "the cat sat on the mat.", version: str = "1.1") -> dict[str, Any]:
    """A file of one paragraph."""
    return {"version": version, "data": [{"title": "made up", "paragraphs": [{"context": context, "qas": list(qas)}]}]}


def entry(name: str = "q", *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    """A question of such a file."""
    listed = [{"text": text, "answer_start": begin} for text, begin in answers]
    return {"id": name, "question": "the cat", "answers": listed} | more


def uncased() -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCABULARY, lowercase=True)


def google() -> dict[str, Any]:
    """What run_squad.py made of a made-up file: rows, and the answers to made-up scores, for both versions."""
    path = Path(__file__).parent / "golden" / "questions_google.json"
    return json.loads(path.read_text(encoding="utf-8"))
