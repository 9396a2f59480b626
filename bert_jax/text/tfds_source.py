# SPDX-License-Identifier: Apache-2.0
"""Text of TensorFlow Datasets that lie prepared on this machine. Nothing is ever downloaded or prepared here.

Data sets in ArrayRecord files are read without TensorFlow, those in TFRecord files with it. Data sets lie in the folder
that the environment variable TFDS_DATA_DIR names, or else in ~/tensorflow_datasets, as for TFDS itself.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TYPE_CHECKING

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.stopping import in_a_thread
from bert_jax.base.types import JsonObject
from bert_jax.text.documents import decode, RawDocument, ReadingCounts, ReadingOptions, text_document, Undecodable

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder, SplitInfo
    from tensorflow_datasets.core.features import FeatureConnector

_DATA_SET = re.compile(r"tfds:(?P<name>\w+)(/(?P<config>[^/:]+))?(:(?P<version>[\d.]+))?")
_SPEC = re.compile(_DATA_SET.pattern + r"/(?P<split>[^/]+):(?P<field>[^:/\]]+)")
_INFO = "dataset_info.json"  # TFDS writes it last: its presence makes a folder a prepared data set


@dataclass(frozen=True)
class TfdsSplit:
    """A field of text in a split of a prepared data set.

    spec: as given, `tfds:NAME[/CONFIG][:VERSION]/SPLIT:FIELD`.
    folder: of the data set's version. files: of records, those that the split lies in.
    """

    spec: str
    folder: Path
    split: str
    field: str
    examples: int
    files: tuple[Path, ...]


def find_split(spec: str, option: str = "--input") -> TfdsSplit:
    """Find the split `tfds:NAME[/CONFIG][:VERSION]/SPLIT:FIELD`. Without a version it is of the latest prepared.

    SPLIT may be a part of one, as TFDS writes it: `train[:10%]`.

    Raises:
      UserError: another form, a data set that is not prepared here, a split or a field of text that it does not have.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UserError(
            f"{option} {spec} is not of the form tfds:NAME[/CONFIG][:VERSION]/SPLIT:FIELD: add what is missing"
        )
    split, field = match["split"], match["field"]
    folder, builder, chosen = _open(spec, match, split, [field])
    features = builder.info.features
    if features[field].shape or not np.issubdtype(features[field].np_dtype, np.object_):
        raise UserError(f"{spec}: the field {field} is not a text but {features[field]!r}: name one that is")
    if not chosen.num_examples:
        raise UserError(f"{spec} has no examples: leave it out of {option}")
    files = tuple(Path(path) for path in chosen.filepaths)
    for file in files:
        if not file.is_file():
            raise UserError(f"{spec}: the file {file} is missing: prepare the data set again")
    return TfdsSplit(spec, folder, split, field, chosen.num_examples, files)


def _open(
    spec: str, match: re.Match[str], split: str, fields: Sequence[str]
) -> tuple[Path, "DatasetBuilder", "SplitInfo"]:
    """Return the folder of a prepared data set, its builder and TFDS' description of the split, which has the fields."""
    folder = _find_folder(spec, match["name"], match["config"], match["version"])
    builder = _builder(folder)
    splits, features = builder.info.splits, builder.info.features
    try:
        chosen = splits[split]
    except (KeyError, ValueError, AssertionError):
        raise UserError(f"{spec}: there is no split {split}; {folder} has {_listed(splits)}") from None
    for field in fields:
        if field not in features:
            raise UserError(f"{spec}: there is no field {field}; {folder} has {_listed(features)}")
    return folder, builder, chosen


class TfdsRecords(NamedTuple):
    """Examples of a split with several fields each.

    fields: those that are read. all_fields: of the data set. records: (place for messages, field -> plain value).
    """

    name: str
    fields: tuple[str, ...]
    all_fields: tuple[str, ...]
    records: Iterator[tuple[str, JsonObject]]


def read_records(spec: str, split: str, needed: Sequence[str], wanted: Sequence[str] = ()) -> TfdsRecords:
    """The fields `needed`, and those of `wanted` that there are, of each example in the order of the files.

    Texts are str, classes the names of their labels (None: hidden), numbers int and float, sequences lists.

    Args:
      spec: `tfds:NAME[/CONFIG][:VERSION]`. Without a version it is the latest prepared.
      split: may be a part of one: `train[:10%]`.

    Raises:
      UserError: another form, a data set that is not prepared here, a split or a field that it does not have; while
        they are read: records that cannot be read, text that is not UTF-8.
    """
    match = _DATA_SET.fullmatch(spec)
    if match is None:
        raise UserError(f"{spec} is not of the form tfds:NAME[/CONFIG][:VERSION]")
    _, builder, _ = _open(spec, match, split, needed)
    features = builder.info.features
    fields = tuple(field for field in dict.fromkeys([*needed, *wanted]) if field in features)
    name = f"{spec}/{split}"
    return TfdsRecords(name, fields, tuple(sorted(features)), _records(name, builder, split, fields))


