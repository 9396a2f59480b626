# SPDX-License-Identifier: Apache-2.0
"""`bert-jax vocab`: text -> WordPiece vocabulary, with a record of what it was made of and how it fits."""

import argparse
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TYPE_CHECKING

from bert_jax.errors import UserError

if TYPE_CHECKING:
    from bert_jax.tokenization import Tokenizer

RECORD_FILE = "vocab.json"
SAMPLE_SENTENCES = 10_000  # statistics are measured on this many to twice as many, from all over the text


def main(argv: Sequence[str]) -> int | None:
    """Run the stage."""
    options = _parse(argv)
    from bert_jax.data.text import input_files
    from bert_jax.tokenization import train_wordpiece

    files = input_files(options.input)
    settings: dict[str, Any] = {
        "size": options.size,
        "lowercase": not options.cased,
        "strip_accents": not (options.cased or options.keep_accents),
        "min_frequency": options.min_frequency,
        "limit_alphabet": options.limit_alphabet,
    }
    inputs = [_describe(file) for file in files]
    output: Path = options.output
    if _is_done(output, settings, inputs):
        print(f"{output} already has this vocabulary, of the same text and settings")
        return 0
    with _Sentences(files) as sentences:
        tokenizer = train_wordpiece(
            sentences,
            options.size,
            settings["lowercase"],
            settings["strip_accents"],
            options.min_frequency,
            options.limit_alphabet,
        )
    statistics = measure(tokenizer, sentences.sample)
    record = {
        "format": 1,
        "tokenizer": tokenizer.fingerprint,
        "settings": settings,
        "inputs": inputs,
        "sentences": sentences.count,
        "statistics": {
            "sample": f"{len(sentences.sample)} sentences, {sentences.share}",
            **statistics,
        },
    }
    _save(output, tokenizer, record)
    _print_summary(output, options.size, tokenizer, record)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bert-jax vocab",
        description="Makes a WordPiece vocabulary of text. Equal text and settings give an equal vocabulary.",
    )
    parser.add_argument(
        "--input",
        nargs="+",
        type=Path,
        required=True,
        metavar="PATH",
        help="text files, or folders of them: one sentence a line, or WikiExtractor's output",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder to make, with vocab.txt in it"
    )
    parser.add_argument("--size", type=_positive, default=30_522, help="entries at most (default %(default)s)")
    parser.add_argument("--cased", action="store_true", help="keep capitals and accents (default: lower-case)")
    parser.add_argument("--keep-accents", action="store_true", help="lower-case, but keep accents")
    parser.add_argument(
        "--min-frequency",
        type=_positive,
        default=2,
        metavar="N",
        help="times that a piece has to occur (default %(default)s)",
    )
    parser.add_argument(
        "--limit-alphabet",
        type=_positive,
        default=1_000,
        metavar="N",
        help="characters that get entries, the commonest; for Chinese take 8000 or so (default %(default)s)",
    )
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


class _Sentences:
    """The sentences of `files`, to be gone through twice under one progress bar; keeps an even sample."""

    def __init__(self, files: Sequence[Path]):
        from tqdm import tqdm

        self.files = files
        self.passes = 0
        size = sum(file.stat().st_size for file in files)
        self.bar = tqdm(total=2 * size, unit="B", unit_scale=True, disable=None, file=sys.stderr)

    def __enter__(self) -> "_Sentences":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __iter__(self) -> Iterator[str]:
        from bert_jax.data.text import read_documents

        self.count, self.stride = 0, 1
        self.sample: list[str] = []
        self.passes += 1
        self.bar.set_description("counting characters" if self.passes == 1 else "counting words")
        for file in self.files:
            end = self.bar.n + file.stat().st_size
            for document in read_documents(file):
                self.bar.update(min(sum(len(sentence.encode()) + 1 for sentence in document), end - self.bar.n))
                for sentence in document:
                    self._keep(sentence)
                    yield sentence
            self.bar.update(end - self.bar.n)
        if self.passes > 1:
            self.bar.set_description("learning pieces")

    @property
    def share(self) -> str:
        """Which of the sentences the sample has."""
        return "all of them" if self.stride == 1 else f"1 of every {self.stride}"

    def _keep(self, sentence: str) -> None:
        if self.count % self.stride == 0:
            self.sample.append(sentence)
        if len(self.sample) == 2 * SAMPLE_SENTENCES:
            del self.sample[1::2]
            self.stride *= 2
        self.count += 1


