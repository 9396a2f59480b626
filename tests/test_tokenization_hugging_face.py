# SPDX-License-Identifier: Apache-2.0
"""transformers' files of a tokenizer: every field is obeyed, refused, or named; ids are those of the `tokenizers` library."""

import json
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenization_samples import VOCABULARY

from bert_jax.base.errors import UserError
from bert_jax.conversion.vocabularies import not_kept, write_google_vocabulary, write_hugging_face_tokenizer
from bert_jax.tokenization import load_tokenizer, WordPieceTokenizer
from bert_jax.tokenization.hugging_face import read_description
from bert_jax.tokenization.switches import AddedToken, Switches

TEXTS = [
    "The cat sat on the mat",
    "cat sat, <e1>the mat</e1>!",
    "the Covid19 cat, covid19s and xcovid19",
    "the new   york cat new york",
    "中文 cat 文中",
    "café CAFÉ",
    "a" * 100,
    "a" * 101,
    "",
    "new york",
    "the cat\nsat  on  the mat",
]
ADDED = {
    "plain": [AddedToken("covid19"), AddedToken("[subj]")],
    "special": [
        AddedToken("<e1>", normalized=False, special=True),
        AddedToken("</e1>", normalized=False, special=True),
    ],
    "single word": [AddedToken("covid19", single_word=True)],
    "with spaces": [AddedToken("new york", lstrip=True, rstrip=True)],
    "cased": [AddedToken("Covid19", normalized=False), AddedToken("New York")],
    "an entry": [AddedToken("mat", normalized=False), AddedToken("covid19")],
    "ideographs": [AddedToken("中文")],
    "blanks": [AddedToken("\n", normalized=False, special=True), AddedToken("  ", normalized=False)],
}
SWITCHES = {
    **{name: Switches(max_input_chars_per_word=100, added_tokens=tuple(tokens)) for name, tokens in ADDED.items()},
    "chinese whole": Switches(tokenize_chinese_chars=False, max_input_chars_per_word=100),
    "short words": Switches(max_input_chars_per_word=5),
}


def flat_ids(tokenizer: WordPieceTokenizer, texts: list[str]) -> list[list[int]]:
    flat = tokenizer.encode_flat(texts)
    ids = iter(flat.ids.tolist())
    return [[next(ids) for _ in range(length)] for length in flat.lengths]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("name", SWITCHES)
def test_ids_are_those_of_the_library(tmp_path, name, lowercase):
    """By each of our ways, before and after the way through both libraries' files; the bug: added tokens were padding."""
    tokenizer = WordPieceTokenizer(VOCABULARY, lowercase, switches=SWITCHES[name])
    tmp_path.joinpath("theirs").mkdir()
    write_hugging_face_tokenizer(tokenizer, tmp_path / "theirs", 512)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "theirs" / "tokenizer.json"))
    expected = [library.encode(text, add_special_tokens=False).ids for text in TEXTS]
    tokenizer.save(tmp_path / "ours")
    again = [
        load_tokenizer(tmp_path / "theirs"),
        load_tokenizer(tmp_path / "ours"),
        pickle.loads(pickle.dumps(tokenizer)),
    ]
    for copy in again:
        assert copy.fingerprint == tokenizer.fingerprint
    for one in (tokenizer, again[0]):
        assert [one.encode(text).ids for text in TEXTS] == expected
        assert flat_ids(one, TEXTS) == expected
        assert one.encode_batch(TEXTS) == expected
    assert tokenizer.vocab_size == library.get_vocab_size()


