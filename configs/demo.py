# SPDX-License-Identifier: Apache-2.0
"""placeholder"""

from bert_jax.config import MODEL_SIZES, ModelConfig, OptimizerConfig, PhaseConfig, PretrainConfig

config = PretrainConfig(
    model=ModelConfig(
        vocab_size=4_096,
        **MODEL_SIZES["tiny"],
        max_position_embeddings=64,
        # At width 128 a deviation of 0.02 leaves attention too weak to be learned in minutes.
        initializer_range=0.12,
        # Under three passes over the text: dropout only slows learning down.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
    phases=(
        PhaseConfig(sequence_length=32, steps=4_000, batch_size=64, max_predictions_per_seq=5),
        PhaseConfig(sequence_length=64, steps=400, batch_size=64, max_predictions_per_seq=10),
    ),
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=300, b2=0.98),
    scan_layers=False,
    log_every=50,
    eval_every=500,
    eval_batches=40,
    save_every=500,
)
