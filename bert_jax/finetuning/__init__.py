# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: a pre-trained encoder, a head, the examples of a task; scores, predictions, and what went wrong."""
