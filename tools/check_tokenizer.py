# SPDX-License-Identifier: Apache-2.0
"""Compare WordPiece ids with those of google-research/bert's own tokenizer.

    python -m bert_jax.tools.check_tokenizer --google PATH --vocab vocab.txt --input TEXT ... [--one-of N] [--output FILE]

PATH is a copy of https://github.com/google-research/bert, whose tokenization.py is run beside ours (TensorFlow is not
needed: it is asked for nothing but to open the vocabulary). Compared are every sentence of the text, and every
code point that Python's Unicode tables assign, alone, inside a word and between spaces, with and without lower-casing;
ours both by `encode_batch` and by `encode_flat`. The result is added to FILE (docs/tokenizer_check.json is the recorded
one). Exit status 0 only if all ids are equal.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import platform
import sys
import types
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from tqdm import tqdm

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.base.files import file_sha256, write_json
from bert_jax.base.types import JsonObject
from bert_jax.text.documents import read_documents
from bert_jax.text.sources import parse_sources, total_bytes
from bert_jax.tokenization import load_tokenizer, Tokenizer

CONTEXTS = {"alone": "{}", "inside a word": "a{}b", "between spaces": " {} "}
BATCH = 4096
EXAMPLES = 5  # differences that are shown


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and record."""
    options = _parser().parse_args(argv)
    google = load_google(options.google)
    tokenizer = load_tokenizer(options.vocab)
    check: JsonObject = {
        "vocabulary": options.vocab.name,
        "vocabulary_sha256": file_sha256(options.vocab),
        "entries": tokenizer.vocab_size,
    }
    if options.input:
        check["text"] = compare_text(google, options.vocab, tokenizer.lowercase, options.input, options.one_of)
    if not options.text_only:
        check["code_points"] = [compare_code_points(google, options.vocab, lower) for lower in (True, False)]
    check["versions"] = versions(options.google)
    if options.output:
        record(options.output, check)
    print(json.dumps(check, indent=2, ensure_ascii=False))
    found = [check["text"]] if "text" in check else []
    return int(any(part["different"] for part in found + check.get("code_points", [])))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--google", type=Path, required=True, metavar="PATH", help="a copy of google-research/bert")
    parser.add_argument("--vocab", type=Path, required=True, metavar="FILE", help="vocab.txt")
    parser.add_argument("--input", nargs="*", default=[], metavar="PATH", help="text, as bert-jax prepare takes it")
    parser.add_argument("--one-of", type=int, default=1, metavar="N", help="compare 1 of every N sentences")
    parser.add_argument("--text-only", action="store_true", help="leave the code points out")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file that the result is added to")
    return parser


def load_google(path: Path) -> types.ModuleType:
    """google-research/bert's tokenization.py, with stubs for TensorFlow and six."""
    file = path / "tokenization.py"
    if not file.exists():
        raise UserError(f"{file} is missing: give --google a copy of https://github.com/google-research/bert")
    gfile = types.SimpleNamespace(GFile=lambda name, mode: open(name, mode, encoding="utf-8"))  # noqa: SIM115
    stubs: JsonObject = {
        "tensorflow": types.SimpleNamespace(gfile=gfile),
        "six": types.SimpleNamespace(PY2=False, PY3=True),
    }
    before = {name: sys.modules.get(name) for name in stubs}
    spec = importlib.util.spec_from_file_location("google_bert_tokenization", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        sys.modules.update(stubs)
        spec.loader.exec_module(module)
    finally:
        for name, original in before.items():
            del sys.modules[name]
            if original is not None:
                sys.modules[name] = original
    return module


def compare_text(google: ModuleType, vocab: Path, lowercase: bool, inputs: Sequence[str], one_of: int) -> JsonObject:
    """Compare 1 of every `one_of` sentences of the inputs."""
    sources = parse_sources(inputs)
    files = [file for source in sources for file in source.files]
    size = total_bytes(sources)

    def on_bytes(count: int) -> None:
        bar.update(count)

    with tqdm(total=size, unit="B", unit_scale=True, disable=None, desc="text", file=sys.stderr) as bar:
        documents = (document for file in files for document in read_documents(file, on_bytes=on_bytes))
        sentences = itertools.islice(itertools.chain.from_iterable(documents), 0, None, one_of)
        result = compare(google, vocab, lowercase, sentences)
    digest = hashlib.sha256("".join(file_sha256(file) for file in files).encode()).hexdigest()
    text = {"inputs": [source.name for source in sources], "files": len(files), "bytes": size, "sha256": digest}
    return text | {"one_of_every": one_of} | result


def compare_code_points(google: ModuleType, vocab: Path, lowercase: bool) -> JsonObject:
    """Compare every assigned code point, in each of the contexts."""
    assigned = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) != "Cn"]
    texts = (context.format(character) for context in CONTEXTS.values() for character in assigned)
    total = len(assigned) * len(CONTEXTS)
    bar = tqdm(texts, total=total, disable=None, desc="code points", file=sys.stderr)
    return {"assigned": len(assigned), "contexts": list(CONTEXTS)} | compare(google, vocab, lowercase, bar)


def compare(google: ModuleType, vocab: Path, lowercase: bool, texts: Iterable[str]) -> JsonObject:
    """Compare the ids of each text; counts, and the first few that differ."""
    ours = load_tokenizer(vocab, lowercase=lowercase)
    theirs = google.FullTokenizer(str(vocab), do_lower_case=lowercase)
    count = size = tokens = different = 0
    examples: list[JsonObject] = []
    for batch in itertools.batched(texts, BATCH):
        expected = [theirs.convert_tokens_to_ids(theirs.tokenize(text)) for text in batch]
        for text, ids, *found in zip(batch, expected, ours.encode_batch(batch), flat_ids(ours, batch), strict=True):
            size += len(text.encode("utf-8", "surrogatepass"))
            tokens += len(ids)
            if any(other != ids for other in found):
                different += 1
                if len(examples) < EXAMPLES:
                    examples.append(
                        {"text": ascii(text), "google": ids, "encode_batch": found[0], "encode_flat": found[1]}
                    )
        count += len(batch)
    return {
        "lowercase": lowercase,
        "texts": count,
        "text_bytes": size,
        "tokens": tokens,
        "different": different,
        "examples": examples,
    }


def flat_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """The ids of each text, by `encode_flat`."""
    flat = tokenizer.encode_flat(texts)
    for part in np.split(flat.ids, np.cumsum(flat.lengths)[:-1]):
        yield part.tolist()


def versions(google: Path) -> dict[str, str]:
    """Return the versions that the result depends on."""
    return {
        "bert_jax": bert_jax.base.host.__version__,
        "python": platform.python_version(),
        "unicode": unicodedata.unidata_version,
        "tokenizers": importlib.metadata.version("tokenizers"),
        "google-research/bert tokenization.py sha256": file_sha256(google / "tokenization.py"),
    }


def record(path: Path, check: JsonObject) -> None:
    """Add a check to the file; it takes the place of the one with the same vocabulary."""
    checks = json.loads(path.read_text(encoding="utf-8"))["checks"] if path.exists() else []
    checks = [other for other in checks if other["vocabulary"] != check["vocabulary"]]
    write_json(path, {"checks": sorted([*checks, check], key=lambda entry: entry["vocabulary"])})


if __name__ == "__main__":
    sys.exit(main())
