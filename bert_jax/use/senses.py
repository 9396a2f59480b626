# SPDX-License-Identifier: Apache-2.0
"""One word in many lines: how alike its vectors are within a sense and between senses, layer by layer.

A static embedding (word2vec, GloVe, the table of word pieces here) has one vector for a word, whatever is meant by it; a layer
has one for each line (Ethayarajh, 1909.00512). Cosines of different layers are on different scales, because the vectors of
deep layers point in like directions whatever they are of: so cosines with lines of other words stand beside them.

Shapes: N lines, K layers (the embeddings' output is the first), D features.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_jax.base.errors import listed, UserError
from bert_jax.base.files import write_json
from bert_jax.base.output_lock import LOCK_FILE, locked
from bert_jax.base.types import JsonObject
from bert_jax.model.forward import require_finite
from bert_jax.pages.senses import senses_page
from bert_jax.pages.template import write
from bert_jax.runs.names import REPORT_FILE
from bert_jax.text.streams import read_lines
from bert_jax.use.model import Pretrained, Row, row_of, SHOWN

RECORD = "senses.json"
STATIC = "table"  # the name of the vectors of the table of word pieces among layers
_MARK = re.compile(r"\*([^*]+)\*")
_HOW = "mark one word in each line with *, and put its sense behind a tab: The *bank* of the river<TAB>river"


class MarkedLine(NamedTuple):
    """A line with one marked word."""

    text: str  # without the marks
    begin: int  # the word is text[begin:end]
    end: int
    sense: str | None
    place: str  # file and line, for messages

    @property
    def word(self) -> str:
        """The marked word, in small letters."""
        return self.text[self.begin : self.end].lower()


def marked_line(line: str, place: str) -> MarkedLine:
    """Take a line apart: a text with one word between two *, and perhaps a tab and the word's sense.

    Raises:
      UserError: no mark, more than one, or an empty sense.
    """
    text, tab, sense = line.partition("\t")
    found = list(_MARK.finditer(text))
    if len(found) != 1 or text.count("*") != 2:
        count = "no word" if not text.count("*") else f"{text.count('*')} signs *, which are no two around one word,"
        raise UserError(f"{place}: {text[:SHOWN]!r} has {count} marked: {_HOW}")
    if tab and not sense.strip():
        raise UserError(f"{place}: {text[:SHOWN]!r} has an empty sense behind its tab: name it, or remove the tab")
    word = found[0]
    begin = word.start()
    plain = text[:begin] + word[1] + text[word.end() :]
    return MarkedLine(plain, begin, begin + len(word[1]), sense.strip() or None, place)


def read_marked(path: Path) -> list[MarkedLine]:
    """Read lines with marked words; empty lines are passed over.

    Raises:
      UserError: as `marked_line`; no line at all; some lines with a sense and some without; a word with one sense only.
    """
    lines = [
        marked_line(line.rstrip("\r"), f"{path}, line {number}") for number, line in read_lines(path) if line.strip()
    ]
    if not lines:
        raise UserError(f"{path} has no lines: {_HOW}")
    with_sense = sum(line.sense is not None for line in lines)
    if 0 < with_sense < len(lines):
        first = next(line for line in lines if line.sense is None)
        raise UserError(
            f"{first.place}: has no sense, and {with_sense} other lines have one: give all lines one, or none"
        )
    for word, own in by_word(lines).items():
        senses = {line.sense for line in own}
        if with_sense and len(senses) == 1:
            raise UserError(
                f"{path}: all {len(own)} lines with *{word}* have the sense {own[0].sense}: give lines with another one, or"
                " none with a sense"
            )
        if len(own) < 2:
            raise UserError(f"{own[0].place}: is the only line with *{word}*: give two or more, to compare them")
    return lines


def by_word(lines: Iterable[MarkedLine]) -> dict[str, list[MarkedLine]]:
    """The lines of each word, in their order."""
    found: dict[str, list[MarkedLine]] = {}
    for line in lines:
        found.setdefault(line.word, []).append(line)
    return found


def example_file(name: str) -> Path:
    """The file of lines in a language, english or chinese, that comes with the program."""
    return Path(__file__).parent / "examples" / f"senses-{name}.tsv"


# ---- vectors --------------------------------------------------------------------------------------------------------


def word_vectors(model: Pretrained, lines: Sequence[MarkedLine]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the marked words, the mean over their pieces: from the table [N, E], and from every layer [K, N, D].

    Raises:
      UserError: a word that the vocabulary does not know, or a line longer than the model has positions; as `require_finite`.
    """
    rows, places = zip(*(_row(model, line) for line in lines), strict=True)
    table = np.asarray(model.params["encoder"]["embeddings"]["word"])
    static = np.stack([table[np.asarray(row[0])[own]].mean(0) for row, own in zip(rows, places, strict=True)])
    layers = model.description.model.num_hidden_layers + 1
    vectors = np.empty((layers, len(lines), model.description.model.hidden_size), np.float32)
    for batch in model.batches(rows):
        found = model(batch.fields, all_layers=True).encoder.all_layers
        values = np.asarray(found, np.float32)  # [K, B, S, D]
        for row, number in enumerate(batch.numbers):
            vectors[:, number] = values[:, row, places[number]].mean(1)
    require_finite(vectors, model.params)
    return static, vectors


