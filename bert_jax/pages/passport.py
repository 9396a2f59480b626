# SPDX-License-Identifier: Apache-2.0
"""The page of prepared data: passport.json -> passport.html."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import reading
from bert_jax.checks.findings import Finding, NOTE, Passport, PROBLEM, serious
from bert_jax.checks.passport import check_passport
from bert_jax.feed.shards import MANIFEST, read_manifest
from bert_jax.pages import passport_tables as tables
from bert_jax.pages.page import Card, command, filled, Fold, Grid, Page, Paragraph, Part, Section
from bert_jax.pages.template import write
from bert_jax.pages.wording import counted
from bert_jax.tokenization import load_tokenizer

PAGE = "passport.html"
MOST_OPEN = 6  # files; more are folded in
MASKS_LEDE = (
    "Masks are drawn when a batch is made. Here a sample of training examples was masked with the default objective and"
    " counted; the upright mark is what is expected. p is the chance of a deviation at least as large."
)


def write_page(directory: Path, vocabulary: Sequence[str] | None = None) -> Path:
    """Write `passport.html` into a directory of prepared data, in place of an earlier one; returns its path.

    Args:
      directory: with passport.json.
      vocabulary: the entries by id; None: those of the vocabulary in the directory.

    Raises:
      UserError: not prepared data.
    """
    passport = read_manifest(directory)
    entries = _read_vocabulary(directory) if vocabulary is None else vocabulary
    with reading(directory / MANIFEST, "prepare the data again"):
        page = page_of(directory, passport, entries)
    return write(page, directory / PAGE)


def page_of(directory: Path, passport: Passport, vocabulary: Sequence[str]) -> Page:
    """The page of a passport; a token that is not in the vocabulary is shown by its number."""

    def entry(place: int) -> str | None:
        return vocabulary[place] if 0 <= place < len(vocabulary) else None

    findings = serious(check_passport(passport, directory))
    name = directory.resolve().name
    doctor = f"bert-jax doctor {shlex.quote(str(directory))}"
    more = Finding(NOTE, "More", "what was looked at, with what was found in order", "", "", doctor)
    return Page(
        title=f"{name}: data passport",
        eyebrow="Passport of text prepared with bert_jax",
        name=name,
        status=counted(len(findings), "finding") if findings else "nothing suspicious",
        state="problem" if any(one.severity == PROBLEM for one in findings) else "open" if findings else "",
        facts=tables.facts(passport),
        findings=[*findings, more] if findings else [],
        tiles=tables.tiles(passport),
        sections=[
            _sources(passport, entry),
            _text(passport),
            _examples(passport),
            _masks(passport),
            _contamination(passport),
            Section("settings", "Settings", [Card([tables.setting_table(passport)], style="narrow")]),
        ],
        footer="Everything here stands in passport.json, for programs.",
    )


def _read_vocabulary(directory: Path) -> Sequence[str]:
    try:
        return load_tokenizer(directory).vocabulary
    except UserError:  # the page is about the passport; without a vocabulary it shows numbers
        return ()


def _sources(passport: Passport, entry: Callable[[int], str | None]) -> Section:
    files = tables.file_table(passport)
    folded = Fold("Files", f"{len(files.rows)}, with their hashes", [files], open=len(files.rows) <= MOST_OPEN)
    splits = tables.split_table(passport, entry, [tables.shard_row(passport)])
    both = Grid([Card([splits]), Card([tables.left_out(passport)], "Left out or replaced")])
    return Section("sources", "Sources", [Card([tables.source_table(passport)]), Card([folded]), both])


def _text(passport: Passport) -> Section:
    cards: list[Part] = [
        *tables.length_panels(passport),
        tables.script_card(passport),
        tables.repetition_card(passport),
    ]
    return Section("text", "Text", [Grid(cards), *tables.near_duplicate_cards(passport)])


def _examples(passport: Passport) -> Section:
    labels = tables.label_meaning(passport)
    stored = f" Labels as stored: {labels}." if labels else ""
    words = f"What objectives train on.{stored} A row is filled by one example; packing puts several into one."
    return Section(
        "examples",
        "Examples",
        [Paragraph(words, "lede"), Card([tables.table_table(passport)]), Grid(tables.example_panels(passport))],
    )


def _masks(passport: Passport) -> Section:
    cards = tables.mask_cards(passport)
    absent: list[Part] = [Paragraph("Not measured.", "card absent")]
    return Section("masks", "Masks", [Paragraph(MASKS_LEDE, "lede"), Grid(cards, "many")] if cards else absent)


def _contamination(passport: Passport) -> Section:
    files: Sequence[Mapping[str, object]] = passport["contamination"]
    if not files:
        words = "Not measured: prepare with {} to look for evaluation data in the text."
        absent = Paragraph(filled(words, command("--evaluation-data FILE...")), "card absent")
        return Section("contamination", "Contamination", [absent])
    lede = "Runs of 13 words that evaluation data shares with this text. Texts of fewer words cannot be checked."
    cards: list[Part] = [Card([tables.contamination_table(passport)]), *tables.overlaps(passport)]
    return Section("contamination", "Contamination", [Paragraph(lede, "lede"), *cards])
