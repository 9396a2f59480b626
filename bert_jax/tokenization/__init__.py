# SPDX-License-Identifier: Apache-2.0
"""Text -> token ids, with the characters each token came from and the words the tokens make up.

encoding.py       what a tokenizer is: the interface of the two kinds, and what they return
wordpiece.py      WordPiece, ids as google-research/bert's
switches.py       what a tokenizer of Hugging Face's may do otherwise
normalization.py  where the `tokenizers` library and google-research/bert differ
sentencepiece.py  SentencePiece, unigram and BPE
chunks.py         where text may be cut without a change of the ids
flat.py           the fast path: a cache of chunks, ids of many texts in one array
words.py          where words begin, in any language
training.py       text -> WordPiece vocabulary
loading.py        files -> tokenizer
hugging_face.py   the files that transformers writes beside a vocabulary
"""

from bert_jax.tokenization.encoding import Encoding, FlatEncoding, SPECIAL_TOKENS, Tokenizer
from bert_jax.tokenization.loading import load_tokenizer
from bert_jax.tokenization.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from bert_jax.tokenization.training import train_wordpiece
from bert_jax.tokenization.wordpiece import WordPieceTokenizer
from bert_jax.tokenization.words import load_segmenter, Segmenter

__all__ = [
    "SPECIAL_TOKENS",
    "Encoding",
    "FlatEncoding",
    "Segmenter",
    "SentencePieceTokenizer",
    "Tokenizer",
    "WordPieceTokenizer",
    "load_segmenter",
    "load_tokenizer",
    "train_sentencepiece",
    "train_wordpiece",
]