def _row(model: Pretrained, line: MarkedLine) -> tuple[Row, list[int]]:
    """Return a line as a row, and where the pieces of its word stand in it."""
    tokenizer, longest = model.tokenizer, model.description.model.max_position_embeddings
    encoding = tokenizer.encode(line.text)
    inside = [at for at, (begin, end) in enumerate(encoding.offsets) if begin < line.end and end > line.begin]
    if not inside or any(encoding.ids[at] == tokenizer.unk_id for at in inside):
        raise UserError(
            f"{line.place}: the vocabulary of {model.origin.path} has no pieces for {line.text[line.begin : line.end]!r}: mark"
            " a word of its language"
        )
    row = row_of(tokenizer, [encoding.ids])
    if len(row[0]) > longest:
        raise UserError(
            f"{line.place}: is {len(row[0])} tokens long, and the model has {longest} positions: shorten it"
        )
    return row, [at + 1 for at in inside]


# ---- cosines --------------------------------------------------------------------------------------------------------


class Likeness(NamedTuple):
    """Mean cosines of one word's lines; None where there is no such pair."""

    within: float | None  # pairs of one sense; of lines without a sense all pairs
    between: float | None  # pairs of different senses
    others: float | None  # with lines of other words
    nearest: int | None  # lines whose nearest line of the word has their sense


def cosines(vectors: np.ndarray) -> np.ndarray:
    """[N, D] -> [N, N]."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T


def likeness(alike: np.ndarray, words: Sequence[str], senses: Sequence[str | None], word: str) -> Likeness:
    """Compare the lines of a word with each other and with those of other words.

    Args:
      alike: [N, N] cosines of all lines.
      words, senses: of each of the N lines.
      word: whose lines are compared.
    """
    own = np.array([one == word for one in words])
    inside = alike[np.ix_(own, own)]
    names = np.array([str(sense) for sense, mine in zip(senses, own, strict=True) if mine])
    same = names[:, None] == names[None, :]
    pairs = np.triu(np.ones(inside.shape, bool), 1)
    has_senses = senses[int(own.argmax())] is not None
    nearest = None
    if has_senses:
        apart = np.where(np.eye(len(inside), dtype=bool), -np.inf, inside)
        nearest = int((names[apart.argmax(1)] == names).sum())
    return Likeness(
        _mean(inside[pairs & same]), _mean(inside[pairs & ~same]), _mean(alike[np.ix_(own, ~own)].ravel()), nearest
    )


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def principal_components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of vectors [N, D] on their first two principal components, [N, 2], and the shares of variance, [2].

    The feature that weighs most in a component counts as positive, so that the picture is always the same.
    """
    centred = vectors - vectors.mean(0)
    _, sizes, axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    axes = np.pad(axes, ((0, max(0, 2 - len(axes))), (0, 0)))[:2]  # of two vectors there is one component
    signs = np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])
    variances = np.pad(sizes**2, (0, max(0, 2 - len(sizes))))
    return centred @ (axes * signs[:, None]).T, variances[:2] / max(variances.sum(), 1e-12)


