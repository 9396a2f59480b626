# SPDX-License-Identifier: Apache-2.0
"""Odd JSON in any file that is read: it is understood, or one line names the file. Nothing else may come of it."""

import copy
import json
import math
import random
import re

import pytest
from tokenization_samples import VOCABULARY

from bert_jax.base.errors import UserError
from bert_jax.base.files import DEEPEST_JSON, parse_json, read_json, write_json
from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.model import ModelConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import load_config, to_dict
from bert_jax.conversion.config_files import read_google, read_hugging_face
from bert_jax.conversion.sharded import open_sharded
from bert_jax.feed.shards import read_manifest
from bert_jax.finetuning.directory import Finetuned, open_finetuned
from bert_jax.finetuning.run import read_result
from bert_jax.preparation.work_folder import read_record as read_work_record
from bert_jax.runs.directory import forget_metrics_after, RunDirectory
from bert_jax.runs.finetuned import load_finetuned, load_several
from bert_jax.runs.reading import read_metrics
from bert_jax.text.corpus import finished_corpus
from bert_jax.tokenization import load_tokenizer, WordPieceTokenizer

TOKENIZER = WordPieceTokenizer(VOCABULARY, lowercase=True)
SHAPE = {name: value for name, value in to_dict(ModelConfig()).items() if name != "hidden_act"}
FINETUNE = {
    "task": {"name": "sst2"},
    "title": "SST-2",
    "kind": "classification",
    "metrics": ["accuracy"],
    "labels": ["0", "1"],
    "settings": to_dict(FinetuneConfig()),
    "data": "d",
    "found": {},
}
SCORES = {
    "main": {"metric": "accuracy", "split": "dev", "value": 0.5},
    "scores": {"dev": {"accuracy": 0.5}},
    "degenerate": None,
}
TAGGER = ModelDescription(ModelConfig(), mlm=False, nsp=False, task=TaskHead("tagging", 2, ("A", "B"), (-1, -2)))
MANIFEST = {
    "format": 7,
    "tokenizer": TOKENIZER.fingerprint,
    "vocab_size": 9,
    "sequence_lengths": [16],
    "splits": {"train": {"tokens": 5, "tables": {}, "shards": [{"file": "a", "bytes": 3, "sha256": "", "max_id": 2}]}},
}


def of_run(read):
    return lambda file: read(RunDirectory(file.parent))


def of_finetuned(file):
    run = open_finetuned(file.parent)
    return run.settings(), run.task()


def tokenizer_beside(file):
    for name, content in TOKENIZER.files().items():
        (file.parent / name).write_bytes(content)
    return load_tokenizer(file.parent)


READERS = {
    "config.json": (to_dict(PretrainConfig()), load_config),
    "model.json": (TAGGER.to_dict(), of_run(lambda run: run.description())),
    "passport.json": (MANIFEST, of_run(lambda run: run.manifest())),
    "metrics.jsonl": ({"kind": "train", "step": 3, "loss": 1.5}, lambda file: read_metrics(file)),
    "metrics.jsonl, resumed": ({"step": 3}, of_run(lambda run: forget_metrics_after(run, 2))),
    "finetune.json": (FINETUNE, of_finetuned),
    "finetune.json, reported": (FINETUNE, lambda file: load_finetuned(file.parent)),
    "scores.json": (SCORES, lambda file: read_result(Finetuned(file.parent, FINETUNE))),
    "seeds.json": (
        {"title": "", "metric": "f1", "split": "dev", "best": "s", "runs": [{"folder": "s"}]},
        lambda file: load_several(file.parent),
    ),
    "tokenizer_config.json": ({"fingerprint": TOKENIZER.fingerprint, **TOKENIZER.settings()}, tokenizer_beside),
    "tokenizer.json": (
        {
            "model": {"type": "WordPiece", "vocab": {entry: number for number, entry in enumerate(VOCABULARY)}},
            "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
        },
        load_tokenizer,
    ),
    "bert_config.json": (SHAPE | {"hidden_act": "gelu"}, read_google),
    "hugging.json": (SHAPE | {"hidden_act": "gelu", "model_type": "bert"}, read_hugging_face),
    "model.safetensors.index.json": (
        {"metadata": {"total_size": 4}, "weight_map": {"a": "b.safetensors"}},
        lambda file: open_sharded(file, lambda path: pytest.fail(f"{path} is not there")),
    ),
    "corpus.json": (
        {"format": 1, "settings": {"megabytes": None, "seed": 0}, "files": [{"file": "a", "bytes": 0}]},
        lambda file: finished_corpus(file.parent, None, 0),
    ),
    "record-00000-00000.json": ({"part": {"number": 0}, "files": [], "chunks": 3}, read_work_record),
    "data/passport.json": (MANIFEST, lambda file: read_manifest(file.parent)),
}
ODD = (None, [], {}, "x", "\ud83d", True, -1, 1.5, float("inf"), float("nan"), 10**400, [[]], {"a": {"b": [None]}})


