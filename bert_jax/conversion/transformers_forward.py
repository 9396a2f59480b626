# SPDX-License-Identifier: Apache-2.0
"""Run a Hugging Face directory through transformers, for the certificate. Imports nothing of ours.

    python transformers_forward.py DIRECTORY inputs.npz outputs.npz

Runs under any Python with torch and transformers. The class is the one that config.json names. Prints a line of JSON:
what ran. Keys that are missing or unexpected, which would be drawn at random or left out, end it with an error.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(directory: str, inputs: str, outputs: str) -> None:
    """Write the outputs."""
    import torch
    import transformers

    name = json.loads((Path(directory) / "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, name)
    model, info = kind.from_pretrained(
        directory, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    wrong = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys") if info.get(key)}
    if wrong:
        sys.exit(f"{name} loads with {wrong}")
    with np.load(inputs) as file:
        batch = {key: torch.from_numpy(value).long() for key, value in file.items()}
    given: dict[str, Any] = {
        "input_ids": batch["input_ids"],
        "token_type_ids": batch["segment_ids"],
        "attention_mask": batch["input_mask"],
    }
    with torch.no_grad():
        found = results(model.eval(), name, given)
    np.savez(outputs, **{key: value.numpy() for key, value in found.items()})
    print(json.dumps({"ran": f"transformers {transformers.__version__} {name} (torch {torch.__version__}), float32"}))


def results(model: Any, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The outputs by our names."""
    encoder = model if name in ("BertModel", "ElectraModel") else getattr(model, "electra", None) or model.bert
    encoded = encoder(**given)
    found = {"sequence_output": encoded.last_hidden_state, "pooled_output": getattr(encoded, "pooler_output", None)}
    if name == "BertForMultipleChoice":  # a row is a question of one choice
        output = model(**{key: value[:, None] for key, value in given.items()})
    else:
        output = model(**given)
    if name == "BertForPreTraining":
        found |= {"mlm_logits": output.prediction_logits, "nsp_logits": output.seq_relationship_logits}
    elif name in ("BertForMaskedLM", "BertLMHeadModel", "ElectraForMaskedLM"):
        found["mlm_logits"] = output.logits
    elif name == "BertForNextSentencePrediction":
        found["nsp_logits"] = output.logits
    elif name == "ElectraForPreTraining":
        found["rtd_logits"] = output.logits[..., None]
    elif name in ("BertForQuestionAnswering", "ElectraForQuestionAnswering"):
        found["task_logits"] = torch_stack([output.start_logits, output.end_logits])
    elif name not in ("BertModel", "ElectraModel"):
        found["task_logits"] = output.logits
    return {key: value for key, value in found.items() if value is not None}


def torch_stack(parts: list[Any]) -> Any:
    """[B, S] scores of starts and of ends -> [B, S, 2]."""
    import torch

    return torch.stack(parts, dim=-1)


if __name__ == "__main__":
    main(*sys.argv[1:])
