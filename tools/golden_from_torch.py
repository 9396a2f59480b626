# SPDX-License-Identifier: Apache-2.0
"""Write tests/golden/bert_torch.npz: what Hugging Face's `BertForPreTraining` computes, to hold ours against.

Run in an environment of its own, which needs neither JAX nor bert_jax, from the root of the project:

    pip install "torch==2.13.*" "transformers==5.*" numpy
    python tools/golden_from_torch.py

The file in the repository was made with Python 3.11, torch 2.13.0 (CPU), transformers 5.23.0 and NumPy 2.4.6. The
weights come from a formula, `formula_weights`, which the tests call too, so that only inputs and results are stored.

Everything is float32, eager attention, evaluation mode. Under each of the two `hidden_act`, `gelu` (erf) and
`gelu_new` (tanh), with N valid tokens and P masked ones in row-major order, B rows, L layers, D features, V words:

    hidden_states  [L + 1, N, D]  embeddings, then each layer; the last is the sequence output
    pooled_output  [B, D]
    mlm_logits     [P, V]
    nsp_logits     [B, 2]
    loss           []             mean over masked tokens + mean over pairs
    gradient/NAME                 of that loss, for every parameter
    weight_sum     []             of the absolute weights: tells a test that its weights are these
"""

import argparse
import zlib
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN_ACTS = ("gelu", "gelu_new")

# Small, and no two sizes alike that could be mixed up.
SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
# Tokens in each row: the first of its two segments, both, and how many of them are masked.
ROWS = ((17, 40, 6), (20, 27, 4), (4, 12, 2), (2, 5, 1))
MAX_PREDICTIONS = 6


def formula_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights that depend on a parameter's Hugging Face name and shape only.

    With n standard normal from `default_rng(crc32(name))`, in float32: matrices 1.2 n / sqrt(columns), so that no
    activation is tiny and attention is far from uniform; LayerNorm scales 1 + 0.2 n; biases 0.2 n; word embeddings
    0.5 n; position and segment embeddings n.
    """
    return {name: _formula_weight(name, shape) for name, shape in shapes.items()}


def _formula_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if "LayerNorm.weight" in name:
        normal = 1 + 0.2 * normal
    elif name.endswith("bias"):
        normal = 0.2 * normal
    elif "embeddings" not in name:
        normal = 1.2 / np.sqrt(shape[1]) * normal
    elif "word_embeddings" in name:  # the output matrix too
        normal = 0.5 * normal
    return normal.astype(np.float32)


def example_inputs() -> dict[str, np.ndarray]:
    """Four padded rows of two segments, in the field's names; id 0 is padding."""
    rng = np.random.default_rng(0)
    rows, length = len(ROWS), max(tokens for _, tokens, _ in ROWS)
    batch = {name: np.zeros((rows, length), np.int32) for name in ("input_ids", "segment_ids", "input_mask")}
    for name in ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights"):
        batch[name] = np.zeros((rows, MAX_PREDICTIONS), np.float32 if name.endswith("weights") else np.int32)
    for row, (first, tokens, masked) in enumerate(ROWS):
        batch["input_ids"][row, :tokens] = rng.integers(1, SIZES["vocab_size"], tokens)
        batch["segment_ids"][row, first:tokens] = 1
        batch["input_mask"][row, :tokens] = 1
        batch["masked_lm_positions"][row, :masked] = np.sort(rng.choice(np.arange(1, tokens), masked, replace=False))
        batch["masked_lm_ids"][row, :masked] = rng.integers(1, SIZES["vocab_size"], masked)
        batch["masked_lm_weights"][row, :masked] = 1
    batch["next_sentence_labels"] = np.array([[0], [1], [1], [0]], np.int32)
    return batch


def golden(hidden_act: str, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The results of Hugging Face's model, by the names in this file's docstring."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    from transformers import BertConfig, BertForPreTraining  # type: ignore[import-not-found,unused-ignore]

    model = BertForPreTraining(BertConfig(**SIZES, hidden_act=hidden_act, attn_implementation="eager")).eval()
    parameters = dict(model.named_parameters())
    weights = formula_weights({name: tuple(value.shape) for name, value in parameters.items()})
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(torch.from_numpy(weights[name]))

    rows, slots = np.nonzero(batch["masked_lm_weights"])
    positions = batch["masked_lm_positions"][rows, slots]
    labels = np.full(batch["input_ids"].shape, -100)
    labels[rows, positions] = batch["masked_lm_ids"][rows, slots]
    output = model(
        input_ids=torch.from_numpy(batch["input_ids"]).long(),
        token_type_ids=torch.from_numpy(batch["segment_ids"]).long(),
        attention_mask=torch.from_numpy(batch["input_mask"]).long(),
        labels=torch.from_numpy(labels),
        next_sentence_label=torch.from_numpy(batch["next_sentence_labels"][:, 0]).long(),
        output_hidden_states=True,
    )
    output.loss.backward()
    valid = batch["input_mask"] == 1
    results = {
        "hidden_states": np.stack([state.detach().numpy()[valid] for state in output.hidden_states]),
        "pooled_output": model.bert.pooler(output.hidden_states[-1]),
        "mlm_logits": output.prediction_logits[rows, positions],
        "nsp_logits": output.seq_relationship_logits,
        "loss": output.loss,
        "weight_sum": np.float64(sum(np.abs(value).sum(dtype=np.float64) for value in weights.values())),
        **{f"gradient/{name}": value.grad for name, value in parameters.items()},
    }
    return {name: value.detach().numpy() if torch.is_tensor(value) else value for name, value in results.items()}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Write the golden outputs of Hugging Face's BERT for the tests.")
    default = Path(__file__).parents[1] / "tests" / "golden" / "bert_torch.npz"
    parser.add_argument("--output", type=Path, default=default, help="file to write (default: %(default)s)")
    output = parser.parse_args().output
    batch = example_inputs()
    arrays: dict[str, Any] = {f"inputs/{name}": value for name, value in batch.items()}
    for hidden_act in HIDDEN_ACTS:
        arrays |= {f"{hidden_act}/{name}": value for name, value in golden(hidden_act, batch).items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(output, **arrays)
    print(f"{output}: {len(arrays)} arrays, {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
