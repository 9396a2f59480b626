# SPDX-License-Identifier: Apache-2.0
"""What the passport page says in words and tables: passport -> what the template prints."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import markupsafe

from bert_jax.config.objective import PAIR_WORDS
from bert_jax.pages.panels import Panel
from bert_jax.pages.passport_charts import BIN, example_chart, length_chart
from bert_jax.pages.wording import count, counted, decimal, millions, moment, percent, plain, SPACE
from bert_jax.text.scripts import REPLACEMENTS

Passport = Mapping[str, Any]

SPLIT_NAMES = {"train": "Training", "validation": "Held-out"}
PAIR_TASKS = {"nsp": ("next sentence", "is_next_share"), "sop": ("sentence order", "in_order_share")}
# A language that a script belongs to alone; of no other script can the language be told.
LANGUAGE_OF = {"Kana": "Japanese", "Hangul": "Korean"}
LEAST_OF_LANGUAGE = 0.001  # of the letters; less are quotations
LEAST_DRAWN = 0.0005  # of the letters; scripts with less are listed
TREATMENTS = (("mask", "[MASK]"), ("random", "a random token"), ("kept", "kept"))


def facts(passport: Passport) -> list[tuple[str, str]]:
    """The facts of one line each below the heading."""
    files = [file for source in passport["sources"] for file in source["files"]]
    size = sum(file["bytes"] for file in files)
    tokens, kind = plain(passport["vocab_size"]), str(passport["tokenizer_kind"])
    names = {"wordpiece": "WordPiece", "sentencepiece": "SentencePiece"}
    return [
        ("Text", f"{megabytes(size)} in {counted(len(files), 'file')} of {counted(len(passport['sources']), 'source')}"),
        ("Licence", passport.get("licence") or "not recorded"),
        ("Tokenizer", f"{names.get(kind, kind)}, {tokens} entries, {passport['tokenizer'][:12]}"),
        ("Examples", f"{', '.join(passport['kinds'])}; rows of {', '.join(map(count, passport['sequence_lengths']))}"),
        ("Prepared", f"bert_jax {passport['bert_jax']}, seed {passport['seed']}, {percent(passport['held_out'])} held out"),
    ]  # fmt: skip


def megabytes(size: float) -> str:
    """A size in bytes for people."""
    return f"{size / 1e9:,.1f}{SPACE}GB" if size >= 1e9 else f"{size / 1e6:,.1f}{SPACE}MB"


def tiles(passport: Passport) -> list[dict[str, str]]:
    """The key figures: label, value, unit and a line below."""
    splits, text = passport["splits"], passport["text"]
    tokens, documents, sentences, unknown = (
        sum(split[name] for split in splits.values()) for name in ("tokens", "documents", "sentences", "unknown_tokens")
    )
    train = splits["train"]
    repeated = text["sentences"]
    return [
        _tile("Tokens", millions(tokens), "", f"{text['characters'] / max(text['tokens'], 1):.2f} characters each"),
        _tile("Documents", count(documents), "", f"{tokens / max(documents, 1):,.0f} tokens each"),
        _tile("Sentences", count(sentences), "", f"{tokens / max(sentences, 1):.1f} tokens each"),
        _tile("Repeated sentences", f"{100 * repeated['repeated_share']:.1f}", "%", _compared(repeated)),
        _tile("[UNK]", f"{100 * unknown / max(tokens, 1):.3f}", "%", f"{count(unknown)} tokens"),
        _tile("Unigram entropy", decimal(train["unigram_entropy"], 2), "nats", "what word frequencies alone reach"),
    ]


def _tile(label: str, value: str, unit: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "unit": unit, "note": note}


def _compared(counts: Mapping[str, Any]) -> str:
    if counts["compared"] == 1:
        return f"{count(counts['repeated'])}, counted exactly"
    return f"about {count(counts['repeated'])}, from a sample of 1 in {1 / counts['compared']:,.0f} across shards"


# ---- sources and splits ----------------------------------------------------------------------------------------------


def sources(passport: Passport) -> dict[str, Any]:
    """A row for each source, and one for each file with its hash."""
    rows = [
        (
            source["source"],
            f"{source['weight']:g}",
            megabytes(sum(file["bytes"] for file in source["files"])),
            *(count(source[name]) for name in ("documents", "sentences", "tokens")),
        )
        for source in passport["sources"]
    ]
    files = [
        (file["file"], count(file["bytes"]), _modified(file), file.get("sha256", ""))
        for source in passport["sources"]
        for file in source["files"]
    ]
    return {"rows": rows, "files": files}


def _modified(file: Mapping[str, Any]) -> str:
    """When a file was last changed; the passport holds nanoseconds since 1970."""
    changed = file.get("modified")
    return moment(f"{_time(changed)}") if isinstance(changed, int) else ""


def _time(nanoseconds: int) -> str:
    from datetime import datetime, UTC

    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat()


def splits(passport: Passport, token: Callable[[int], str]) -> dict[str, Any]:
    """Rows of (measure, value in each split)."""
    records = list(passport["splits"].values())
    rows = [
        (name.capitalize(), *(count(record[name]) for record in records))
        for name in ("documents", "sentences", "tokens")
    ]
    rows += [
        ("[UNK]", *(f"{count(r['unknown_tokens'])} ({percent(r['unknown_tokens'] / r['tokens'], 3)})" for r in records)),
        ("Unigram entropy", *(decimal(record["unigram_entropy"], 3, "nats") for record in records)),
        ("Commonest token", *(_commonest(record, token) for record in records)),
        ("Shards", *(f"{count(len(r['shards']))}, {megabytes(sum(s['bytes'] for s in r['shards']))}" for r in records)),
    ]  # fmt: skip
    return {"head": ["", *(SPLIT_NAMES.get(name, name) for name in passport["splits"])], "rows": rows}


def _commonest(record: Mapping[str, Any], token: Callable[[int], str]) -> str:
    return f"“{token(record['commonest_token'])}” ({percent(record['commonest_token_share'])})"


def left_out(passport: Passport) -> list[tuple[str, str]]:
    """What of the input is not in the data, or not as it was: (what, how much)."""
    reading = passport["reading"]
    names = {
        "dropped_sentences": "Sentences without tokens",
        "dropped_documents": "Documents without tokens",
        **{key: key.replace("_", " ").capitalize() for key in reading},
    }
    known = {
        "replaced_bytes": "Bytes that are not UTF-8, replaced",
        "control_lines": "Lines of control characters only",
        "empty_lines": "Empty lines between JSON records",
    }
    values = {**{key: passport[key] for key in ("dropped_sentences", "dropped_documents")}, **reading}
    return [((names | known)[key], count(value)) for key, value in values.items() if isinstance(value, int)]


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
        drawing = markupsafe.Markup(length_chart(histogram, f"tokens-per-{thing}", thing))
        panels.append(Panel(f"Tokens in a {thing}", "share of them per doubling", drawing, readings))
    return panels


def scripts(passport: Passport) -> dict[str, Any]:
    """Bars of the letters' scripts, and what the other characters are."""
    text = passport["text"]
    letters, total = max(sum(text["scripts"].values()), 1), max(text["characters"], 1)
    ranked = sorted(text["scripts"].items(), key=lambda item: -item[1])
    drawn = [(name, number) for name, number in ranked if number >= LEAST_DRAWN * letters]
    bars = [_bar(name, number / letters, percent(number / letters, 2)) for name, number in drawn]
    rest = [f"{name} {count(number)}" for name, number in ranked[len(drawn) :]]
    languages = [
        f"{percent(text['scripts'][script] / letters)} of the letters are {script}, so there is {language} text."
        for script, language in LANGUAGE_OF.items()
        if text["scripts"].get(script, 0) > LEAST_OF_LANGUAGE * letters
    ]
    others = {"letters": letters, **text["other_characters"]}
    kinds = [
        _bar(name if name != REPLACEMENTS else "U+FFFD, lost characters", number / total, percent(number / total, 2))
        for name, number in sorted(others.items(), key=lambda item: -item[1])
    ]
    total_words = f"{count(letters)} letters among {count(total)} characters"
    return {"bars": bars, "rest": ", ".join(rest), "languages": languages, "kinds": kinds, "total": total_words}