def test_settings_of_google_have_the_fingerprint_they_had():
    """A vocabulary that was prepared with before must be recognised."""
    tokenizer = WordPieceTokenizer(VOCABULARY, True)
    assert tokenizer.settings() == {"kind": "wordpiece", "lowercase": True, "strip_accents": True}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A directory as transformers writes one, with added tokens."""
    folder = tmp_path / "m"
    folder.mkdir()
    write_hugging_face_tokenizer(WordPieceTokenizer(VOCABULARY, True, switches=SWITCHES["special"]), folder, 512)
    return folder


def change(file: Path, **changes: Any) -> None:
    values = json.loads(file.read_text())
    for path, value in changes.items():
        *outer, last = path.split("__")
        inner = values
        for name in outer:
            inner = inner[name]
        inner[last] = value
    file.write_text(json.dumps(values))


def test_a_vocabulary_in_tokenizer_json_alone(folder):
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").unlink()
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocabulary == (*VOCABULARY, "<e1>", "</e1>")
    assert tokenizer.decided_by == "recorded in tokenizer.json"


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_added_tokens_of_older_files(folder, file):
    """Those that transformers 4 and 3 wrote beside a vocab.txt; a special one is looked for in the text as it is."""
    (folder / "tokenizer.json").unlink()
    change(folder / "tokenizer_config.json", added_tokens_decoder={})
    first = len(VOCABULARY)
    if file == "added_tokens.json":
        (folder / file).write_text(json.dumps({"</e1>": first + 1, "<e1>": first}))
    elif file == "tokenizer_config.json":
        written = {str(first + number): asdict(token) for number, token in enumerate(ADDED["special"])}
        change(folder / file, added_tokens_decoder=written)
    else:
        change(folder / file, additional_special_tokens=["<e1>", {"content": "</e1>", "normalized": False}])
    assert load_tokenizer(folder).encode("<e1>cat</e1>").ids == [first, VOCABULARY.index("cat"), first + 1]


@pytest.mark.parametrize(
    ("config", "library", "lowercase"),
    [
        ({"do_lower_case": None}, {"normalizer__lowercase": False}, False),  # tokenizer.json is read
        ({"do_lower_case": False}, {"normalizer__lowercase": False}, False),
        ({"do_lower_case": False}, {}, False),  # as transformers: tokenizer_config.json counts, and that is said
        ({"do_lower_case": None}, {"normalizer__lowercase": None}, False),  # nothing says it: one capital of 49
    ],
)
def test_which_file_decides_about_case(folder, config, library, lowercase):
    change(folder / "tokenizer_config.json", **config)
    change(folder / "tokenizer.json", **library)
    assert load_tokenizer(folder).lowercase is lowercase
    contradict = config["do_lower_case"] is False and not library
    said = "tokenizer_config.json says do_lower_case=false, tokenizer.json lowercase=true"
    assert any(note.startswith(said) for note in not_kept(folder, 512)) == contradict


@pytest.mark.parametrize(
    ("kind", "strips"),
    [("BertTokenizer", True), (None, True), ("PreTrainedTokenizerFast", False), ("TokenizersBackend", False)],
)
def test_which_file_decides_about_accents(folder, kind, strips):
    """As transformers 5.24: its BertTokenizer asks tokenizer.json for the vocabulary alone, the general classes for all."""
    change(folder / "tokenizer_config.json", tokenizer_class=kind, strip_accents=None, do_lower_case=True)
    change(folder / "tokenizer.json", normalizer__strip_accents=False)
    assert load_tokenizer(folder).strip_accents is strips
    said = "tokenizer_config.json leaves strip_accents open, tokenizer.json strip_accents=false: the former counts"
    assert any(note.startswith(said) for note in not_kept(folder, 512)) == strips
    (folder / "tokenizer_config.json").unlink()
    assert load_tokenizer(folder).strip_accents is False


# Field of tokenizer_config.json -> a value, and what becomes of it: obeyed, refused, without effect or named as left out.
CONFIG_FIELDS: dict[str, tuple[Any, str]] = {
    "do_lower_case": (False, "obeyed"),
    "strip_accents": (False, "obeyed"),
    "tokenize_chinese_chars": (False, "obeyed"),
    "added_tokens_decoder": ({"49": asdict(ADDED["special"][0]), "50": asdict(ADDED["special"][1])}, "no effect"),
    "extra_special_tokens": (["cat"], "obeyed"),
    "additional_special_tokens": (["cat"], "obeyed"),
    "model_max_length": (64, "said"),
    "tokenizer_class": ("BertJapaneseTokenizer", "refused"),
    **{f"{name}_token": ("<x>", "refused") for name in ("cls", "sep", "mask", "pad", "unk")},
    "never_split": (["cat"], "said"),
    "do_basic_tokenize": (False, "said"),
    "padding_side": ("left", "said"),
    "truncation_side": ("left", "said"),
    "word_tokenizer_type": ("mecab", "said"),
    **dict.fromkeys(("backend", "name_or_path", "vocab_file", "truncation_strategy"), ("x", "no effect")),
    **dict.fromkeys(("is_local", "local_files_only", "clean_up_tokenization_spaces"), (True, "no effect")),
    **dict.fromkeys(("max_length", "stride", "pad_to_multiple_of", "pad_token_type_id"), (8, "no effect")),
}


@pytest.mark.parametrize("name", CONFIG_FIELDS)
def test_a_field_of_tokenizer_config_is_obeyed_refused_or_named(folder, name):
    value, expected = CONFIG_FIELDS[name]
    before, first = load_tokenizer(folder).settings(), len(VOCABULARY)
    if name == "added_tokens_decoder":
        value = {str(first + number): token for number, token in enumerate(value.values())}
    change(folder / "tokenizer_config.json", **{name: value})
    if expected == "refused":
        with pytest.raises(UserError, match=f"says {name}="):
            load_tokenizer(folder)
        return
    assert (load_tokenizer(folder).settings() != before) == (expected == "obeyed")
    said = [note for note in not_kept(folder, 512) if f"{name}=" in note]
    contradicts = name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars")  # tokenizer.json, which is said
    assert len(said) == (contradicts or expected == "said")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer__clean_text": False}, "clean_text=False of its normalizer"),
        ({"normalizer__type": "Sequence"}, "WordPiece tokenizer with Sequence, not BERT's WordPiece"),
        ({"pre_tokenizer__type": "Whitespace"}, "type='Whitespace' of its pre_tokenizer"),
        ({"model__continuing_subword_prefix": "@@"}, "continuing_subword_prefix='@@' of its model"),
        ({"model__unk_token": "<unk>"}, "unk_token='<unk>' of its model"),
        ({"model__max_input_chars_per_word": 0}, "max_input_chars_per_word=0, which is not 1 to 1,000,000"),
        ({"post_processor__single": [{"Sequence": {"id": "A", "type_id": 0}}]}, r"makes \['A 0'\] of a single"),
        ({"model__vocab": {"[PAD]": 0, "x": 7}}, "the ids of its vocabulary are not 0 to 1"),
        ({"added_tokens": [{"id": 3, "content": "<e1>"}]}, "the id 49|gives the added token '<e1>' the id"),
        ({"added_tokens": 7}, "its added_tokens is no list"),
        ({"normalizer": [1]}, "its normalizer is no object"),
        ({"model__vocab": {entry: index for index, entry in enumerate(reversed(VOCABULARY))}}, "not of one vocabulary"),
    ],
)
def test_a_tokenizer_json_of_another_kind_is_refused(folder, changes, message):
    change(folder / "tokenizer.json", **changes)
    with pytest.raises(UserError, match=message):
        load_tokenizer(folder)


def test_what_a_vocab_txt_cannot_say_is_said(tmp_path):
    switches = Switches(False, 100, (AddedToken("new york"),))
    tokenizer = WordPieceTokenizer(VOCABULARY, True, strip_accents=False, switches=switches)
    said = " / ".join(write_google_vocabulary(tokenizer, tmp_path))
    for words in ("tokens new york are entries", "tokenize_chinese_chars=false", "strip_accents=false", "per_word=100"):
        assert words in said
    assert (tmp_path / "vocab.txt").read_text().splitlines() == [*VOCABULARY, "new york"]


def test_a_folder_without_such_files_is_not_described(tmp_path):
    assert read_description(tmp_path) is None
