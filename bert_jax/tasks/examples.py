# SPDX-License-Identifier: Apache-2.0
"""Examples as the readers of task files give them, before any tokenizer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextExample:
    """A text or a pair of them, to be classified or rated."""

    name: str  # its id in the file, or its number from 0
    texts: tuple[str, ...]  # one or two
    label: (
        int | float | tuple[int, ...] | None
    )  # number of its class or classes, or its rating; None: the file has none
    place: str  # file and line, for messages
    foreign: str | None = None  # its label where that is none of the classes; `label` is then their number


@dataclass(frozen=True)
class ChoiceExample:
    """Several continuations, one of which is right."""

    name: str
    pairs: tuple[tuple[str, str], ...]  # context and continuation of each choice
    label: int | None  # number of the right one
    place: str


@dataclass(frozen=True)
class Sentence:
    """Words, each with a tag."""

    name: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None
    document: int  # sentences of one document are neighbours
    place: str


@dataclass(frozen=True)
class Answer:
    """A piece of a context."""

    text: str
    begin: int  # in characters of the context


@dataclass(frozen=True)
class Question:
    """A question about a context."""

    name: str  # its id
    question: str
    context: str
    answers: tuple[Answer, ...]  # none: it has no answer, or the file does not tell
    impossible: bool | None  # None: the file does not tell (version 1.1, where all have an answer)
    place: str
