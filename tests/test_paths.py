# SPDX-License-Identifier: Apache-2.0
"""Paths as users give them: an address is never taken for a folder of this machine, in any option of any stage."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

import bert_jax
from bert_jax.base.bucket_cache import readable
from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path, any_text, local_path, local_text
from bert_jax.cli import main, STAGES

KINDS_OF_PATHS = (any_path, any_text, local_path, local_text, readable)
COMMANDS = (*((stage,) for stage in STAGES), ("vocab", "extend"))
# Options without a type that hold text, and no path.
TEXTS = {
    "settings", "coordinator", "former_task", "texts", "skip", "split", "task", "text", "label", "separator", "id", "labels",
    "positive", "choices", "json_field", "splitter", "licence", "objective", "runner", "runner_options", "topology",
    "delimiter", "flags", "outside", "prompts", "scorer", "name", "tasks", "budget",
}  # fmt: skip


class Captured(Exception):
    """The parser of a stage, as it was about to parse."""


def parsers(
    command: tuple[str, ...], patch: pytest.MonkeyPatch
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Yield the words and the parser of a stage, and of its own commands."""

    def capture(self, *_, **__):
        raise Captured(self)

    with patch.context() as patched:
        for name in ("parse_args", "parse_known_args", "parse_intermixed_args"):
            patched.setattr(argparse.ArgumentParser, name, capture)
        with pytest.raises(Captured) as caught:
            main(list(command))
    (parser,) = caught.value.args
    yield command, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from (((*command, name), inner) for name, inner in action.choices.items())


def required(parser: argparse.ArgumentParser, tried: argparse.Action) -> list[str]:
    """The other options that a stage asks for, with some value."""
    others = [action for action in parser._actions if action.required and action.option_strings and action is not tried]
    return [part for action in others for part in (action.option_strings[0], *(list(action.choices or "x")[:1]))]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_option_takes_an_address_for_a_folder(command, monkeypatch, tmp_path, capsys):
    """Fails where an option takes `Path`, or a text that is no type of a path and not known to be none."""
    monkeypatch.chdir(tmp_path)
    tried = 0
    for words, parser in list(parsers(command, monkeypatch)):
        before: list[str] = []  # for the positional arguments before the one that is tried
        for action in parser._actions:
            if action.type not in KINDS_OF_PATHS:
                holds_text = action.nargs != 0 and action.type in (None, str, Path) and action.choices is None
                assert not holds_text or action.dest in TEXTS, f"{' '.join(words)} {action.dest}: is it a path?"
                continue
            count = action.nargs if isinstance(action.nargs, int) else 1
            given = [*action.option_strings[:1], *before, *["s3://bucket/name"] * count, *required(parser, action)]
            assert main([*words, *given]) == 2
            assert capsys.readouterr().err.startswith(f"bert-jax {words[0]}: s3://bucket/name: "), (words, action.dest)
            before += [] if action.option_strings else ["x"]
            tried += 1
    assert tried
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("address", "way"),
    [
        ("s3://bucket/run", "mountpoint-s3"),
        ("S3://bucket/run", "mountpoint-s3"),
        ("gs://bucket/run", "gcsfuse"),
        ("gs:/bucket/run", "as text, with two slashes: gs://bucket/run"),  # what pathlib leaves of an address
        ("hdfs://host:9000/run", "hdfs dfs -get"),
        ("https://host/run", "download"),
        ("file:///run", "leave file:// away"),
        ("db+x://host/run", "mount"),
    ],
)
def test_the_line_names_the_way(address, way):
    with pytest.raises(UserError) as refused:
        local_path(address)
    assert str(refused.value).startswith(f"{address}: ")
    assert way in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["run", "/a/b:/c", "a b/c", "C:/run", "tfds:name/config/train:text", "hf:/folder", "x@2", "*.txt"]
)
def test_paths_of_this_machine_are_left_as_they_are(name):
    assert local_text(name) == name
    assert local_path(name) == Path(name)
    assert local_path(Path(name)) == Path(name)


@pytest.mark.parametrize(
    "call",
    [
        lambda address: bert_jax.load(address),
        lambda address: bert_jax.prepare([address], "vocab.txt", "out"),
        lambda address: bert_jax.prepare(["text"], "vocab.txt", address),
        lambda address: bert_jax.prepare(["text"], address, "out"),
        lambda address: bert_jax.pretrain("tiny", address, "out"),
        lambda address: bert_jax.pretrain("tiny", "data", address),
        lambda address: bert_jax.pretrain(str(address), "data", "out"),
        lambda address: bert_jax.finetune("sst2", address, "model", "out"),
        lambda address: bert_jax.finetune("sst2", "data", address, "out"),
        lambda address: bert_jax.finetune("sst2", "data", "model", address),
        lambda address: bert_jax.convert(address, "out", "tf1"),
        lambda address: bert_jax.convert("run", address, "tf1"),
    ],
)
@pytest.mark.parametrize("address", ["s3://bucket/name", Path("s3://bucket/name")], ids=["text", "path"])
def test_the_functions_refuse_addresses_too(call, address, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    with pytest.raises(UserError, match="addresses of s3://"):
        call(address)
    assert [file.name for file in tmp_path.iterdir()] == ["vocab.txt"]
