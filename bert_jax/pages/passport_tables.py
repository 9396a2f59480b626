# SPDX-License-Identifier: Apache-2.0
"""The parts of the passport's page: facts, key figures, tables, bars and charts."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, UTC

from bert_jax.checks.findings import Passport
from bert_jax.config.objective import PAIR_WORDS
from bert_jax.pages.page import Bar, Bars, beside, Card, Panel, Paragraph, Part, Table, Tile
from bert_jax.pages.passport_charts import BIN, example_chart, length_chart
from bert_jax.pages.wording import count, counted, decimal, millions, moment, percent, plain, SPACE
from bert_jax.runs.reading import number, Record
from bert_jax.text.scripts import REPLACEMENTS

SPLIT_NAMES = {"train": "Training", "validation": "Held-out"}
PAIR_TASKS = {"nsp": ("next sentence", "is_next_share"), "sop": ("sentence order", "in_order_share")}
# A language that a script belongs to alone; of no other script can the language be told.
LANGUAGE_OF = {"Kana": "Japanese", "Hangul": "Korean"}
LEAST_OF_LANGUAGE = 0.001  # of the letters; less are quotations
LEAST_DRAWN = 0.0005  # of the letters; scripts with less are listed
SETTINGS = (
    "sequence_lengths",
    "held_out",
    "short_seq_prob",
    "random_next_prob",
    "seed",
    "shard_size",
    "lines",
    "json_field",
    "errors",
    "text_format",
    "splitter",
    "segmenter",
    "near_duplicates",
)
TREATMENTS = (("mask", "[MASK]"), ("random", "a random token"), ("kept", "kept"))


def facts(passport: Passport) -> list[tuple[str, str]]:
    """Return the facts of one line each below the heading."""
    files = [file for source in passport["sources"] for file in source["files"]]
    size = sum(file["bytes"] for file in files)
    tokens, kind = plain(passport["vocab_size"]), str(passport["tokenizer_kind"])
    names = {"wordpiece": "WordPiece", "sentencepiece": "SentencePiece"}
    sources, held_out = counted(len(passport["sources"]), "source"), percent(passport["held_out"])
    lengths = ", ".join(map(count, passport["sequence_lengths"]))
    return [
        ("Text", f"{megabytes(size)} in {counted(len(files), 'file')} of {sources}"),
        ("Licence", passport.get("licence") or "not recorded"),
        ("Tokenizer", f"{names.get(kind, kind)}, {tokens} entries, {passport['tokenizer'][:12]}"),
        ("Examples", f"{', '.join(passport['kinds'])}; rows of {lengths}"),
        ("Prepared", f"bert_jax {passport['bert_jax']}, seed {passport['seed']}, {held_out} held out"),
    ]


def megabytes(size: float) -> str:
    """A size in bytes for people."""
    return f"{size / 1e9:,.1f}{SPACE}GB" if size >= 1e9 else f"{size / 1e6:,.1f}{SPACE}MB"


def tiles(passport: Passport) -> list[Tile]:
    """The key figures of the text."""
    splits, text = passport["splits"], passport["text"]
    tokens, documents, sentences, unknown = (
        sum(split[name] for split in splits.values()) for name in ("tokens", "documents", "sentences", "unknown_tokens")
    )
    train = splits["train"]
    repeated = text["sentences"]
    return [
        Tile("Tokens", millions(tokens), "", f"{text['characters'] / max(text['tokens'], 1):.2f} characters each"),
        Tile("Documents", count(documents), "", f"{tokens / max(documents, 1):,.0f} tokens each"),
        Tile("Sentences", count(sentences), "", f"{tokens / max(sentences, 1):.1f} tokens each"),
        Tile("Repeated sentences", f"{100 * repeated['repeated_share']:.1f}", "%", _compared(repeated)),
        Tile("[UNK]", f"{100 * unknown / max(tokens, 1):.3f}", "%", f"{count(unknown)} tokens"),
        Tile("Unigram entropy", decimal(train["unigram_entropy"], 2), "nats", "what word frequencies alone reach"),
    ]


def _compared(counts: Record) -> str:
    if counts["compared"] == 1:
        return f"{count(counts['repeated'])}, counted exactly"
    return f"about {count(counts['repeated'])}, from a sample of 1 in {1 / counts['compared']:,.0f} across shards"


# ---- sources and splits ----------------------------------------------------------------------------------------------


def source_table(passport: Passport) -> Table:
    """A row for each source."""
    rows = [
        (
            source["source"],
            f"{source['weight']:g}",
            megabytes(sum(file["bytes"] for file in source["files"])),
            *(count(source[name]) for name in ("documents", "sentences", "tokens")),
        )
        for source in passport["sources"]
    ]
    return Table(["Source", "Weight", "Bytes", "Documents", "Sentences", "Tokens"], rows)


def file_table(passport: Passport) -> Table:
    """A row for each file of the sources, with its hash."""
    rows = [
        (file["file"], count(file["bytes"]), _modified(file), file.get("sha256", ""))
        for source in passport["sources"]
        for file in source["files"]
    ]
    return Table(["File", "Bytes", "Changed", "sha256"], rows, "numbers hashes")


def _modified(file: Record) -> str:
    """When a file was last changed; the passport holds nanoseconds since 1970."""
    changed = file.get("modified")
    return moment(datetime.fromtimestamp(changed / 1e9, UTC).isoformat()) if isinstance(changed, int) else ""


def split_table(passport: Passport, token: Callable[[int], str | None], more: Sequence[Sequence[str]] = ()) -> Table:
    """The counts of each split.

    Args:
      passport: whose splits.
      token: names an id of the vocabulary; None: it has none.
      more: rows below them.
    """
    splits: Mapping[str, Record] = passport.get("splits", {})
    names = ("documents", "sentences", "tokens")
    rows = [
        *((name.capitalize(), *(count(number(split, name)) for split in splits.values())) for name in names),
        ("[UNK]", *map(_unknown, splits.values())),
        ("Unigram entropy", *(decimal(number(split, "unigram_entropy"), 3, "nats") for split in splits.values())),
        ("Commonest token", *(_commonest(split, token) for split in splits.values())),
        *more,
    ]
    return Table(["", *(SPLIT_NAMES.get(name, name) for name in splits)], rows)


def _unknown(split: Record) -> str:
    unknown, tokens = number(split, "unknown_tokens"), number(split, "tokens")
    share = f" ({percent(unknown / tokens, 3)})" if unknown is not None and tokens else ""
    return count(unknown) + share


def _commonest(split: Record, token: Callable[[int], str | None]) -> str:
    place = number(split, "commonest_token")
    name = None if place is None else token(int(place))
    words = f"id {count(place)}" if name is None else f"“{name}”"
    return f"{words} ({percent(number(split, 'commonest_token_share'))})"


def shard_row(passport: Passport) -> list[str]:
    """The number and size of the shards of each split."""
    shards: list[list[Record]] = [split["shards"] for split in passport["splits"].values()]
    return ["Shards", *(f"{count(len(own))}, {megabytes(sum(one['bytes'] for one in own))}" for own in shards)]


def left_out(passport: Passport) -> Table:
    """How much of the input is not in the data, or not as it was."""
    names = {
        "dropped_sentences": "Sentences without tokens",
        "dropped_documents": "Documents without tokens",
        "replaced_bytes": "Bytes that are not UTF-8, replaced",
        "control_lines": "Lines of control characters only",
        "empty_lines": "Empty lines between JSON records",
    }
    values = {**{key: passport[key] for key in ("dropped_sentences", "dropped_documents")}, **passport["reading"]}
    rows = [
        (names.get(key, key.replace("_", " ").capitalize()), count(value))
        for key, value in values.items()
        if isinstance(value, int)
    ]
    return Table(["", ""], rows)


# ---- text ------------------------------------------------------------------------------------------------------------


def length_panels(passport: Passport) -> list[Panel]:
    """Tokens of sentences and of documents."""
    panels = []
    for thing in ("sentence", "document"):
        histogram = passport["text"][f"tokens_per_{thing}"]
        readings = (
            ("mean", decimal(histogram["mean"], 1), ""),
            ("half have at least", count(histogram["median_at_least"]), ""),
            ("longest", count(histogram["longest"]), ""),
        )
        chart = length_chart(histogram, thing)
        panels.append(Panel(f"Tokens in a {thing}", "share of them per doubling", chart, readings))
    return panels


def script_card(passport: Passport) -> Card:
    """Bars of the letters' scripts, and of what the other characters are."""
    text = passport["text"]
    letters, total = max(sum(text["scripts"].values()), 1), max(text["characters"], 1)
    ranked = sorted(text["scripts"].items(), key=lambda item: -item[1])
    drawn = [(name, number) for name, number in ranked if number >= LEAST_DRAWN * letters]
    rest = ", ".join(f"{name} {count(number)}" for name, number in ranked[len(drawn) :])
    languages = [
        f"{percent(text['scripts'][script] / letters)} of the letters are {script}, so there is {language} text."
        for script, language in LANGUAGE_OF.items()
        if text["scripts"].get(script, 0) > LEAST_OF_LANGUAGE * letters
    ]
    notes = [f"Letters of other scripts: {rest}.", *languages] if rest else languages
    others = sorted({"letters": letters, **text["other_characters"]}.items(), key=lambda item: -item[1])
    lost = {REPLACEMENTS: "U+FFFD, lost characters"}
    parts: list[Part] = [
        Paragraph("By Unicode's ranges. A script is not a language.", "footnote"),
        Bars([_bar(name, number / letters) for name, number in drawn]),
        *(Paragraph(note, "footnote") for note in notes),
        Paragraph("Characters", "subtitle"),
        Bars([_bar(lost.get(name, name), number / total) for name, number in others]),
    ]
    return Card(parts, "Scripts", f"{count(letters)} letters among {count(total)} characters")


