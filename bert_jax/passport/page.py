# SPDX-License-Identifier: Apache-2.0
"""Fills the template: passport.json -> the page -> passport.html."""

import functools
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from bert_jax.data.findings import PROBLEM, serious
from bert_jax.data.passport_checks import check_passport
from bert_jax.data.shards import read_manifest
from bert_jax.errors import UserError
from bert_jax.passport.tables import (
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
from bert_jax.tokenization import load_tokenizer

PAGE = "passport.html"


def write_page(directory: Path) -> Path:
    """Write `passport.html` into a directory of prepared data, in place of an earlier one; returns its path.

    Raises:
      UserError: not prepared data.
    """
    page = render(directory, read_manifest(directory))
    path = directory / PAGE
    unfinished = path.with_name(f".{PAGE}.{os.getpid()}")
    try:
        unfinished.write_text(page, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def render(directory: Path, passport: Passport) -> str:
    """The page as text."""
    findings = serious(check_passport(passport, directory))
    return _template().render(
        name=directory.resolve().name,
        findings=findings,
        problem=any(finding.severity == PROBLEM for finding in findings),
        facts=facts(passport),
        tiles=tiles(passport),
        sources=sources(passport),
        splits=splits(passport, _vocabulary(directory)),
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


def _vocabulary(directory: Path) -> Callable[[int], str]:
    """Token id -> the entry of the vocabulary."""
    try:
        entries = load_tokenizer(directory).vocabulary
    except UserError:  # the page is about the passport; without a vocabulary it shows numbers
        entries = ()
    return lambda place: entries[place] if 0 <= place < len(entries) else f"id {place}"


@functools.cache
def _template() -> Any:
    """The page's template; styles and macros are those of a run's report."""
    report = resources.files("bert_jax.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    own = resources.files("bert_jax.passport").joinpath("passport.html.jinja").read_text(encoding="utf-8")
    macros, _, page = report.partition("<!doctype html>")
    style = page.partition("<style>")[2].partition("</style>")[0]
    loader = jinja2.DictLoader({"macros": macros, "style": style, "page": own})
    undefined = jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page")
