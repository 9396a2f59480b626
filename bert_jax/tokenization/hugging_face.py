# SPDX-License-Identifier: Apache-2.0
"""The files that transformers writes beside a vocabulary, or in its place: what they say of a BERT's tokenizer.

tokenizer_config.json decides, and what it leaves open transformers' defaults, as with transformers' own BertTokenizer, which
asks tokenizer.json for the vocabulary alone. There are two exceptions. Case, where it is left open, is that of tokenizer.json,
or else of the vocabulary's capitals. And tokenizer.json decides about everything where it stands alone, or where
`tokenizer_class` is a general one, which transformers makes of it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from bert_jax.base.errors import listed, UserError
from bert_jax.base.files import read_json
from bert_jax.base.types import JsonObject
from bert_jax.tokenization.encoding import SPECIAL_TOKENS, TOKENIZER_FILE
from bert_jax.tokenization.switches import AddedToken, LONGEST_WORD_OF_TRANSFORMERS, Switches

LIBRARY_FILE = "tokenizer.json"  # of the tokenizers library
ADDED_TOKENS_FILE, SPECIAL_TOKENS_FILE = "added_tokens.json", "special_tokens_map.json"
LARGEST_FILE = 64 * 2**20  # bytes; that of the 120,000 entries of multilingual BERT has 3 million

_ELSE = "copy its vocab.txt alone to another folder and give it by --vocab, if it is BERT's"
# transformers' names of tokenizers that cut text as BERT's does.
_GENERAL_CLASSES = {"PreTrainedTokenizerFast", "TokenizersBackend"}  # as tokenizer.json says
_CLASSES = _GENERAL_CLASSES | {
    f"{name}Tokenizer{fast}" for name in ("Bert", "DistilBert", "Electra", "MobileBert") for fast in ("", "Fast")
}
SPECIAL_NAMES = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}  # pad_token: [PAD]
# Fields of tokenizer_config.json that change no id of a text that fits. Others are said, where they say anything.
_READ = {
    "do_lower_case", "strip_accents", "tokenize_chinese_chars", "tokenizer_class", "added_tokens_decoder",
    "additional_special_tokens", "extra_special_tokens", "model_max_length", *SPECIAL_NAMES,
}  # fmt: skip
_WITHOUT_EFFECT = {
    "backend", "clean_up_tokenization_spaces", "is_local", "local_files_only", "max_len", "max_length", "model_input_names",
    "name_or_path", "pad_to_multiple_of", "pad_token_type_id", "processor_class", "special_tokens_map_file", "stride",
    "tokenizer_file", "truncation_strategy", "vocab_file", "do_basic_tokenize", "never_split", "padding_side",
    "truncation_side", "legacy", "init_inputs", "use_fast", "transformers_version",
}  # fmt: skip
_HARMLESS = {"do_basic_tokenize": True, "never_split": None, "padding_side": "right", "truncation_side": "right"}


@dataclass(frozen=True)
class Described:
    """The settings that the files state; None where they leave one open."""

    lowercase: bool | None
    decided_by: str  # the name of the file that says `lowercase`
    strip_accents: bool | None  # None: where text is lower-cased
    switches: Switches
    entries: Sequence[str] | None  # of tokenizer.json
    notes: tuple[str, ...]  # what is not kept, and where files disagree
    longest: int | None  # tokens of a text, by model_max_length


def read_description(folder: Path) -> Described | None:
    """Read transformers' files in a folder; return None where there are none.

    Raises:
      UserError: a file that cannot be read, or describes a tokenizer that is not BERT's WordPiece, by file and field.
    """
    names = (TOKENIZER_FILE, LIBRARY_FILE, ADDED_TOKENS_FILE)
    if not any((folder / name).is_file() for name in names):
        return None
    config, library = _object(folder / TOKENIZER_FILE), _object(folder / LIBRARY_FILE)
    _require_bert(folder / TOKENIZER_FILE, config)
    normalizer: JsonObject = {}
    model: JsonObject = {}
    entries = None
    if (folder / LIBRARY_FILE).is_file():
        normalizer, model = _require_wordpiece(folder / LIBRARY_FILE, library)
        entries = _entries(folder / LIBRARY_FILE, model.get("vocab"))
    special = _object(folder / SPECIAL_TOKENS_FILE)
    _require_special(folder / SPECIAL_TOKENS_FILE, special)
    said = {
        TOKENIZER_FILE: _switches(folder / TOKENIZER_FILE, config, _SWITCHES),
        LIBRARY_FILE: _switches(folder / LIBRARY_FILE, normalizer, _SWITCHES.values()),
    }
    library_decides = bool(normalizer) and (not config or config.get("tokenizer_class") in _GENERAL_CLASSES)
    decided_by = LIBRARY_FILE if library_decides else TOKENIZER_FILE
    taken = said[decided_by]
    if taken["do_lower_case"] is None:
        decided_by = LIBRARY_FILE
        taken = taken | {"do_lower_case": said[LIBRARY_FILE]["do_lower_case"]}
    longest_word = model.get("max_input_chars_per_word", LONGEST_WORD_OF_TRANSFORMERS)
    apart = taken["tokenize_chinese_chars"] is not False
    added = tuple(_added_tokens(folder, config, library, special))
    notes = [*_contradictions(said, library_decides, taken["do_lower_case"]), *_left_out(config, library)]
    longest = config.get("model_max_length")
    return Described(
        taken["do_lower_case"],
        decided_by,
        taken["strip_accents"],
        Switches(apart, longest_word, added),
        entries,
        tuple(notes),
        longest if isinstance(longest, int) else None,
    )


_SWITCHES = {  # in transformers' words and in those of the library
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def _object(path: Path) -> JsonObject:
    """The named values of a file; none where it is missing."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(
                f"{path} has {path.stat().st_size:,} bytes, and a file of a tokenizer {LARGEST_FILE:,} at most: it is another"
                " file"
            )
        return read_json(path, "remove it, or make the vocabulary again")
    except FileNotFoundError:
        return {}


