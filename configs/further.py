# SPDX-License-Identifier: Apache-2.0
"""Further pre-training of a small model on one's own text, on a CPU (docs/tutorial.md, "A model of others on your text").

    bert-jax pretrain further --from MODEL --data DATA --output RUN

Masked tokens alone: a model without MLM head gets a new one, and a pooler that nothing trains is left out.
"""

from bert_jax.config import ObjectiveConfig, OptimizerConfig, PhaseConfig, PretrainConfig

config = PretrainConfig(
    objective=ObjectiveConfig("mlm_document"),
    phases=(PhaseConfig(sequence_length=64, steps=200, batch_size=16, max_predictions_per_seq=10),),
    optimizer=OptimizerConfig(name="adamw", learning_rate=5e-4, warmup_steps=20),
    eval_every=50,
    eval_batches=20,
    save_every=50,
    log_every=10,
)
