# SPDX-License-Identifier: Apache-2.0
"""A page becomes a file: the one template (page.html.jinja) and the one style sheet (style.css) of all pages."""

import functools
from pathlib import Path

import jinja2

from bert_jax.base.files import complete_or_absent
from bert_jax.pages.chart import svg
from bert_jax.pages.page import Page


def render(page: Page) -> str:
    """The HTML of a page, with its styles and drawings in it."""
    return _environment().get_template("page.html.jinja").render(page=page)


def write(page: Page, path: Path) -> Path:
    """Write a page in place of an earlier one, which stays until the new one is complete; returns its path."""
    with complete_or_absent(path) as file:
        file.write(render(page).encode())
    return path


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bert_jax", "pages"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["svg"] = svg
    environment.filters["kind"] = lambda part: type(part).__name__
    return environment
