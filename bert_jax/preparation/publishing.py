# SPDX-License-Identifier: Apache-2.0
"""Finished work -> prepared data: every file gets its name in the output, the manifest last.

What is moved where is written down before the first file is moved, so an interrupted publication goes on.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.files import complete_or_absent, write_json
from bert_jax.base.types import JsonObject
from bert_jax.checks.passport import warnings
from bert_jax.feed.sampled_masks import measure_masks
from bert_jax.feed.shards import MANIFEST, open_shard, Split, table_name, TOKEN_COUNTS, TRAIN
from bert_jax.preparation.chunks import ChunkWork
from bert_jax.preparation.merging import make_manifest, Totals
from bert_jax.preparation.work_folder import read_record
from bert_jax.text.sources import Part

_PLAN = "publication.json"
_TOKENIZER = "tokenizer"


def read_plan(folder: Path) -> JsonObject | None:
    """Return the plan of an interrupted publication, or None."""
    return read_record(folder / _PLAN)


def write_plan(folder: Path, request: JsonObject, parts: Sequence[Part], work: ChunkWork) -> JsonObject:
    """Add up the records and write down what is to be published: {"manifest": ..., "moves": {from: to}}."""
    totals = Totals(folder, parts, work)
    manifest = make_manifest(totals, request, parts, work)
    shards = tuple(open_shard(folder / shard["file"]) for shard in manifest["splits"][TRAIN]["shards"])
    train = Split(TRAIN, folder, shards, manifest["splits"][TRAIN])
    manifest["masks"] = {
        table_name(kind, length): measure_masks(train, kind, length, work.tokenizer)
        for kind in work.settings.kinds
        for length in work.settings.sequence_lengths
    }
    manifest["warnings"] = warnings(manifest)
    work.tokenizer.save(folder / _TOKENIZER)
    with complete_or_absent(folder / TOKEN_COUNTS) as file:
        np.save(file, totals.token_counts[TRAIN])
    moves = {TOKEN_COUNTS: TOKEN_COUNTS}
    moves |= {f"{_TOKENIZER}/{path.name}": path.name for path in sorted((folder / _TOKENIZER).iterdir())}
    for split, record in manifest["splits"].items():
        shards = record["shards"]
        for number, shard in enumerate(shards):
            name = f"{split}-{number:05}-of-{len(shards):05}.safetensors"
            moves[shard["file"]] = name
            shard["file"] = name
    plan = {"manifest": manifest, "moves": moves}
    write_json(folder / _PLAN, plan)
    return plan


def publish(folder: Path, output: Path, plan: JsonObject) -> JsonObject:
    """Move the files and write the manifest; then the folder goes. Returns the manifest."""
    for name, final in plan["moves"].items():
        if (folder / name).exists():
            os.replace(folder / name, output / final)
        elif not (output / final).exists():
            raise UserError(f"{folder / name} is missing: remove {output} and run the same command again")
    write_json(output / MANIFEST, plan["manifest"])
    shutil.rmtree(folder)
    return dict(plan["manifest"])
