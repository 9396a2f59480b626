# SPDX-License-Identifier: Apache-2.0
"""SentencePiece: training, special tokens, offsets, files."""

import io
import json
import pickle
import subprocess
import sys

import pytest
import sentencepiece

from bert_jax.base.errors import UserError
from bert_jax.tokenization import load_tokenizer, SentencePieceTokenizer, SPECIAL_TOKENS, train_sentencepiece

TEXTS = [
    f"{a}{b}{c} {c}{a}! The {b}{b}{a}, {c}. 中文{a}的字 [MASK] naïve ﬁne"
    for a in "bdfhjl"
    for b in "aeiou"
    for c in ("m", "nn", "rst")
]
ODD_TEXTS = [
    "",
    "  \n ",
    "[CLS] the [MASK] [SEP][PAD] <s> [UNK]",
    "中文的字，中文！",
    "😀 the 👩\u200d👩\u200d👧 x",
    "naïve nai\u0308ve ﬁne ½ Ⅷ ＡＢＣ … ´a",
    "a\tb\r\nc\u3000d\u00a0e\u2028f",
    "a\x0bb a\u200bb a\u00adb \ufffd \x00",
    "▁the ▁▁",
    "x" * 300,
]


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def tokenizer(request) -> SentencePieceTokenizer:
    return train_sentencepiece(TEXTS, 150, request.param, character_coverage=1.0)


def test_special_tokens_have_the_first_ids(tokenizer):
    """The published ids 0 to 4, as `bert-jax vocab` gives them to WordPiece."""
    assert tokenizer.vocabulary[:5] == SPECIAL_TOKENS
    assert [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert tokenizer.vocab_size == len(tokenizer.vocabulary) <= 150
    assert tokenizer.kind == "sentencepiece"


@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
def test_text_never_gives_a_special_token(text, tokenizer):
    assert {0, 2, 3, 4}.isdisjoint(tokenizer.encode(text).ids)


@pytest.mark.parametrize("text", [*ODD_TEXTS, *TEXTS[:5]], ids=ascii)
def test_ids_are_those_of_the_library(text, tokenizer):
    """Encoding the parts between white space one by one makes no difference."""
    plain = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.files()["sentencepiece.model"])
    encoded = tokenizer.encode(text)
    assert encoded.ids == plain.encode(text, out_type=int)
    assert encoded.pieces == [tokenizer.vocabulary[index] for index in encoded.ids]
    assert tokenizer.encode_batch([text, "the", text]) == [encoded.ids, tokenizer.encode("the").ids, encoded.ids]
    assert tokenizer.encode_flat([text]).ids.tolist() == encoded.ids


@pytest.mark.parametrize("text", [*ODD_TEXTS, *TEXTS[:5]], ids=ascii)
def test_offsets_are_characters_of_the_text_as_given(text, tokenizer):
    """Each piece is what the model makes of the characters it is said to come from."""
    encoded = tokenizer.encode(text)
    assert len(encoded.offsets) == len(encoded.ids)
    place = 0
    for index, piece, (begin, end) in zip(encoded.ids, encoded.pieces, encoded.offsets, strict=True):
        assert begin <= end
        assert begin >= place - 1  # pieces of one character share it
        assert not text[place:begin].strip(" \t\r\n\u3000\u00a0\u2028\x00\x0b\u200b\u200d\ufffd▁"), (
            "characters were passed over"
        )
        place = max(place, end)
        surface = text[begin:end]
        if surface.isascii() and surface.isprintable() and index != tokenizer.unk_id:
            assert surface.strip() == piece.strip("▁")


def test_offsets_of_normalised_characters(tokenizer):
    """One character that becomes several, and several that become one."""
    text = "ﬁne nai\u0308ve 中文"
    encoded = tokenizer.encode(text)
    spans = [text[begin:end] for begin, end in encoded.offsets]
    assert encoded.ids == tokenizer.encode("fine naïve 中文").ids
    assert tokenizer.encode("…").offsets[-1] == (0, 1)
    assert set(tokenizer.encode("½").offsets) <= {(0, 0), (0, 1)}
    assert "".join(spans) == "ﬁnenai\u0308ve中文"
    assert any("i\u0308" in span for span in spans)


def test_halves_of_characters_are_unknown(tokenizer):
    encoded = tokenizer.encode("the \ud83d the")
    assert tokenizer.unk_id in encoded.ids
    assert encoded.offsets[-1][1] == len("the \ud83d the")


def test_training_is_deterministic(tokenizer, request):
    """Also in another process, where hashes are seeded otherwise."""
    code = (
        "import sys, json\nfrom bert_jax.tokenization import train_sentencepiece\n"
        "texts, model = json.loads(sys.stdin.read())\n"
        "print(train_sentencepiece(texts, 150, model, character_coverage=1.0).fingerprint)"
    )
    model = request.node.callspec.params["tokenizer"]
    assert train_sentencepiece(iter(TEXTS), 150, model, character_coverage=1.0).fingerprint == tokenizer.fingerprint
    command = [sys.executable, "-c", code]
    again = subprocess.run(command, input=json.dumps([TEXTS, model]), capture_output=True, text=True, check=True)
    assert again.stdout.strip() == tokenizer.fingerprint


