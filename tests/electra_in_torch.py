# SPDX-License-Identifier: Apache-2.0
"""ELECTRA's two losses, logits and gradients by transformers, for test_electra.py. Imports nothing of ours.

python electra_in_torch.py GENERATOR DISCRIMINATOR inputs.npz outputs.npz
"""

import sys

import numpy as np


def main(generator: str, discriminator: str, inputs: str, outputs: str) -> None:
    """Run both models on one set of embeddings, and differentiate mlm + 50 rtd."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    from transformers import (  # type: ignore[import-not-found,unused-ignore]
        ElectraForMaskedLM,
        ElectraForPreTraining,
    )

    small = ElectraForMaskedLM.from_pretrained(generator, attn_implementation="eager").eval()
    large = ElectraForPreTraining.from_pretrained(discriminator, attn_implementation="eager").eval()
    small.electra.embeddings = large.electra.embeddings
    small.generator_lm_head.weight = large.electra.embeddings.word_embeddings.weight
    with np.load(inputs) as file:
        given = {name: torch.from_numpy(array).long() for name, array in file.items()}
    shared = {"token_type_ids": given["segment_ids"], "attention_mask": given["input_mask"]}
    masked = small(input_ids=given["masked_ids"], labels=given["mlm_labels"], **shared)
    judged = large(input_ids=given["replaced_ids"], labels=given["rtd_labels"], **shared)
    (masked.loss + 50 * judged.loss).backward()
    found = {
        "mlm_loss": masked.loss,
        "rtd_loss": judged.loss,
        "mlm_logits": masked.logits,
        "rtd_logits": judged.logits,
    }
    named = [("generator", small), ("discriminator", large)]
    gradients = {
        f"{half}/{name}": parameter.grad for half, model in named for name, parameter in model.named_parameters()
    }
    found |= {name: gradient for name, gradient in gradients.items() if gradient is not None}
    np.savez(outputs, **{name: value.detach().numpy() for name, value in found.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
