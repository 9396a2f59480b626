# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the rest of the world, both ways: Google's TF1, Hugging Face, and ours."""