def _bar(label: str, share: float, expected: float | None = None) -> Bar:
    wanted = "" if expected is None else f"of {percent(expected)} expected"
    return Bar(label, share, beside(percent(share, 2), wanted), expected)


def repetition_card(passport: Passport) -> Card:
    """Repeated sentences and documents, and the most repeated lines."""
    text = passport["text"]
    sentences = max(text["sentences"]["count"], 1)
    rows = [
        (name.capitalize(), count(table["count"]), count(table["repeated"]), percent(table["repeated_share"]))
        for name, table in (("sentences", text["sentences"]), ("documents", text["documents"]))
    ]
    parts: list[Part] = [Table(["", "All", "Equal to an earlier one", "Share"], rows)]
    lines = [
        (line["text"], f"{count(line['times'])} times", percent(line["times"] / sentences, 2))
        for line in text["repeated_lines"]
    ]
    if lines:
        parts += [Paragraph("Most repeated lines", "subtitle"), Table(["", "", ""], lines, "numbers headless")]
    return Card(parts, "Repetitions", _compared(text["sentences"]))


def near_duplicate_cards(passport: Passport) -> list[Card]:
    """Documents that are nearly the same as an earlier one, by source, with examples; no card where nobody looked."""
    looked_for = passport.get("near_duplicate_documents")
    if not looked_for:
        return []
    rows = [
        (source["source"], *(count(source[name]) for name in ("documents", "compared", "found", "of_other_sources")))
        for source in looked_for["sources"]
    ]
    rule = (
        f"{percent(looked_for['least_jaccard'], 0)} of the runs of {looked_for['shingle_words']} words that two have"
        " together are in both, or others link them so; shorter documents are not compared."
    )
    shown = [
        (pair["document"], pair["first"], decimal(pair["jaccard"], 2))
        for source in looked_for["sources"]
        for pair in source["examples"]
    ]
    parts: list[Part] = [
        Table(["Source", "Documents", "Compared", "Near-duplicates", "Of another source's"], rows),
        Paragraph(rule, "footnote"),
    ]
    if shown:
        parts.append(Table(["Near-duplicate", "First of its cluster", "Shared"], shown, "words"))
    done = "dropped" if looked_for["dropped"] else "counted, and still in the data"
    return [Card(parts, "Near-duplicates", done)]


