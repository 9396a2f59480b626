# SPDX-License-Identifier: Apache-2.0
"""A trained model at work: loaded from any format; masked words, vectors, scores on held-out data and on any text."""
