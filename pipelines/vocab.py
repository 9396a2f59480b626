# SPDX-License-Identifier: Apache-2.0
"""`bert-jax vocab`: text -> vocabulary, with a record of what it was made of and how it fits; or two compared."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bert_jax.pipelines import _bucket_options, _options

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path, any_text, on_bucket
from bert_jax.base.types import JsonObject

if TYPE_CHECKING:
    from bert_jax.text.documents import ReadingOptions
    from bert_jax.text.sample import EvenSample
    from bert_jax.text.sources import Source
    from bert_jax.tokenization import Tokenizer

RECORD_FILE = "vocab.json"
FORMAT = 3  # of the record
TOLERATED_UNKNOWN = 0.01  # share of [UNK] among the tokens of the vocabulary's own text
MEASURED_SENTENCES = 10_000  # statistics are measured on this many to twice as many, from all over the text
WORDPIECE_OPTIONS: dict[str, float] = {"min_frequency": 2, "limit_alphabet": 1_000}
SENTENCEPIECE_OPTIONS: dict[str, float] = {"character_coverage": 0.9995}
KEPT, STRIPPED, BY_SCRIPT = "kept", "stripped", "by script"  # what the setting `accents` can be
TRAINING_OPTIONS = ("algorithm", "size", "cased", "keep_accents", *WORDPIECE_OPTIONS, *SENTENCEPIECE_OPTIONS)
SAMPLE_CHARACTERS = {
    "wordpiece": 200_000_000,
    "bpe": 50_000_000,
    "unigram": 50_000_000,
}  # SentencePiece needs more memory


def main(argv: Sequence[str]) -> int | None:
    """Run the stage."""
    if argv[:1] == ["extend"]:
        return extend(argv[1:])
    options = _parse(argv)
    from bert_jax.text.documents import ReadingOptions
    from bert_jax.text.sample import read_sample
    from bert_jax.text.sources import parse_sources
    from bert_jax.tokenization.fit import measure

    options.sample_characters = options.sample_characters or SAMPLE_CHARACTERS[options.algorithm]
    sources = parse_sources(options.input)
    reading = ReadingOptions(options.json_field, options.lines, options.errors, options.text_format)
    if options.compare:
        return compare(options.compare, sources, reading, options.sample_characters)
    settings = _settings(options)
    if _is_done(options.output, settings, sources):
        print(f"{options.output} already has this vocabulary, of the same text and settings")
        return 0
    sample, text = read_sample(sources, reading, options.sample_characters)
    measured, share = sample.thinned(MEASURED_SENTENCES)
    scripts = _scripts_of_marks(measured)
    tokenizer = _train(settings, sample, scripts)
    record = {
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "settings": settings,
        **text,
        "statistics": {"sample": f"{len(measured)} sentences, {share}", **measure(tokenizer, measured)},
    }
    _save(options.output, tokenizer, record)
    _print_summary(options.output, tokenizer, record)
    _print_accents(settings, tokenizer, record["statistics"], scripts)
    return 0


def extend(argv: Sequence[str]) -> int:
    """`bert-jax vocab extend`: words for a checkpoint's vocabulary."""
    from bert_jax.pipelines import _vocab_extend

    return _vocab_extend.main(argv)