def _bar(label: str, share: float, text: str, configured: float | None = None) -> dict[str, Any]:
    return {"label": label, "measured": min(share, 1.0), "measured_text": text, "configured": configured}


def repetitions(passport: Passport) -> dict[str, Any]:
    """Repeated sentences and documents, and the most repeated lines."""
    text = passport["text"]
    sentences = max(text["sentences"]["count"], 1)
    rows = [
        (name.capitalize(), count(text[name]["count"]), count(text[name]["repeated"]), percent(text[name]["repeated_share"]))
        for name in ("sentences", "documents")
    ]  # fmt: skip
    lines = [
        {"text": line["text"], "times": count(line["times"]), "share": percent(line["times"] / sentences, 2)}
        for line in text["repeated_lines"]
    ]
    return {"rows": rows, "lines": lines, "note": _compared(text["sentences"])}


# ---- examples --------------------------------------------------------------------------------------------------------


def tables_of(passport: Passport) -> list[tuple[str, ...]]:
    """A row for each table of examples of each split."""
    rows: list[tuple[str, ...]] = []
    for name, split in passport["splits"].items():
        for table in split["tables"].values():
            rows.append(
                (
                    f"{SPLIT_NAMES.get(name, name)}, {table['kind'].replace('_', ' ')}",
                    count(table["sequence_length"]),
                    count(table["examples"]),
                    pair_shares(table),
                    percent(table["valid_token_share"]),
                    percent(table["cut_token_share"]),
                )
            )
    return rows


