# SPDX-License-Identifier: Apache-2.0
"""ELECTRA in Hugging Face's words: its names for tensors, its classes, and which half of a run one of them can hold.

A run of objective=rtd has both halves on one set of embeddings; transformers has ElectraForPreTraining (the discriminator)
and ElectraForMaskedLM (the generator), each with a copy of its own. Where the table of names.py says `bert.`, they say
`electra.`; heads have other names.
"""

from dataclasses import replace

from bert_jax.base.errors import UserError
from bert_jax.config.description import ModelDescription
from bert_jax.conversion import names
from bert_jax.conversion.checkpoints import Checkpoint


def half_of(checkpoint: Checkpoint, generator: bool) -> Checkpoint:
    """Return the discriminator, or the generator, of a checkpoint that has both; another checkpoint as it is.

    Raises:
      UserError: the generator of one that has none.
    """
    description = checkpoint.description
    if description.generator is None:
        if generator:
            raise UserError(f"--generator: {checkpoint.path} holds {description.summary()}: leave the option out")
        return checkpoint
    if generator:
        half = ModelDescription(description.generator, pooler=False, nsp=False)
        note = "the generator; its embeddings are the discriminator's too"
    else:
        half = ModelDescription(description.model, pooler=False, mlm=False, nsp=False, rtd=True)
        note = "the discriminator; its generator is a checkpoint of its own there: convert it by --generator"
    own = {row.ours: checkpoint.own_names[_of_whole(row.ours, generator)] for row in names.rows_of(half)}
    return replace(checkpoint, description=half, own_names=own, run=None, notes=(*checkpoint.notes, note))


def _of_whole(name: str, generator: bool) -> str:
    shared = name.startswith("encoder/embeddings/")
    return names.GENERATOR + name if generator and not shared else name
