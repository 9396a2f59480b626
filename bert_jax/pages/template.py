# SPDX-License-Identifier: Apache-2.0
"""How a page is made: a template filled, and the text saved whole. The report, the passport and the benchmark do.

Templates lie beside the code that fills them, under its name. What they share:

  page.html.jinja     the page around: head, styles, and the blocks `title`, `style` and `main` to be filled
  macros.html.jinja   tables, panels, tiles, facts
  style.css           the looks
"""

import functools
from pathlib import Path
from typing import Any

import jinja2

from bert_jax.files import complete_or_absent


def fill(template: str, **values: Any) -> str:
    """The text of a page.

    Args:
      template: its path below bert_jax, such as "pages/pretrain.html.jinja".
      values: what the template prints. Text is escaped, `markupsafe.Markup` (charts) is not.

    Raises:
      jinja2.UndefinedError: the template prints a value that is not given.
    """
    return _environment().get_template(template).render(**values)


def save_page(page: str, path: Path) -> Path:
    """Write a page in place of an earlier one, which stays until the new one is complete; returns its path."""
    with complete_or_absent(path) as file:
        file.write(page.encode())
    return path


@functools.cache
def _environment() -> Any:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("bert_jax", package_path=""),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
