# SPDX-License-Identifier: Apache-2.0
"""A request to `bert-jax prepare`, and whether it is that of an earlier run."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import file_sha256
from bert_jax.base.host import __version__
from bert_jax.base.types import JsonObject
from bert_jax.feed.kinds import KINDS, SHORTEST_SEQUENCE
from bert_jax.feed.shards import FORMAT, objective_of
from bert_jax.feed.tokenised import ExampleSettings, fitting_shard_size
from bert_jax.preparation.contamination import EvaluationNgrams
from bert_jax.text.documents import ReadingOptions
from bert_jax.text.sentences import load_splitter, RULES, splitter_version
from bert_jax.text.sources import describe_file, Source
from bert_jax.tokenization import Tokenizer

SEGMENTERS = ("none", "jieba")
NEAR_DUPLICATES = ("", "count", "drop")  # the first: they are not looked for
_ADDED = (
    "text_format",
    "near_duplicates",
)  # settings that data of this format may lack: it was made with their defaults


@dataclass(frozen=True)
class PrepareSettings:
    """The settings of `bert-jax prepare`, checked. The names are those of the manifest."""

    kinds: tuple[str, ...] = ("nsp",)  # of examples; see `feed.instances`
    sequence_lengths: tuple[int, ...] = (128, 512)
    held_out: float = 0.05  # share of the documents that go to the validation split
    short_seq_prob: float = 0.1
    random_next_prob: float = 0.5
    seed: int = 0
    shard_size: int = 0  # bytes of text; 0: see `with_shard_size`
    lines: str = "sentences"
    json_field: str = "text"
    errors: str = "strict"
    text_format: str = "auto"
    splitter: str = RULES
    segmenter: str = "none"
    licence: str = ""
    near_duplicates: str = ""  # what is done with documents that are nearly the same as an earlier one

    def __post_init__(self) -> None:
        object.__setattr__(self, "sequence_lengths", tuple(sorted(set(self.sequence_lengths))))
        object.__setattr__(self, "kinds", tuple(sorted(set(self.kinds), key=KINDS.index)))
        for length in self.sequence_lengths:
            if length < SHORTEST_SEQUENCE:
                raise UserError(f"--sequence-length {length} is too short: use at least {SHORTEST_SEQUENCE}")
        for name in ("short_seq_prob", "random_next_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{_option(name)} {getattr(self, name)} is not a share: use 0 to 1")
        if not 0 <= self.held_out < 1:
            raise UserError(f"--held-out {self.held_out} is not possible: use a share from 0 to less than 1")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed {self.seed} is out of range: use 0 to 4294967295")
        if not 0 <= self.shard_size <= 2**30:
            raise UserError(f"--shard-size {self.shard_size} is out of range: use 1 to {2**30} bytes of text")
        load_splitter(self.splitter)  # checks it
        if self.segmenter not in SEGMENTERS:
            raise UserError(f"--segmenter {self.segmenter} is not known: use {' or '.join(SEGMENTERS)}")
        if self.near_duplicates not in NEAR_DUPLICATES:
            raise UserError(f"--near-duplicates {self.near_duplicates} is not known: use count or drop")
        _ = self.reading  # checks them

    @property
    def reading(self) -> ReadingOptions:
        """How the text is to be read."""
        return ReadingOptions(self.json_field, self.lines, self.errors, self.text_format)

    @property
    def examples(self) -> ExampleSettings:
        """How sentences are cut and examples drawn."""
        return ExampleSettings(self.short_seq_prob, self.random_next_prob, self.seed, self.splitter, self.segmenter)

    def with_shard_size(self, total_bytes: int) -> "PrepareSettings":
        """These settings with a size of shards that fits a text of `total_bytes`, where they name none."""
        return dataclasses.replace(self, shard_size=self.shard_size or fitting_shard_size(total_bytes))


def make_request(
    sources: Sequence[Source], tokenizer: Tokenizer, settings: PrepareSettings, evaluation: EvaluationNgrams | None
) -> JsonObject:
    """All that decides what is made, as JSON. Equal requests make equal data."""
    chosen = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(settings).items()}
    return {
        "format": FORMAT,
        "bert_jax": __version__,
        "tokenizer": tokenizer.fingerprint,
        "tokenizer_kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "unreachable_entries": len(tokenizer.unreachable),
        "strip_accents": tokenizer.strip_accents,
        **chosen,
        "splitter_version": splitter_version(settings.splitter),
        "evaluation_data": evaluation.described() if evaluation else [],
        "sources": [
            {
                "source": source.name,
                "weight": source.weight,
                "files": [describe_file(source, file) for file in source.files],
            }
            for source in sources
        ],
    }


# ---- the same or not ---------------------------------------------------------------------------------------


def require_same_settings(what: str, old: JsonObject, new: JsonObject, mend: str) -> None:
    """Refuse what was made, or begun, with another tokenizer or other settings, by the first that differs."""
    if old.get("tokenizer") != new["tokenizer"]:
        was, now = str(old.get("tokenizer"))[:12], new["tokenizer"][:12]
        raise UserError(f"{what} with another --vocab or case (fingerprint {was}..., now {now}...): {mend}")
    for field in dataclasses.fields(PrepareSettings):
        default = field.default if field.name in _ADDED else None
        before, after = old.get(field.name, default), new[field.name]
        if before != after:
            option = _option(field.name)
            if field.name == "kinds":
                before, after = [[objective_of(kind) for kind in kinds or []] for kinds in (before, after)]
            raise UserError(f"{what} with {option} {_words(before)}, now it is {_words(after)}: {mend}")
    evaluation = old.get("evaluation_data", old.get("contamination")) or []
    if [file["sha256"] for file in evaluation] != [file["sha256"] for file in new["evaluation_data"]]:
        names = [file["file"] for file in evaluation]
        raise UserError(f"{what} with other --evaluation-data ({' '.join(names) or 'none'}): {mend}")


def require_same_text(
    output: Path, manifest: JsonObject, request: JsonObject, sources: Sequence[Source], mend: str
) -> None:
    """Refuse data that was made from other text. A file is read only where it is newer than it was."""
    old_sources, new_sources = manifest.get("sources", []), request["sources"]
    for old, new in zip(old_sources, new_sources, strict=False):
        for name in ("source", "weight"):
            if old[name] != new[name]:
                raise UserError(f"{output} was made from {name} {old[name]}, --input has {new[name]}: {mend}")
    counts = [sum(len(source["files"]) for source in side) for side in (old_sources, new_sources)]
    if counts[0] != counts[1] or len(old_sources) != len(new_sources):
        raise UserError(f"{output} was made from {counts[0]} files, --input has {counts[1]}: {mend}")
    for old_source, source in zip(old_sources, sources, strict=True):
        for old, file in zip(old_source["files"], source.files, strict=True):
            if not is_file_of(old, source, file):
                raise UserError(
                    f"{output} was made from other text: {old['file']} of {old['bytes']} bytes, sha256"
                    f" {old['sha256'][:12]}..., where --input has {source.name_of(file)} of {file.stat().st_size} bytes:"
                    f" {mend}"
                )


def is_file_of(record: JsonObject, source: Source, file: Path) -> bool:
    """Whether a file is the one that was recorded, with its sha256: by name and size, and by its time or content."""
    now = describe_file(source, file)
    if (now["file"], now["bytes"]) != (record["file"], record["bytes"]):
        return False
    return now["modified"] == record["modified"] or file_sha256(file) == record["sha256"]


def _option(name: str) -> str:
    options = {"sequence_lengths": "--sequence-length", "kinds": "--objective"}
    return options.get(name, f"--{name.replace('_', '-')}")


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value) or "none"