# ---- examples --------------------------------------------------------------------------------------------------------


def table_table(passport: Passport) -> Table:
    """A row for each table of examples of each split."""
    rows = [
        (
            f"{SPLIT_NAMES.get(name, name)}, {table['kind'].replace('_', ' ')}",
            count(table["sequence_length"]),
            count(table["examples"]),
            pair_shares(table),
            percent(table["valid_token_share"]),
            percent(table["cut_token_share"]),
        )
        for name, split in passport["splits"].items()
        for table in split["tables"].values()
    ]
    head = ["Table", "Tokens in a row", "Examples", "Pair labels", "Of a row filled", "Tokens cut off"]
    return Table(head, rows, "numbers tables")


def pair_shares(table: Record) -> str:
    """The shares of both labels of the pairs, in words; a dash where there is no pair."""
    if table["kind"] not in PAIR_TASKS:
        return "–"
    task, key = PAIR_TASKS[table["kind"]]
    first, second = PAIR_WORDS[task].labels
    return f"{first} {percent(table[key])}, {second} {percent(1 - table[key])}"


def label_meaning(passport: Passport) -> str:
    """The meaning of the stored labels in words; empty where there are none."""
    words = [PAIR_WORDS[task] for kind, (task, _) in PAIR_TASKS.items() if kind in passport["kinds"]]
    return "; ".join(f"{word.task}: 0 = {word.labels[0]}, 1 = {word.labels[1]}" for word in words)


