# SPDX-License-Identifier: Apache-2.0
"""Recipes of fine-tuning, one entry each, by the name that the command line takes:

    bert-jax finetune sst2      --data SST-2 --model MODEL --output RUN     # MODEL: a BERT-base or -large, of any format
    bert-jax finetune sst2_tiny --data SST-2 --model MODEL --output RUN     # MODEL: a run of configs/tiny_cpu.py

The first ones are the paper's (1810.04805, sections 4 and 5.3) and have the names of their tasks. Learning rate, batch, epochs
and row length are those of the task's row in bert_jax/tasks/table.py (GLUE: 2e-5, 32 examples, 3 epochs, 128 tokens); `--sweep`
tries the grid of appendix A.3 that the paper chose from. The paper says that each takes an hour at most on one Cloud TPU, and
its scores stand in every report. None was run here with a BERT of that size: no score is claimed.

Those in _tiny are for two layers of 128, which need larger rates. Hardware of each: two cores of an Intel Xeon at 2.5 GHz or of
an AMD EPYC, 1 to 13 minutes with two or three runs at once. Scores are of dev, one seed where no other number is said, beside
those of the same network from random weights (docs/results.md).
"""

from dataclasses import replace

from bert_jax.config import FinetuneConfig, FinetuneRecipe


def small(learning_rate: float, epochs: float, optimizer: str = FinetuneConfig.optimizer.name) -> FinetuneConfig:
    """Return the settings for a small network: another rate, and more or fewer epochs, or another optimizer."""
    own = replace(FinetuneConfig.optimizer, name=optimizer, learning_rate=learning_rate)
    return FinetuneConfig(optimizer=own, epochs=epochs)


PAPER = (
    *("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"),  # GLUE, section 4.1
    *("squad1", "squad2", "swag", "conll2003"),  # sections 4.2, 4.3, 4.4, 5.3
    *("cmrc", "drcd", "weibo"),  # Chinese, in the manner of squad1 and conll2003
)

recipes = {
    **{task: FinetuneRecipe(task, note="as the paper; not measured here") for task in PAPER},
    "own": FinetuneRecipe(
        "own", note="your own files: --kind, --text-column and the like; the paper's settings of GLUE"
    ),
    "sst2_tiny": FinetuneRecipe("sst2", small(5e-4, 2), "tiny_cpu: accuracy 0.810 (random weights 0.788)"),
    "stsb_tiny": FinetuneRecipe(
        "stsb", small(1e-3, 10, "muon"), "tiny_cpu: Spearman 0.634, three seeds (random weights 0.158, one)"
    ),
    # The first 12,000 questions of train, 1,000 of dev.
    "squad1_tiny": FinetuneRecipe(
        "squad1", small(5e-4, 2), "tiny_cpu: F1 11.7, EM 6.7; tiny_distilled: 21.3, 15.1 (random weights 8.6, 3.3)"
    ),
    # tiny_cpu as it was before Muon, on Chinese text: see docs/results.md.
    "weibo_tiny": FinetuneRecipe("weibo", small(1e-3, 10), "tiny_cpu in Chinese: F1 35.2 (random weights 21.9)"),
}