def pair_shares(table: Mapping[str, Any]) -> str:
    """The shares of both labels of the pairs, in words; a dash where there is no pair."""
    if table["kind"] not in PAIR_TASKS:
        return "–"
    task, key = PAIR_TASKS[table["kind"]]
    first, second = PAIR_WORDS[task].labels
    return f"{first} {percent(table[key])}, {second} {percent(1 - table[key])}"


def label_meaning(passport: Passport) -> str:
    """What the stored labels say."""
    words = [PAIR_WORDS[task] for kind, (task, _) in PAIR_TASKS.items() if kind in passport["kinds"]]
    return "; ".join(f"{word.task}: 0 = {word.labels[0]}, 1 = {word.labels[1]}" for word in words)


def example_panels(passport: Passport) -> list[Panel]:
    """Lengths of the training examples, table by table."""
    panels = []
    for key, table in passport["splits"]["train"]["tables"].items():
        length, histogram = table["sequence_length"], table["length_histogram"]
        drawing = markupsafe.Markup(example_chart(histogram, length, f"examples-{key}"))
        title = f"{table['kind'].replace('_', ' ')}, rows of {count(length)}"
        full = histogram[-1] / max(sum(histogram), 1) if length % BIN == 0 else None
        readings = (
            ("of a row filled", percent(table["valid_token_share"]), ""),
            *([("full rows", percent(full), "")] if full is not None else []),
        )
        panels.append(Panel(title, "examples by their tokens", drawing, readings))
    return panels


def masks(passport: Passport) -> list[dict[str, Any]]:
    """For each table: measured shares beside the expected ones, and the chi-square test."""
    cards = []
    for key, measured in (passport.get("masks") or {}).items():
        counts = measured["treatment"]
        total = max(sum(counts.values()), 1)
        bars = [
            _bar(words, counts[name] / total, percent(counts[name] / total, 2), measured["expected"][name])
            for name, words in TREATMENTS
        ]
        statistic = (
            "a treatment that should not occur"
            if measured["chi_square"] is None
            else decimal(measured["chi_square"], 2)
        )
        cards.append(
            {
                "title": key.replace("_", " "),
                "picked": f"{percent(measured['picked_share'], 2)} of the tokens picked, {count(measured['picked'])} of them",
                "bars": bars,
                "test": f"χ² = {statistic}, p = {measured['p_value']:.2g}",
            }
        )
    return cards


def contamination(passport: Passport) -> list[dict[str, Any]]:
    """What each evaluation file shares with the text."""
    return [
        {
            "row": (
                file["file"],
                count(file["texts"]),
                count(file["short_texts"]),
                f"{count(file['texts_with_found'])} ({percent(file['texts_with_found'] / max(file['texts'], 1))})",
                f"{count(file['found_ngrams'])} of {count(file['ngrams'])} ({percent(file['found_share'], 2)})",
            ),
            "file": file["file"],
            "examples": file["examples"],
        }
        for file in passport["contamination"]
    ]


def settings(passport: Passport) -> list[tuple[str, str]]:
    """What `bert-jax prepare` was told, by its options."""
    names = (
        "sequence_lengths", "held_out", "short_seq_prob", "random_next_prob", "seed", "shard_size", "lines",
        "json_field", "errors", "text_format", "splitter", "segmenter",
    )  # fmt: skip
    options = {"sequence_lengths": "--sequence-length"}
    return [
        (options.get(name, f"--{name.replace('_', '-')}"), _setting(passport[name]))
        for name in names
        if name in passport
    ]


def _setting(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def command(directory: Path) -> str:
    """What explains the warnings."""
    return f"bert-jax doctor {directory}"