def example_panels(passport: Passport) -> list[Panel]:
    """Lengths of the training examples, table by table."""
    panels = []
    for table in passport["splits"]["train"]["tables"].values():
        length, histogram = table["sequence_length"], table["length_histogram"]
        title = f"{table['kind'].replace('_', ' ')}, rows of {count(length)}"
        readings = [("of a row filled", percent(table["valid_token_share"]), "")]
        if length % BIN == 0:
            readings.append(("full rows", percent(histogram[-1] / max(sum(histogram), 1)), ""))
        panels.append(Panel(title, "examples by their tokens", example_chart(histogram, length), readings))
    return panels


def mask_cards(passport: Passport) -> list[Card]:
    """A card for each table: measured shares beside the expected ones, and the chi-square test."""
    cards = []
    for key, measured in (passport.get("masks") or {}).items():
        counts, expected, statistic = measured["treatment"], measured["expected"], measured["chi_square"]
        total = max(sum(counts.values()), 1)
        bars = [_bar(words, counts[name] / total, expected[name]) for name, words in TREATMENTS]
        picked = f"{percent(measured['picked_share'], 2)} of the tokens picked, {count(measured['picked'])} of them"
        words = "a treatment that should not occur" if statistic is None else decimal(statistic, 2)
        test = f"χ² = {words}, p = {measured['p_value']:.2g}"
        cards.append(Card([Paragraph(picked, "footnote"), Bars(bars)], key.replace("_", " "), test))
    return cards


def contamination_table(passport: Passport) -> Table:
    """A row for each evaluation file, and where there are several sources one for it in each: what it shares with them."""
    rows = [
        (
            file["file"],
            count(file["texts"]),
            count(file["short_texts"]),
            f"{count(file['texts_with_found'])} ({percent(file['texts_with_found'] / max(file['texts'], 1))})",
            f"{count(file['found_ngrams'])} of {count(file['ngrams'])} ({percent(file['found_share'], 2)})",
        )
        for file in passport["contamination"]
    ]
    rows += [
        (f"{file['file']} in {own['source']}", "", "", count(own["texts_with_found"]), count(own["found_ngrams"]))
        for file in passport["contamination"]
        for own in file.get("sources", [])
        if len(file["sources"]) > 1
    ]
    return Table(["Evaluation file", "Texts", "Shorter texts", "Texts with an overlap", "13-grams found"], rows)


def overlaps(passport: Passport) -> list[Card]:
    """Some of what was found of each evaluation file in the text."""
    return [
        Card([Paragraph(example, "overlap") for example in file["examples"]], file["file"], "some of what was found")
        for file in passport["contamination"]
        if file["examples"]
    ]


def setting_table(passport: Passport) -> Table:
    """The settings of `bert-jax prepare`, by its options."""
    options = {"sequence_lengths": "--sequence-length"}
    rows = [
        (options.get(name, f"--{name.replace('_', '-')}"), _setting(passport[name]) or "none")
        for name in SETTINGS
        if name in passport
    ]
    return Table(["Option of bert-jax prepare", ""], rows, "words")


def _setting(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