# ---- options -----------------------------------------------------------------------------------------------


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _options.StageParser(
        prog="bert-jax vocab",
        description="Makes a vocabulary of text, or compares two. Equal text and settings give an equal vocabulary."
        " `bert-jax vocab extend` adds words to a checkpoint's.",
    )
    default = " (default: %(default)s)"
    add = parser.add_argument
    add(
        "--input",
        type=any_text,
        nargs="+",
        required=True,
        metavar="TEXT",
        help="files, folders, globs or TensorFlow data sets, as for `bert-jax prepare`",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", type=any_path, metavar="PATH", help="folder to make, with the vocabulary in it")
    what.add_argument(
        "--compare",
        type=any_path,
        nargs=2,
        metavar=("A", "B"),
        help="two vocabularies, to be compared on --input instead",
    )
    algorithms = ("wordpiece", "unigram", "bpe")
    add("--algorithm", choices=algorithms, default="wordpiece", help="how words are cut into pieces" + default)
    add("--model", dest="algorithm", choices=algorithms, action=_options.Former, now="--algorithm")
    add("--size", type=_positive, default=30_522, metavar="N", help="entries at most" + default)
    add("--cased", action="store_true", help="keep capitals and accents (default: lower-case)")
    accents = (
        "lower-case, but keep accents and other marks, or strip them (default: stripped, but kept where a twentieth of the"
        " letters is of a script whose vowels or voicing are marks, such as Devanagari, Thai or kana; SentencePiece always"
        " keeps them)"
    )
    add("--keep-accents", action=argparse.BooleanOptionalAction, default=None, help=accents)
    add("--min-frequency", type=_positive, metavar="N", help="times that a WordPiece has to occur (default: 2)")
    alphabet = "WordPiece: characters that get entries, the commonest; for Chinese take 8000 or so (default: 1000)"
    add("--limit-alphabet", type=_positive, metavar="N", help=alphabet)
    coverage = "SentencePiece: share of the text's characters that get entries (default: 0.9995)"
    add("--character-coverage", type=float, metavar="P", help=coverage)
    sample = (
        "learn from at most so many characters of the text, an even sample of its sentences, which bounds the memory"
        " (default: 200 million; unigram and bpe 50 million)"
    )
    add("--sample-characters", type=_positive, metavar="N", help=sample)
    _options.add_reading_options(parser)
    _bucket_options.add_bucket_options(parser)
    options = parser.parse_args(argv)
    if options.keep_accents and (options.cased or options.algorithm != "wordpiece"):
        raise UserError("--keep-accents is for lower-cased WordPiece: cased ones and SentencePiece keep them always")
    for name in TRAINING_OPTIONS if options.compare else ():
        if getattr(options, name) != parser.get_default(name):
            raise UserError(f"--{name.replace('_', '-')} makes a vocabulary, and --compare makes none: leave it out")
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _settings(options: argparse.Namespace) -> JsonObject:
    """Return what the vocabulary is a function of, besides the text."""
    own, others = WORDPIECE_OPTIONS, SENTENCEPIECE_OPTIONS
    if options.algorithm != "wordpiece":
        own, others = others, own
    for name in others:
        if getattr(options, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} is not an option of --algorithm {options.algorithm}: leave it out"
            )
    if options.keep_accents is False and (options.cased or options.algorithm != "wordpiece"):
        given = "--cased" if options.cased else f"--algorithm {options.algorithm}"
        raise UserError(f"--no-keep-accents is not an option of {given}: leave it out")
    special = {name: getattr(options, name) if getattr(options, name) is not None else own[name] for name in own}
    if not 0 < special.get("character_coverage", 1) <= 1:
        raise UserError(f"--character-coverage {special['character_coverage']} must be above 0 and at most 1")
    return {
        "model": options.algorithm,
        "size": options.size,
        "lowercase": not options.cased,
        "accents": _accents(options),
        **special,
        "sample_characters": options.sample_characters,
        **{name: getattr(options, name) for name in ("lines", "json_field", "errors", "text_format")},
    }


def _accents(options: argparse.Namespace) -> str:
    if options.algorithm != "wordpiece" or options.cased or options.keep_accents:
        return KEPT
    return BY_SCRIPT if options.keep_accents is None else STRIPPED


# ---- making a vocabulary -----------------------------------------------------------------------------------


def _scripts_of_marks(sentences: Sequence[str]) -> tuple[str, ...]:
    """The scripts of the text whose marks are parts of words."""
    from bert_jax.text.mark_counts import scripts_of_marks
    from bert_jax.text.scripts import CLASSES, count_classes

    counts = count_classes("".join(sentences)).tolist()
    return scripts_of_marks(dict(zip(CLASSES, counts, strict=True)))


