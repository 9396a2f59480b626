# SPDX-License-Identifier: Apache-2.0
"""Run the exported BERT with jax and tokenizers alone: `run(["a text", ("a pair", "of two")])` -> outputs by name."""

from pathlib import Path

import jax
import jax.export
import numpy as np
from tokenizers import Tokenizer

FOLDER = Path(__file__).parent
program = jax.export.deserialize(bytearray((FOLDER / "program.bin").read_bytes()))
weights = jax.device_put(dict(np.load(FOLDER / "weights.npz")))
tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
tokenizer.enable_padding()


def run(texts: list) -> dict:
    rows = tokenizer.encode_batch(texts)
    inputs = ([getattr(row, name) for row in rows] for name in ("ids", "attention_mask", "type_ids"))
    return jax.device_get(program.call(weights, *(np.array(values, np.int32) for values in inputs)))
