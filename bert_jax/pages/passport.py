# SPDX-License-Identifier: Apache-2.0
"""Fills the template: passport.json -> the page -> passport.html."""

from collections.abc import Sequence
from pathlib import Path

from bert_jax.checks.findings import PROBLEM, serious
from bert_jax.checks.passport import check_passport
from bert_jax.errors import UserError
from bert_jax.feed.shards import read_manifest
from bert_jax.pages.passport_tables import (
    command,
    contamination,
    example_panels,
    facts,
    label_meaning,
    left_out,
    length_panels,
    masks,
    Passport,
    repetitions,
    scripts,
    settings,
    sources,
    splits,
    tables_of,
    tiles,
)
from bert_jax.pages.template import fill, save_page
from bert_jax.tokenization import load_tokenizer

PAGE = "passport.html"


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
    return save_page(render(directory, passport, entries), directory / PAGE)


def render(directory: Path, passport: Passport, vocabulary: Sequence[str]) -> str:
    """The page as text; a token that is not in the vocabulary is shown by its number."""

    def entry(place: int) -> str:
        return vocabulary[place] if 0 <= place < len(vocabulary) else f"id {place}"

    findings = serious(check_passport(passport, directory))
    return fill(
        "pages/passport.html.jinja",
        name=directory.resolve().name,
        findings=findings,
        problem=any(finding.severity == PROBLEM for finding in findings),
        facts=facts(passport),
        tiles=tiles(passport),
        sources=sources(passport),
        splits=splits(passport, entry),
        left_out=left_out(passport),
        length_panels=length_panels(passport),
        scripts=scripts(passport),
        repetitions=repetitions(passport),
        tables=tables_of(passport),
        labels=label_meaning(passport),
        example_panels=example_panels(passport),
        masks=masks(passport),
        contamination=contamination(passport),
        settings=settings(passport),
        doctor=command(directory),
    )


def _read_vocabulary(directory: Path) -> Sequence[str]:
    try:
        return load_tokenizer(directory).vocabulary
    except UserError:  # the page is about the passport; without a vocabulary it shows numbers
        return ()