def _train(settings: JsonObject, sample: "EvenSample", scripts: Sequence[str]) -> "Tokenizer":
    from bert_jax.tokenization import train_sentencepiece, train_wordpiece

    texts, size, lowercase = _Shown(sample.texts), settings["size"], settings["lowercase"]
    if settings["model"] == "wordpiece":
        special = {name: settings[name] for name in WORDPIECE_OPTIONS}
        strip = settings["accents"] == STRIPPED or (settings["accents"] == BY_SCRIPT and not scripts)
        return train_wordpiece(texts, size, lowercase, strip, **special)
    return train_sentencepiece(texts, size, settings["model"], lowercase, settings["character_coverage"])


class _Shown:
    """Texts that may be gone through several times, each time under a progress bar."""

    def __init__(self, texts: Sequence[str]):
        self.texts = texts

    def __iter__(self) -> Iterator[str]:
        from tqdm import tqdm

        yield from tqdm(self.texts, desc="learning from", unit=" sentences", disable=None, file=sys.stderr)


# ---- what is there already ---------------------------------------------------------------------------------


def _is_done(output: Path, settings: JsonObject, sources: "Sequence[Source]") -> bool:
    """Whether `output` has this very vocabulary. Refuses a folder that holds anything else."""
    from bert_jax.base.bucket_output import is_free
    from bert_jax.base.files import read_json, reading
    from bert_jax.preparation.request import require_same_text
    from bert_jax.text.sample import described
    from bert_jax.tokenization import load_tokenizer

    if on_bucket(output) and is_free(output):
        return False
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    remedy = f"remove {output} or choose another --output"
    if not (output / RECORD_FILE).exists():
        raise UserError(f"{output} is there and was not made by bert-jax vocab: {remedy}")
    record = read_json(output / RECORD_FILE, remedy)
    with reading(output / RECORD_FILE, remedy):
        recorded = {"text_format": "auto"} | record["settings"]  # which earlier records do not name
        for name, value in settings.items():
            if recorded.get(name) != value:
                raise UserError(f"{output} was made with {name}={recorded.get(name)}, not {value}: {remedy}")
        require_same_text(output, record, {"sources": described(sources)}, sources, remedy)
    if load_tokenizer(output).fingerprint != record.get("tokenizer"):
        raise UserError(f"{output} was edited since it was made: {remedy}")
    return True


def _save(output: Path, tokenizer: "Tokenizer", record: JsonObject) -> None:
    """The whole folder appears at once; on a bucket, where none does, the record comes last."""
    from bert_jax.base.bucket_output import staged
    from bert_jax.base.files import new_folder, write_json

    if on_bucket(output):
        with staged(output, "vocab", RECORD_FILE) as folder:
            tokenizer.save(new_folder(folder))
            write_json(folder / RECORD_FILE, record)
        return
    final = output.resolve()
    partial = new_folder(final.with_name(f".{final.name}.partial"))
    tokenizer.save(partial)
    write_json(partial / RECORD_FILE, record)
    os.replace(partial, final)


def _print_summary(output: Path, tokenizer: "Tokenizer", record: JsonObject) -> None:
    statistics, settings, learned = record["statistics"], record["settings"], record["learned_from"]
    files = [file for source in record["sources"] for file in source["files"]]
    case = "lower-cased" if tokenizer.lowercase else "cased"
    accents = "accents stripped" if tokenizer.strip_accents else "accents kept"
    print(f"{output}: {tokenizer.vocab_size} entries, {settings['model']}, {case}, {accents}")
    if tokenizer.vocab_size < settings["size"]:
        why = f"no other pieces occur {settings['min_frequency']} times" if "min_frequency" in settings else "no more"
        print(
            f"  note: the text gives {tokenizer.vocab_size} entries, not {settings['size']}: {why}; give more text for"
            " more"
        )
    size = sum(file["bytes"] for file in files)
    print(f"  text: {len(files)} files, {size / 1e6:.1f} MB, {record['sentences']} sentences")
    if learned["one_of_every"] > 1:
        print(
            f"  learned from {learned['sentences']} of them, 1 of every {learned['one_of_every']}:"
            f" {learned['characters']} characters (--sample-characters)"
        )
    for name, count in record["reading"].items():
        if count:
            print(f"  {name.replace('_', ' ')}: {count}")
    print(f"  measured on {statistics['sample']} ({statistics['words']} words):")
    print(f"    {statistics['pieces_per_word']:.3f} pieces a word")
    print(f"    {statistics['whole_word_share']:.1%} of the words are entries")
    print(f"    {statistics['coverage']:.2%} of the words are covered: not [UNK], and with all their marks")
    print(f"    {statistics['unknown_rate']:.3%} of the tokens are [UNK]")
    if statistics["unknown_rate"] > TOLERATED_UNKNOWN:
        option = "limit_alphabet" if "limit_alphabet" in settings else "character_coverage"
        print(
            f"warning: {statistics['unknown_rate']:.1%} of the text's own tokens are [UNK]: characters have no entry; raise"
            f" --{option.replace('_', '-')}, which is {settings[option]}",
            file=sys.stderr,
        )