def _switches(path: Path, values: JsonObject, keys: Iterable[str]) -> dict[str, bool | None]:
    """The switches that a file states, in transformers' words; None where it leaves one open."""
    found = {}
    for name, key in zip(_SWITCHES, keys, strict=True):
        found[name] = value = values.get(key)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{path} says {key}={value!r:.80}, which is neither true nor false: correct it")
    return found


def _contradictions(
    said: Mapping[str, Mapping[str, bool | None]], library_decides: bool, lowercase: bool | None
) -> Iterator[str]:
    """Say where what tokenizer.json states is not what tokenizer_config.json states, or would be without it."""
    counts = "the latter counts" if library_decides else "the former counts"
    for name, inner in _SWITCHES.items():
        first, second = said[TOKENIZER_FILE][name], said[LIBRARY_FILE][name]
        if second is None or first == second or (first is None and name == "do_lower_case"):
            continue
        if first is not None:
            stated = f"says {name}={str(first).lower()}"
        elif library_decides or second == {"strip_accents": lowercase, "tokenize_chinese_chars": True}[name]:
            continue
        else:
            stated = f"leaves {name} open"
        yield f"{TOKENIZER_FILE} {stated}, {LIBRARY_FILE} {inner}={str(second).lower()}: {counts}, as for transformers"


# ---- what is no BERT's tokenizer -----------------------------------------------------------------------------------


def _require_bert(path: Path, config: JsonObject) -> None:
    kind = config.get("tokenizer_class")
    if kind is not None and not (isinstance(kind, str) and kind in _CLASSES):
        raise UserError(f"{path} says tokenizer_class={kind!r:.80}, which does not cut text as BERT's does: {_ELSE}")
    _require_special(path, config)


