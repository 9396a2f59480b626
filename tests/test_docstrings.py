# SPDX-License-Identifier: Apache-2.0
"""From docstrings to prose."""

import pytest

from bert_jax.text import docstrings


def test_docstrings_come_in_the_order_of_the_source() -> None:
    source = b'''
"""Module."""
class A:
    """Class."""
    def f(self):
        """Method."""
        def g():
            """Inner."""
    if True:
        async def h():
            """Conditional."""
x = """No docstring."""
'''
    assert list(docstrings.docstrings(source)) == ["Module.", "Class.", "Method.", "Inner.", "Conditional."]


def test_wrapped_lines_are_joined_and_markup_is_removed() -> None:
    text = """Summary of
    the class :class:`~package.module.Name` and of :func:`other`.

    Read ``code``, `names`, **bold** and *soft* words, [a page](http://x.y/z) and `a link <http://x.y>`_ [1]_.
    """
    assert docstrings.paragraphs(text) == [
        "Summary of the class Name and of other.",
        "Read code, names, bold and soft words, a page and a link.",
    ]


@pytest.mark.parametrize(
    "block",
    [
        ">>> f(1)\nThe output of it is here.",
        "```python\nThe code is not a sentence.\n```",
        ".. code-block:: python\n\n    The code is not a sentence.",
        ".. _target:",
        "For example::\n\n    The code is not a sentence.",
        "Heading\n=======",
        "====  =====\nname  value\n====  =====",
        "| a cell | is not a sentence. |",
        "f(x, y=1) -> int",
        "result = f(x)",
        "import os",
        "$ command --option",
        ":type x: The name of a type.",
        "See Also\n--------\nother : The other function is not prose.",
    ],
)
def test_code_tables_and_headings_are_left_out(block: str) -> None:
    kept = [text for text in docstrings.paragraphs(f"The first line is kept.\n\n{block}") if docstrings.is_prose(text)]
    assert kept == ["The first line is kept."]


@pytest.mark.parametrize(
    "parameters",
    [
        "Args:\n  x: The number of rows\n    of the table.\n  y (int, optional): The number of columns.",
        "Parameters\n----------\nx : int\n    The number of rows\n    of the table.\ny : int, optional\n"
        "    The number of columns.",
        ":param x: The number of rows\n    of the table.\n:param int y: The number of columns.\n:rtype: int",
    ],
    ids=["google", "numpy", "sphinx"],
)
def test_parameters_become_sentences_without_their_names(parameters: str) -> None:
    assert docstrings.paragraphs(f"Summary.\n\n{parameters}") == [
        "Summary.",
        "The number of rows of the table.",
        "The number of columns.",
    ]


def test_text_goes_on_after_code() -> None:
    """A left-out block must end where its indentation ends, not swallow the rest."""
    text = "First::\n\n    code()\n\nSecond.\n\n>>> f()\n1\n\nThird.\n\n```\ncode\n```\nFourth."
    assert docstrings.paragraphs(text) == ["First::", "Second.", "Third.", "Fourth."]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Returns the number of rows of the table.", True),
        ("axis must be less than the rank of the tensor.", True),
        ("of the rows that are in the table.", False),
        ("The number of rows of the table", False),
        ("Too short.", False),
        ("Tensor, int32, float32, bfloat16, shape, dtype.", False),
        ("See http://example.org for the rest of it.", False),
        ("The value of x_{i}^2 is in the table.", False),
        ("The rows (of the table are read.", False),
        ("The text has its escapes turned into nulls (\x00).", False),
        ("self.a_b.c(d_e) and f_g.h(i_j) in k_l.m(n_o).", False),
    ],
)
def test_is_prose(sentence: str, expected: bool) -> None:
    assert docstrings.is_prose(sentence) is expected