def measure(tokenizer: "Tokenizer", sentences: Sequence[str]) -> dict[str, Any]:
    """How the vocabulary fits `sentences`.

    pieces_per_word; whole_word_share: words that are an entry; coverage: words that are not [UNK];
    unknown_rate: [UNK] among the tokens. Words are what white space and punctuation separate.
    """
    continues = [len(entry) > 2 and entry.startswith("##") for entry in tokenizer.vocabulary]
    tokens = words = unknown = whole = 0
    for ids in tokenizer.encode_batch(sentences):
        starts = [not continues[index] for index in ids]
        tokens += len(ids)
        words += sum(starts)
        unknown += ids.count(tokenizer.unk_id)
        whole += sum(begins and ends for begins, ends in itertools.pairwise([*starts, True]))
    whole -= unknown
    return {
        "entries": tokenizer.vocab_size,
        "words": words,
        "tokens": tokens,
        "pieces_per_word": tokens / max(words, 1),
        "whole_word_share": whole / max(words, 1),
        "coverage": 1 - unknown / max(words, 1),
        "unknown_rate": unknown / max(tokens, 1),
    }


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}


def _is_done(output: Path, settings: dict[str, Any], inputs: list[dict[str, Any]]) -> bool:
    """Whether `output` has this very vocabulary. Refuses a folder that holds anything else."""
    from bert_jax.tokenization import load_tokenizer

    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    remedy = f"remove {output} or choose another --output"
    if not (output / RECORD_FILE).exists():
        raise UserError(f"{output} is there and was not made by bert-jax vocab: {remedy}")
    try:
        record = json.loads((output / RECORD_FILE).read_text(encoding="utf-8"))
        recorded_settings, recorded_inputs = record["settings"], record["inputs"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{output / RECORD_FILE} cannot be read: {remedy}") from None
    for name, value in settings.items():
        if recorded_settings.get(name) != value:
            raise UserError(f"{output} was made with {name}={recorded_settings.get(name)}, not {value}: {remedy}")
    if recorded_inputs != inputs:
        raise UserError(f"{output} was made of other text ({_difference(recorded_inputs, inputs)}): {remedy}")
    if load_tokenizer(output).fingerprint != record.get("tokenizer"):
        raise UserError(f"{output} was edited since it was made: {remedy}")
    return True


def _difference(recorded: list[dict[str, Any]], inputs: list[dict[str, Any]]) -> str:
    if len(recorded) != len(inputs):
        return f"{len(recorded)} files, not {len(inputs)}"
    old, new = next((old, new) for old, new in zip(recorded, inputs, strict=True) if old != new)
    if old["file"] != new["file"]:
        return f"{old['file']}, not {new['file']}"
    before, after = (f"{file['bytes']} bytes, sha256 {file['sha256'][:12]}" for file in (old, new))
    return f"{new['file']} had {before}, now {after}"


def _save(output: Path, tokenizer: "Tokenizer", record: dict[str, Any]) -> None:
    """The whole folder appears at once."""
    final = output.resolve()
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer.save(partial)
    (partial / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, final)


def _print_summary(output: Path, asked: int, tokenizer: "Tokenizer", record: dict[str, Any]) -> None:
    statistics = record["statistics"]
    case = "lower-cased" if tokenizer.lowercase else "cased"
    accents = "accents stripped" if tokenizer.strip_accents else "accents kept"
    size = sum(file["bytes"] for file in record["inputs"])
    print(f"{output}: {tokenizer.vocab_size} entries, {case}, {accents}")
    if tokenizer.vocab_size < asked:
        print(
            f"  note: the text gives {tokenizer.vocab_size} entries, not {asked}: no other pieces occur"
            f" {record['settings']['min_frequency']} times; give more text for more"
        )
    print(f"  text: {len(record['inputs'])} files, {size / 1e6:.1f} MB, {record['sentences']} sentences")
    print(f"  measured on {statistics['sample']} ({statistics['words']} words):")
    print(f"    {statistics['pieces_per_word']:.3f} pieces a word")
    print(f"    {statistics['whole_word_share']:.1%} of the words are entries")
    print(f"    {statistics['coverage']:.2%} of the words are covered: not [UNK]")
    print(f"    {statistics['unknown_rate']:.3%} of the tokens are [UNK]")