def _require_special(path: Path, values: JsonObject) -> None:
    for name, expected in SPECIAL_NAMES.items():
        found = _content(values.get(name, expected))
        if found not in (expected, None):
            raise UserError(f"{path} says {name}={found!r:.80}: a BERT's is {expected}; {_ELSE}")


def _content(token: object) -> object:
    """The text of a token that is written as text or as an object."""
    return token.get("content") if isinstance(token, Mapping) else token


def _require_wordpiece(path: Path, library: JsonObject) -> tuple[JsonObject, JsonObject]:
    """The normalizer and the model of a tokenizer.json, which are BERT's."""
    kinds = {name: library.get(name) or {} for name in ("model", "normalizer", "pre_tokenizer", "post_processor")}
    odd = next((name for name, value in kinds.items() if not isinstance(value, Mapping)), None)
    if odd is not None:
        raise UserError(f"{path}: its {odd} is no object: copy or download it again")
    model, normalizer = kinds["model"], kinds["normalizer"]
    if model.get("type", "WordPiece") != "WordPiece" or normalizer.get("type") != "BertNormalizer":
        raise UserError(
            f"{path} holds a {model.get('type')!s:.40} tokenizer with {normalizer.get('type')!s:.40}, not BERT's WordPiece:"
            f" {_ELSE}"
        )
    longest = model.get("max_input_chars_per_word", 1)
    if type(longest) is not int or not 1 <= longest <= 10**6:
        raise UserError(
            f"{path} says max_input_chars_per_word={longest!r:.80}, which is not 1 to 1,000,000: correct it"
        )
    wanted = (
        ("model", "unk_token", "[UNK]"),
        ("model", "continuing_subword_prefix", "##"),
        ("normalizer", "clean_text", True),
        ("pre_tokenizer", "type", "BertPreTokenizer"),
    )
    for part, name, expected in wanted:
        found = kinds[part].get(name, expected)
        if found != expected:
            raise UserError(f"{path} says {name}={found!r:.80} of its {part}: a BERT's is {expected!r}; {_ELSE}")
    _require_template(path, kinds["post_processor"])
    return normalizer, model


_TEMPLATES = {"single": ["[CLS] 0", "A 0", "[SEP] 0"], "pair": ["[CLS] 0", "A 0", "[SEP] 0", "B 1", "[SEP] 1"]}


def _require_template(path: Path, processor: JsonObject) -> None:
    """[CLS] A [SEP] B [SEP], with segments 0 and 1, is what a text becomes here."""
    if processor.get("type") != "TemplateProcessing":
        return
    for name, expected in _TEMPLATES.items():
        parts = processor.get(name)
        parts = parts if isinstance(parts, list) else []
        pieces: list[object] = [next(iter(part.values()), {}) for part in parts if isinstance(part, Mapping)]
        found = [f"{piece.get('id')} {piece.get('type_id')}" for piece in pieces if isinstance(piece, Mapping)]
        if found != expected:
            raise UserError(f"{path} makes {found!r:.160} of a {name}: a BERT's is {' '.join(expected)}; {_ELSE}")


def _entries(path: Path, vocabulary: object) -> list[str]:
    """The entries of a tokenizer.json by their ids."""
    if not isinstance(vocabulary, Mapping) or not vocabulary:
        raise UserError(f"{path}: its vocabulary has no entries: copy or download it again")
    if not all(type(number) is int for number in vocabulary.values()) or sorted(vocabulary.values()) != list(
        range(len(vocabulary))
    ):
        raise UserError(f"{path}: the ids of its vocabulary are not 0 to {len(vocabulary) - 1}: {_ELSE}")
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise UserError(f"{path} lacks the special tokens {', '.join(missing)}: {_ELSE}")
    return sorted(vocabulary, key=vocabulary.__getitem__)


# ---- added tokens --------------------------------------------------------------------------------------------------


