# SPDX-License-Identifier: Apache-2.0
"""Settings of `prepare`. What is refused for which difference is in test_prepare.py and test_preparation.py."""

import pytest

from bert_jax.base.errors import UserError
from bert_jax.preparation.request import PrepareSettings


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (100, 4_000_000),  # one file and not many
        (100_000_000, 4_000_000),
        (640_000_000, 10_000_000),
        (20_000_000_000, 32_000_000),  # memory is bounded
    ],
)
def test_shards_fit_the_text(total, expected):
    assert PrepareSettings().with_shard_size(total).shard_size == expected
    assert PrepareSettings(shard_size=123).with_shard_size(total).shard_size == 123


def test_the_order_in_which_settings_are_given_is_none():
    """Else the same data would be refused."""
    settings = PrepareSettings(kinds=("document", "nsp", "nsp"), sequence_lengths=(512, 128, 512))
    assert settings == PrepareSettings(kinds=("nsp", "document"), sequence_lengths=(128, 512))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lines": "words"}, "--lines words is not known: use sentences or paragraphs"),
        ({"errors": "ignore"}, "--errors ignore is not known"),
        ({"segmenter": "spacy"}, "--segmenter spacy is not known: use none or jieba"),
        ({"shard_size": 2**31}, "--shard-size 2147483648 is out of range"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        PrepareSettings(**options)
