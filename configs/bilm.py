# SPDX-License-Identifier: Apache-2.0
"""A biLM of ELMo's size (1802.05365, section 3.4): two LSTM layers of 4,096 units and 512 features in each direction, with a
residual connection from the first to the second, dropout 0.1 on the input of each layer and of the softmax.

    bert-jax prepare --input TEXT --vocab VOCAB --output DATA --objective bilm --sequence-length 128
    bert-jax pretrain bilm --data DATA --output RUN
    bert-jax evaluate RUN --data DATA
    bert-jax finetune sst2 --data SST-2 --model RUN --output OUT layers=0,1,2 combine=mix optimizer.freeze=encoder

What differs from the original (allenai/bilm-tf):

- Word pieces where ELMo has a convolution over characters. So the softmax is over all pieces and tied to their table
  (model.tie_word_embeddings=false unties it), where ELMo samples 8,192 of 793,471 words.
- Cells and projections are not clipped (there at 3), and the optimizer is Adam (there Adagrad).
- Each row begins with nothing known, where there the state goes on from stretch to stretch of 20 words.

With 30,522 pieces it has 91.2 million parameters, 75.5 of them in the LSTMs. Ten passes over the 769 million words of ELMo's
text would be about 150,000 steps. Not yet run; `bert-jax describe bilm` counts its FLOPs.
"""

from bert_jax.config import ModelConfig, ObjectiveConfig, OptimizerConfig, PhaseConfig, PretrainConfig

config = PretrainConfig(
    model=ModelConfig(
        hidden_size=1_024,
        num_hidden_layers=2,
        num_attention_heads=1,  # which it has none of
        lstm_units=4_096,
    ),
    objective=ObjectiveConfig("bilm"),
    phases=(PhaseConfig(sequence_length=128, steps=150_000, batch_size=512),),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2_000, schedule="cosine"),
)