def _records(
    name: str, builder: "DatasetBuilder", split: str, fields: Sequence[str]
) -> Iterator[tuple[str, JsonObject]]:
    features = builder.info.features
    for number, example in enumerate(_readable(name, builder, split, fields)):
        place = f"{name}, example {number}"
        try:
            yield place, {field: _plain(features[field], example[field]) for field in fields}
        except UnicodeDecodeError as error:
            raise UserError(f"{place} is not UTF-8 ({error}): prepare the data set again") from None


def _plain(feature: "FeatureConnector", value: Any) -> Any:
    """A value of TFDS as Python has it."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict):  # TFDS turns a list of dicts into a dict of lists
            return {key: [_plain(inner[key], part) for part in value[key]] for key in inner}
        return [_plain(inner, part) for part in value]
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: _plain(feature[key], value[key]) for key in feature}
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if value >= 0 else None
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if hasattr(value, "item") else value


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _builder(folder: Path) -> "DatasetBuilder":
    return in_a_thread(_import_tfds).builder_from_directory(str(folder))


def _import_tfds() -> Any:
    import tensorflow_datasets

    return tensorflow_datasets


def _find_folder(spec: str, name: str, config: str | None, version: str | None) -> Path:
    data_dir = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = data_dir / name / (config or "")
    versions = _versions(folder)
    if version is None and versions:
        return versions[-1]
    if version is not None and folder / version in versions:
        return folder / version
    wanted = "/".join(filter(None, [name, config])) + (f":{version}" if version else "")
    configs = [path.name for path in sorted(folder.glob("*")) if _versions(path)] if config is None else []
    if configs:
        names = ", ".join(configs)
        raise UserError(f"{spec}: {name} is prepared in {data_dir} as {names}: name one, tfds:{name}/{configs[0]}/...")
    raise UserError(
        f"{spec}: {wanted} is not prepared in {data_dir}, and nothing is downloaded: set TFDS_DATA_DIR to the folder"
        f" that has it, or prepare it (tfds build {wanted} --data_dir {data_dir} --file_format array_record)"
    )


def _versions(folder: Path) -> list[Path]:
    """The prepared versions in a folder, the latest last."""
    found = [path.parent for path in folder.glob(f"*/{_INFO}") if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)]
    return sorted(found, key=lambda path: [int(number) for number in path.name.split(".")])


def read_split(
    split: TfdsSplit,
    options: ReadingOptions,
    counts: ReadingCounts,
    on_bytes: Callable[[int], object] | None = None,
) -> Iterator[RawDocument]:
    """A document for each example, in the order of the files; a paragraph a line.

    `on_bytes` is told the share of the files' bytes that the examples read so far stand for.

    Raises:
      UserError: records that cannot be read, TensorFlow that is needed and not installed, text that is not UTF-8.
    """
    size = sum(file.stat().st_size for file in split.files)
    read = told = 0
    for example in _readable(split.spec, _builder(split.folder), split.split, [split.field]):
        where = f"{split.spec}, example {read}"
        try:
            text = decode(example[split.field], options, counts)
        except Undecodable as error:
            raise UserError(
                f"{where} is not {error.expected}: {error.found} at byte {error.position}; {error.mend}"
            ) from None
        yield from text_document(where, text, counts)
        read += 1
        now = size * read // split.examples
        if on_bytes is not None:
            on_bytes(now - told)
        told = now
    if read != split.examples:
        raise UserError(f"{split.spec} gave {read} of its {split.examples} examples: prepare the data set again")


def _readable(name: str, builder: "DatasetBuilder", split: str, fields: Sequence[str]) -> Iterator[JsonObject]:
    """Decoded examples, or a UserError that tells why they cannot be read."""
    stored_as = builder.info.file_format.value
    if stored_as != "array_record" and importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{name} lies in {stored_as} files, which need TensorFlow: pip install 'bert-jax[tensorflow]', or"
            " prepare it with --file_format array_record"
        )
    try:
        yield from _examples(builder, split, fields)
    except Exception as error:  # each format's library has its own
        said = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{name} cannot be read ({said}): prepare the data set again") from None


def _examples(builder: "DatasetBuilder", split: str, fields: Sequence[str]) -> Iterator[JsonObject]:
    """Decoded examples, in the order of the files; tf.data's autotuning is off for the reason that tf_feed.py gives."""
    if builder.info.file_format.value == "array_record":
        return iter(builder.as_data_source(split))

    import tensorflow_datasets as tfds

    in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False, skip_prefetch=True)
    in_order.num_parallel_calls_for_decode = in_order.num_parallel_calls_for_interleave_files = 1
    in_order.options.autotune.enabled = False
    only = tfds.decode.PartialDecoding(dict.fromkeys(fields, True))
    records = builder.as_dataset(split, read_config=in_order, shuffle_files=False, decoders=only)
    return iter(tfds.as_numpy(records))
