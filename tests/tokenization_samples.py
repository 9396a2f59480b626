# SPDX-License-Identifier: Apache-2.0
"""A small WordPiece vocabulary, text with the pieces that google-research/bert makes of it, and published vocabularies."""

from pathlib import Path

from conftest import real_data

ENTRIES = """
    [PAD] [UNK] [CLS] [SEP] [MASK] the cat sat on mat un ##aff ##able ##s a b c ##a ##b ##c ! , . ' [ ] sep
    mask ##ing run ##n cafe Cafe café 中 文 ##文 1 ##2 ##3 # naive σ ς ο ##σ ##ς ##ο i ##i e ##e ß ㄅ ﬁ
"""
VOCABULARY = ENTRIES.split()

# text -> pieces of the uncased tokenizer; the same text -> pieces of the cased one
GOLDEN = [
    ("The cat sat on the mat.", "the cat sat on the mat .", "[UNK] cat sat on the mat ."),
    ("unaffable cats, running!", *["un ##aff ##able cat ##s , run ##n ##ing !"] * 2),
    ("CAFÉ café Cafe", "cafe cafe cafe", "[UNK] café Cafe"),
    ("[SEP] [MASK] ##ing", "[ sep ] [ mask ] # # [UNK]", "[ [UNK] ] [ [UNK] ] # # [UNK]"),
    ("中文cat中", *["中 文 cat 中"] * 2),
    ("a\tb\nc\r\n a\u3000b\u00a0c\u2028b", *["a b c a b c b"] * 2),  # white space of all kinds
    ("a\u00adb a\u200bb a\u0000b a\ufffdb a\x0bb", *["a ##b a ##b a ##b a ##b a ##b"] * 2),  # taken out
    ("", "", ""),
    ("  \n ", "", ""),
    ("123 12 3", *["1 ##2 ##3 1 ##2 [UNK]"] * 2),
    ("dog cat", *["[UNK] cat"] * 2),
    ("ΟΣΟΣ οσος Σ.", "ο ##σ ##ο ##ς ο ##σ ##ο ##ς σ .", "[UNK] ο ##σ ##ο ##ς [UNK] ."),  # final sigma
    ("ΟΣ\x1cΟΣ\u00ad.", "ο ##σ ##ο ##ς .", "[UNK] ."),  # what is taken out does not end the word
    ("a\ue000b \ue000", *["[UNK] [UNK]"] * 2),  # private use: part of the word
    (
        "中\U0002b820中 a\U0002b820b",
        *["中 [UNK] 中 a [UNK] b"] * 2,
    ),  # an ideograph beyond the library's table
    ("İ I ı", "i i [UNK]", "[UNK] [UNK] [UNK]"),
    ("naïve nai\u0308ve", "naive naive", "[UNK] [UNK]"),
    ("ß ẞ ﬁ", "ß ß ﬁ", "ß [UNK] ﬁ"),  # no case folding, no compatibility forms
    ("a" * 200, *[" ".join(["a", *["##a"] * 199])] * 2),
    ("a" * 201, *["[UNK]"] * 2),  # longer than max_input_chars_per_word
]


def published(name: str) -> Path:
    return real_data(f"vocab/bert-base-{name}-vocab.txt")