def _print_accents(
    settings: JsonObject, tokenizer: "Tokenizer", statistics: JsonObject, scripts: Sequence[str]
) -> None:
    """Print what stripping takes, or why nothing is stripped."""
    from bert_jax.base.marks import MarkLoss
    from bert_jax.text.mark_counts import describe_loss

    if not tokenizer.strip_accents:
        if settings["accents"] == BY_SCRIPT:
            told, _ = describe_loss(None, scripts)
            print(f"  accents and other marks are kept: {told} (--no-keep-accents strips them)")
        return
    told, too_much = describe_loss(MarkLoss(**statistics["marks"]), scripts)
    if too_much:
        print(f"warning: accents are stripped: {told}: keep them with --keep-accents", file=sys.stderr)
    else:
        print(f"    {told}")


# ---- two vocabularies --------------------------------------------------------------------------------------

ROWS = {
    "entries": ("entries", "{:,}"),
    "unreachable_entries": ("entries never met", "{:,}"),
    "tokens": ("tokens", "{:,}"),
    "tokens_per_mb": ("tokens a MB", "{:,.0f}"),
    "pieces_per_word": ("pieces a word", "{:.3f}"),
    "whole_word_share": ("words that are entries", "{:.1%}"),
    "coverage": ("words that are covered", "{:.2%}"),
    "unknown_rate": ("[UNK] of the tokens", "{:.3%}"),
}


def compare(paths: Sequence[Path], sources: "Sequence[Source]", reading: "ReadingOptions", most_characters: int) -> int:
    """Print two vocabularies side by side, as they fit the text."""
    from bert_jax.text.sample import read_sample
    from bert_jax.tokenization import load_tokenizer
    from bert_jax.tokenization.fit import measure, shared_entries, split_worse

    one, other = (load_tokenizer(path) for path in paths)
    sample, _ = read_sample(sources, reading, most_characters)
    sentences, share = sample.thinned(MEASURED_SENTENCES)
    first, second = measure(one, sentences), measure(other, sentences)
    print(f"measured on {len(sentences)} sentences, {share} ({first['words']} words)")
    for letter, path, tokenizer in (("A", paths[0], one), ("B", paths[1], other)):
        print(f"{letter}: {path}, {tokenizer.kind}, {'lower-cased' if tokenizer.lowercase else 'cased'}")
    shared = shared_entries(one, other)
    rows = [(title, [form.format(values[key]) for values in (first, second)]) for key, (title, form) in ROWS.items()]
    rows.append(("entries that both have", [f"{shared:,} = {shared / item.vocab_size:.0%}" for item in (one, other)]))
    for title, (left, right) in [("", ("A", "B")), *rows]:
        print(f"  {title:26}{left:>15}{right:>15}")
    for letter, worse, better in (("A", one, other), ("B", other, one)):
        print(f"words that {letter} splits worse, those that cost most:")
        found = split_worse(worse, better, sentences)
        for word, pieces, fewer in found:
            print(f"  {word}: {' '.join(pieces)}, where the other has {' '.join(fewer)}")
        if not found:
            print("  none")
    return 0
