# SPDX-License-Identifier: Apache-2.0
"""Write tests/golden/bert_torch.npz and bert_heads_torch.npz: what Hugging Face's BERT computes, to hold ours against.

Run in an environment of its own, which needs neither JAX nor bert_jax, from the root of the project:

    pip install "torch==2.13.*" "transformers==5.*" numpy
    python tests/golden_from_torch.py

The files in the repository were made with Python 3.11, torch 2.13.0 (CPU), transformers 5.23.0 and NumPy 2.4.6. The
weights come from a formula, `formula_weights`, which the tests call too, so that only inputs and results are stored.

Everything is float32, eager attention, evaluation mode. In bert_torch.npz, `BertForPreTraining` with its gradients:
under each of the two `hidden_act`, `gelu` (erf) and `gelu_new` (tanh), with N valid tokens and P masked ones in
row-major order, B rows, L layers, D features, V words:

    hidden_states  [L + 1, N, D]  embeddings, then each layer; the last is the sequence output
    pooled_output  [B, D]
    mlm_logits     [P, V]
    nsp_logits     [B, 2]
    loss           []             mean over masked tokens + mean over pairs
    gradient/NAME                 of that loss, for every parameter
    weight_sum     []             of the absolute weights: tells a test that its weights are these

In bert_heads_torch.npz, of another size, the fine-tuned heads and an output matrix that is not the word embedding, with C
classes; the encoder has the same weights in each of the `HEADS`:

    HEAD/parameters               names and shapes, for `shapes_of`
    HEAD/weight_sum
    ACT/sequence_output     [N, D]
    ACT/pooled_output       [B, D]
    ACT/untied/mlm_logits   [N, V]
    ACT/untied/nsp_logits   [B, 2]
    ACT/HEAD/task_logits    [B, C] or [N, C]; choice: [B / CHOICES, CHOICES]; span: start, then end
"""

import argparse
import zlib
from collections.abc import Iterable
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

# Of the second file.
HEADS_SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 44,
    "max_position_embeddings": 23,
    "type_vocab_size": 3,
    "layer_norm_eps": 1e-3,
}
HEADS_ROWS = ((9, 23), (1, 2), (4, 11, 17), (8,), (12, 15, 20), (3, 11))  # where the segments of each row end
CHOICES = 3  # rows of a question
HEADS = {  # the class of transformers, and its number of labels
    "untied": ("BertForPreTraining", 2),
    "classification": ("BertForSequenceClassification", 3),
    "regression": ("BertForSequenceClassification", 1),
    "choice": ("BertForMultipleChoice", 1),
    "span": ("BertForQuestionAnswering", 2),
    "tagging": ("BertForTokenClassification", 4),
}


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


def heads_inputs() -> dict[str, np.ndarray]:
    """Padded rows of one, two and three segments; id 0 is padding."""
    rng = np.random.default_rng(1)
    shape = (len(HEADS_ROWS), max(ends[-1] for ends in HEADS_ROWS))
    batch = {name: np.zeros(shape, np.int32) for name in ("input_ids", "segment_ids", "input_mask")}
    for row, ends in enumerate(HEADS_ROWS):
        batch["input_ids"][row, : ends[-1]] = rng.integers(1, HEADS_SIZES["vocab_size"], ends[-1])
        batch["input_mask"][row, : ends[-1]] = 1
        for end in ends[:-1]:
            batch["segment_ids"][row, end : ends[-1]] += 1
    return batch


def shapes_of(parameters: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The lines of `HEAD/parameters`, `name 30x61`, read back."""
    split = (line.split() for line in parameters)
    return {name: tuple(map(int, shape.split("x"))) for name, shape in split}


def loaded_model(class_name: str, sizes: dict[str, Any], **settings: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """A model of transformers with the weights of the formula, and these weights."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    import transformers  # type: ignore[import-not-found,unused-ignore]

    config = transformers.BertConfig(**sizes, **settings, attn_implementation="eager")
    model = getattr(transformers, class_name)(config).eval()
    parameters = dict(model.named_parameters())
    weights = formula_weights({name: tuple(value.shape) for name, value in parameters.items()})
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(torch.from_numpy(weights[name]))
    return model, weights


def weight_sum(weights: dict[str, np.ndarray]) -> np.float64:
    """Of the absolute weights."""
    return np.float64(sum(np.abs(value).sum(dtype=np.float64) for value in weights.values()))


def golden(hidden_act: str, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The results of Hugging Face's pre-training model, by the names in this file's docstring."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    model, weights = loaded_model("BertForPreTraining", SIZES, hidden_act=hidden_act)
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
        "weight_sum": weight_sum(weights),
        **{f"gradient/{name}": value.grad for name, value in model.named_parameters()},
    }
    return {name: value.detach().numpy() if torch.is_tensor(value) else value for name, value in results.items()}


def golden_head(head: str, hidden_act: str, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a model with this head returns, by the names in this file's docstring."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    class_name, labels = HEADS[head]
    settings = {"hidden_act": hidden_act, "num_labels": labels, "tie_word_embeddings": head != "untied"}
    model, weights = loaded_model(class_name, HEADS_SIZES, **settings)
    rows = {name: torch.from_numpy(value).long() for name, value in batch.items()}
    if head == "choice":
        rows = {name: value.reshape(-1, CHOICES, value.shape[1]) for name, value in rows.items()}
    with torch.no_grad():
        output = model(
            input_ids=rows["input_ids"],
            token_type_ids=rows["segment_ids"],
            attention_mask=rows["input_mask"],
            output_hidden_states=True,
        )
        sequence = output.hidden_states[-1]
        if head == "untied":
            results = {
                f"{hidden_act}/sequence_output": sequence,
                f"{hidden_act}/pooled_output": model.bert.pooler(sequence),
                f"{hidden_act}/untied/mlm_logits": output.prediction_logits,
                f"{hidden_act}/untied/nsp_logits": output.seq_relationship_logits,
            }
        else:
            logits = torch.stack([output.start_logits, output.end_logits], -1) if head == "span" else output.logits
            results = {f"{hidden_act}/{head}/task_logits": logits}
    valid = batch["input_mask"] == 1
    lines = [f"{name} {'x'.join(map(str, value.shape))}" for name, value in weights.items()]
    arrays = {name: value.numpy() for name, value in results.items()}
    return {
        f"{head}/parameters": np.array(lines),
        f"{head}/weight_sum": weight_sum(weights),
        **{name: value[valid] if value.shape[:2] == valid.shape else value for name, value in arrays.items()},
    }


def write(path: Path, arrays: dict[str, Any]) -> None:
    """Write a file of arrays and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    print(f"{path}: {len(arrays)} arrays, {path.stat().st_size:,} bytes")


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description="Write the golden outputs of Hugging Face's BERT for the tests.")
    default = Path(__file__).parents[1] / "tests" / "golden"
    parser.add_argument("--folder", type=Path, default=default, help="where to write the files (default: %(default)s)")
    folder = parser.parse_args().folder

    batch = example_inputs()
    arrays: dict[str, Any] = {f"inputs/{name}": value for name, value in batch.items()}
    for hidden_act in HIDDEN_ACTS:
        arrays |= {f"{hidden_act}/{name}": value for name, value in golden(hidden_act, batch).items()}
    write(folder / "bert_torch.npz", arrays)

    batch = heads_inputs()
    arrays = {f"inputs/{name}": value for name, value in batch.items()}
    for hidden_act in HIDDEN_ACTS:
        for head in HEADS:
            arrays |= golden_head(head, hidden_act, batch)
    write(folder / "bert_heads_torch.npz", arrays)


if __name__ == "__main__":
    main()