def test_lowercase_folds_case_and_keeps_accents():
    folded = train_sentencepiece(["Äh ah ΣΟΣ"] * 3, 30, "bpe", lowercase=True)
    assert (folded.lowercase, folded.strip_accents) == (True, False)
    assert folded.encode("ÄH").ids == folded.encode("äh").ids != folded.encode("ah").ids
    assert folded.encode("σος").ids == folded.encode("ΣΟΣ").ids  # final sigma too
    kept = train_sentencepiece(["Äh ah ΣΟΣ"] * 3, 30, "bpe")
    assert not kept.lowercase
    assert kept.encode("ÄH").ids != kept.encode("äh").ids
    assert kept.fingerprint != folded.fingerprint


def test_training_leaves_no_line_out():
    """The trainer passes over lines with a tab or ▁, stops at NUL, and counts places in 16 bits."""
    texts = ["ab\tab ▁ab ▅ab \x00ab \ud800ab", "\t", "cd" * 50_000, "ef\nef"]
    tokenizer = train_sentencepiece(texts, 60, "bpe", character_coverage=1.0)
    assert set("abcdef") <= {character for entry in tokenizer.vocabulary[5:] for character in entry}
    assert tokenizer.encode("ab").pieces == ["▁ab"]


def test_training_refuses_what_cannot_work():
    for model in ("unigram", "bpe"):
        with pytest.raises(UserError, match="no words"):
            train_sentencepiece(["", " \n", "\u200b"], 100, model)
        with pytest.raises(UserError, match=r"of 8 entries is too small: .* make 9; raise --size"):
            train_sentencepiece(["abc abc"], 8, model)
    with pytest.raises(UserError, match="no SentencePiece model 'word': use unigram or bpe"):
        train_sentencepiece(TEXTS, 100, "word")


def test_decode_reads_well_and_encodes_to_the_same_ids(tokenizer):
    for text in ("The bab, m.", "中文的字  naïve ﬁne", TEXTS[0].replace("[MASK]", "")):
        ids = tokenizer.encode(text).ids
        assert tokenizer.unk_id not in ids
        assert tokenizer.encode(tokenizer.decode(ids)).ids == ids
    ids = tokenizer.encode("The").ids
    assert tokenizer.decode([tokenizer.cls_id, *ids, tokenizer.mask_id, *ids, 3]) == "[CLS] The [MASK] The [SEP]"
    assert tokenizer.decode([]) == ""
    with pytest.raises(UserError, match="id 150 is not in the vocabulary, which has"):
        tokenizer.decode([150])


def test_save_load_and_pickle(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "sentencepiece.model",
        "tokenizer_config.json",
    ]
    bare = tmp_path / "bare.model"
    bare.write_bytes((tmp_path / "new" / "folder" / "sentencepiece.model").read_bytes())
    copies = [load_tokenizer(tmp_path / "new" / "folder"), load_tokenizer(bare), pickle.loads(pickle.dumps(tokenizer))]
    for copy in copies:
        assert isinstance(copy, SentencePieceTokenizer)
        assert copy.fingerprint == tokenizer.fingerprint
        assert copy.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert copies[0].decided_by == "recorded in tokenizer_config.json"
    assert copies[1].decided_by == "bare.model normalises so"
    with pytest.raises(UserError, match=r"lowercase=True was asked, but .*bare\.model says False"):
        load_tokenizer(bare, lowercase=True)


def plain_model(**options) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=written,
        vocab_size=90,
        hard_vocab_limit=False,
        minloglevel=3,
        **options,
    )
    return written.getvalue()


def test_models_without_the_special_tokens_are_refused_by_name(tmp_path, tokenizer):
    """Pain: a model of another family, whose [MASK] would be [UNK]."""
    bert = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "pad_piece": "[PAD]", "unk_piece": "[UNK]"}
    bert |= {"bos_piece": "[CLS]", "eos_piece": "[SEP]"}
    file = tmp_path / "other.model"
    for content, words in (
        (
            plain_model(),
            r"lacks the special tokens \[PAD\], \[UNK\], \[CLS\], \[SEP\], \[MASK\] \(its first entries are <unk> <s>",
        ),
        (plain_model(**bert), r"lacks the special tokens \[MASK\] \("),
        (plain_model(**bert, user_defined_symbols=["[MASK]"]), r"its entry \[MASK\] is not a control symbol"),
        (plain_model(**bert, control_symbols=["[MASK]"], add_dummy_prefix=False), "add_dummy_prefix=true"),
        (
            plain_model(**bert, control_symbols=["[MASK]"], split_by_whitespace=False),
            r"its piece .*split_by_whitespace=true",
        ),
        (b"[PAD]\n[UNK]\n", "it is not a SentencePiece model"),
        (b"", "it is not a SentencePiece model"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=words) as caught:
            load_tokenizer(file)
        assert str(file) in str(caught.value)


def test_folders_that_do_not_fit_are_refused(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    other = train_sentencepiece(TEXTS, 140, "bpe")
    (tmp_path / "sentencepiece.model").write_bytes(other.files()["sentencepiece.model"])
    with pytest.raises(UserError, match="do not belong together"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL_TOKENS))
    with pytest.raises(UserError, match=r"has both vocab\.txt and sentencepiece\.model"):
        load_tokenizer(tmp_path)