def _added_tokens(folder: Path, config: JsonObject, library: JsonObject, special: JsonObject) -> Iterator[AddedToken]:
    """The added tokens of all files, in the order of their ids, those without an id last; BERT's own five are none."""
    found: dict[str, tuple[float, AddedToken]] = {}
    for file, number, token in _written_tokens(folder, config, library, special):
        content = _content(token)
        if not isinstance(content, str) or not content:
            raise UserError(f"{folder / file} has an added token {token!r:.80}, which is no text: correct it")
        known = found.get(content)
        if known is not None and number not in (known[0], float("inf")):
            raise UserError(
                f"{folder / file} gives the added token {content!r} the id {number}, another file there {known[0]}: they do"
                " not belong together"
            )
        if content not in SPECIAL_TOKENS and known is None:
            found[content] = number, _added_token(content, token, special=file == SPECIAL_TOKENS_FILE)
    yield from (token for _, token in sorted(found.values(), key=lambda one: one[0]))


def _written_tokens(
    folder: Path, config: JsonObject, library: JsonObject, special: JsonObject
) -> Iterator[tuple[str, float, object]]:
    """File, id (infinity where it says none) and token, as they are written."""
    for token in _listed_in(folder / LIBRARY_FILE, library, "added_tokens"):
        number = token.get("id") if isinstance(token, Mapping) else None
        yield LIBRARY_FILE, _number(folder / LIBRARY_FILE, number), token
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, Mapping):
        raise UserError(f"{folder / TOKENIZER_FILE}: its added_tokens_decoder is no object: correct it")
    for number, token in decoder.items():
        yield TOKENIZER_FILE, _number(folder / TOKENIZER_FILE, number), token
    for content, number in _object(folder / ADDED_TOKENS_FILE).items():
        yield ADDED_TOKENS_FILE, _number(folder / ADDED_TOKENS_FILE, number), content
    for file, values in ((TOKENIZER_FILE, config), (SPECIAL_TOKENS_FILE, special)):
        for name in ("additional_special_tokens", "extra_special_tokens"):
            for token in _listed_in(folder / file, values, name):
                yield SPECIAL_TOKENS_FILE, float("inf"), token


def _listed_in(path: Path, values: JsonObject, name: str) -> list[object]:
    found = values.get(name) or []
    found = list(found.values()) if isinstance(found, Mapping) else found  # transformers 5 may name its extra tokens
    if not isinstance(found, list):
        raise UserError(f"{path}: its {name} is no list: correct it")
    return found


def _number(path: Path, value: object) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    if type(value) is not int or value < 0:
        raise UserError(f"{path} gives an added token the id {value!r:.80}, which is no number from 0: correct it")
    return value


def _added_token(content: str, token: object, special: bool) -> AddedToken:
    """Make an added token with the flags that are written, or transformers' defaults for one that is text alone."""
    if not isinstance(token, Mapping):
        return AddedToken(content, normalized=not special, special=special)
    flags = {field.name: token[field.name] for field in fields(AddedToken) if type(token.get(field.name)) is bool}
    return AddedToken(**{"content": content, **flags})


# ---- what is not kept ----------------------------------------------------------------------------------------------


def _left_out(config: JsonObject, library: JsonObject) -> Iterator[str]:
    said = [
        f"{name}={config[name]!r:.40}"
        for name, usual in _HARMLESS.items()
        if config.get(name, usual) not in (usual, [])
    ]
    others = config.keys() - _READ - _WITHOUT_EFFECT
    said += [f"{name}={config[name]!r:.40}" for name in sorted(others) if config[name] is not None]
    if said:
        yield f"left out of {TOKENIZER_FILE}, for which there is no place: {listed(said, 12)}"
    cut = [name for name in ("truncation", "padding") if library.get(name)]
    if cut:
        yield f"left out of {LIBRARY_FILE}: its {' and '.join(cut)}; texts are cut and padded where they are used"