# ---- the record -----------------------------------------------------------------------------------------------------


def senses(model: Pretrained, lines: Sequence[MarkedLine], output: Path) -> JsonObject:
    """Compare marked words layer by layer, and write senses.json and a page into a new folder; returns the record.

    Raises:
      UserError: as `word_vectors`; `output` is there already.
    """
    with locked(output, "senses"):
        if any(file.name != LOCK_FILE for file in output.iterdir()):
            raise UserError(f"{output} is there already: choose another --output")
        static, vectors = word_vectors(model, lines)
        words, named = [line.word for line in lines], [line.sense for line in lines]
        every = [(STATIC, cosines(static)), *((str(layer), cosines(own)) for layer, own in enumerate(vectors))]
        record: JsonObject = {
            "model": str(model.origin.path),
            "step": model.origin.step,
            "layers": model.description.model.num_hidden_layers,
            "words": [_word_record(word, own, every, vectors, (words, named)) for word, own in by_word(lines).items()],
        }
        write_json(output / RECORD, record)
        write(senses_page(record), output / REPORT_FILE)
    return record


def _word_record(
    word: str,
    own: Sequence[MarkedLine],
    every: Sequence[tuple[str, np.ndarray]],
    vectors: np.ndarray,
    names: tuple[Sequence[str], Sequence[str | None]],
) -> JsonObject:
    words, named = names
    table = [{"layer": layer, **likeness(alike, words, named, word)._asdict()} for layer, alike in every]
    table[0]["nearest"] = None  # all lines are as near to each other: they have one vector
    best = best_layer(table)
    mine = np.flatnonzero(np.array(words) == word)
    points, shares = principal_components(vectors[best][mine])
    return {
        "word": word,
        "senses": list(dict.fromkeys(line.sense for line in own if line.sense is not None)),
        "lines": [{"text": line.text, "begin": line.begin, "end": line.end, "sense": line.sense} for line in own],
        "by_layer": table,
        "best_layer": best,
        "points": points.tolist(),
        "shares": shares.tolist(),
    }


def best_layer(table: Sequence[JsonObject]) -> int:
    """The layer where most lines are nearest to one of their sense, of equals that with the widest gap; else the last."""
    scored = [
        (row["nearest"], (row["within"] or 0) - (row["between"] or 0), int(row["layer"]))
        for row in table
        if row["layer"] != STATIC and row["nearest"] is not None
    ]
    return max(scored)[2] if scored else len(table) - 2


def described(record: JsonObject) -> str:
    """The record in a line for each word."""
    lines = []
    for word in record["words"]:
        rows = {row["layer"]: row for row in word["by_layer"]}
        best = rows[str(word["best_layer"])]
        count = len(word["lines"])
        if best["nearest"] is None:
            lines.append(f"{word['word']}: {count} lines, layer {best['layer']}: mean cosine {best['within']:.3f}")
            continue
        shown = ", ".join(
            f"{name} {'none' if best[name] is None else format(best[name], '.3f')}" for name in ("within", "between")
        )
        lines.append(
            f"{word['word']} ({listed(word['senses'])}): layer {best['layer']}: cosine {shown}; nearest line of the same"
            f" sense for {best['nearest']} of {count}"
        )
    return "\n".join(lines)
