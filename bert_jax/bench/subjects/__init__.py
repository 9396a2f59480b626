# SPDX-License-Identifier: Apache-2.0
"""The subjects of a benchmark, a file each: `measure(workbench)` yields records, plain dictionaries that JSON can hold.

Every record has a `name`, and a `kind` that says which fields follow; one that failed has `name` and `error`.
"""

# In the order they run in; the names of the modules here.
SUBJECTS = {
    "ceiling": "matrix products and copies: what the device can do at most",
    "kernels": "every kernel of attention against the reference",
    "step": "the train step: throughput, utilisation, the optimizer's share, what the loop adds, what dropout costs",
    "attention": "attention alone, every implementation that runs here",
    "prepare": "text to masked rows, beside google-research/bert; one worker and two",
    "tokenize": "text to ids, beside tokenizers",
    "feed": "batches by the plain iterator and tf.data, beside transformers' collator",
    "checkpoint": "how long a save holds up training",
    "memory": "device memory of a step",
    "train": "loss curves in float32 and bfloat16 on a made-up language",
    "peer": "the same step in PyTorch transformers, in turn with ours",
    "finetune": "fine-tuning and predictions on SST-2, beside Hugging Face's Trainer",
    "duel": "pre-training CONFIG by the clock beside Trainer, and loss on held-out text: 20 minutes",
    "export": "vectors of sentences by embed, ONNX Runtime (float32, int8) and PyTorch: one text, and batches",
}
DEFAULT = ("ceiling", "step", "attention")
# Which subjects an option is for, by its name on the command line.
NEEDED_BY = {
    "peer_python": ("peer", "feed", "finetune", "duel", "export"),
    "text": ("prepare", "tokenize", "feed", "duel"),
    "vocab": ("prepare", "tokenize", "feed", "finetune", "duel"),
    "google": ("prepare",),
    "data": ("finetune",),
    "model": ("export",),
}
