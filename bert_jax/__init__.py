# SPDX-License-Identifier: Apache-2.0
"""BERT in JAX: pre-training from raw text, fine-tuning, evaluation and checkpoint conversion."""

__version__ = "0.1.0"
