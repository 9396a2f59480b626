# SPDX-License-Identifier: Apache-2.0
"""What runs train on, a file each: `bert_jax.train` asks an objective for its loss, its batches and its scores."""