def places(value, path=()):
    """Every place in a nested value, the whole of it first."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield from places(part, (*path, name))


def put(value, path, new):
    if not path:
        return new
    changed = copy.deepcopy(value)
    *way, last = path
    node = changed
    for name in way:
        node = node[name]
    if new is ...:
        del node[last]
    else:
        node[last] = new
    return changed


def texts_of(content, rng):
    """Damaged forms of a file, the same ones in every run of the test."""
    whole = json.dumps(content).encode()
    yield from (b"", b"[]", b"null", b'"text"', b"7", b"\xff\xfe", b"\x00" * 9, b"[" * 100_000, b'{"a":' * 100_000)
    yield b"[" * 100_000 + b"]" * 100_000
    for place in rng.sample(list(places(content)), k=min(12, len(list(places(content))))):
        for odd in rng.sample(ODD, k=5) + [...] * bool(place):
            yield json.dumps(put(content, place, odd)).encode()
        yield json.dumps(put(content, place, "DEEP")).encode().replace(b'"DEEP"', b"[" * 500 + b"]" * 500)
    for _ in range(25):
        torn = bytearray(whole)
        torn[rng.randrange(len(torn))] ^= 1 << rng.randrange(8)
        yield bytes(torn)
    for _ in range(5):
        yield whole[: rng.randrange(len(whole))]


@pytest.mark.parametrize("name", READERS)
def test_odd_json_is_understood_or_named(tmp_path, name):
    content, read = READERS[name]
    file = tmp_path / name.partition(",")[0]
    file.parent.mkdir(exist_ok=True)
    write_json(tmp_path / "config.json", to_dict(PretrainConfig()))
    rng = random.Random(name)
    for text in texts_of(content, rng):
        file.write_bytes(text)
        try:
            read(file)
        except UserError as error:
            message = str(error)
            assert "\n" not in message, message
            assert len(message) < 2_000
            assert str(tmp_path) in message, (message, text[:200])


@pytest.mark.parametrize("name", ["config.json", "hugging.json", "model.json"])
@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1e999", "0", "[1e-12]", "true", "9" * 400])
def test_numbers_out_of_range_are_refused(tmp_path, name, value):
    content, read = READERS[name]
    write_json(tmp_path / "config.json", to_dict(PretrainConfig()))
    text = json.dumps(content)
    assert '"layer_norm_eps": 1e-12' in text
    (tmp_path / name).write_text(text.replace('"layer_norm_eps": 1e-12', f'"layer_norm_eps": {value}'))
    with pytest.raises(UserError, match="layer_norm_eps") as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "spoil", "place"),
    [
        ("hugging.json", {"id2label": {"0": "bad", "1": "good \ud83d"}}, "id2label.1"),
        ("tokenizer_config.json", {"\ude00": 1}, "it"),
        ("finetune.json", {"labels": ["0", "\ud83d"]}, "labels[1]"),
    ],
)
def test_half_a_character_is_refused_where_it_is_read(tmp_path, name, spoil, place):
    content, read = READERS[name]
    write_json(tmp_path / "config.json", to_dict(PretrainConfig()))
    (tmp_path / name).write_text(json.dumps(content | spoil))
    with pytest.raises(UserError, match=rf"{name} is not JSON of use here: {re.escape(place)} holds half a character"):
        read(tmp_path / name)


@pytest.mark.parametrize("field", ["learning_rate", "weight_decay", "clip_norm", "eps", "b1", "layer_decay"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_of_a_run_are_finite(tmp_path, field, value):
    config = to_dict(PretrainConfig())
    config["optimizer"][field] = value
    write_json(tmp_path / "config.json", config)
    with pytest.raises(UserError, match=f"config.json: optimizer.{field}={value} is no number that can be used"):
        load_config(tmp_path / "config.json")


def test_the_limits_of_depth_and_size(tmp_path, monkeypatch):
    nested = "[" * (DEEPEST_JSON - 1) + "]" * (DEEPEST_JSON - 1)
    assert parse_json(f'{{"a": {nested}}}')
    assert parse_json(f'{{"a": {10**300}}}') == {"a": 10**300}
    assert parse_json(f'{{"a": {-(10**400)}}}') == {"a": -math.inf}, "which math.isfinite takes"
    with pytest.raises(ValueError, match=f"nested deeper than {DEEPEST_JSON}"):
        parse_json(f'{{"a": [{nested}]}}')
    file = tmp_path / "a.json"
    file.write_text('{"a": "' + "b" * 100 + '"}')
    monkeypatch.setattr("bert_jax.base.files.LARGEST_JSON", 100)
    with pytest.raises(
        UserError, match=r"a.json is not JSON of use here: it has 109 bytes, and at most 100 are read: mend"
    ):
        read_json(file, "mend it")
