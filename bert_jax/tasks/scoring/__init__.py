# SPDX-License-Identifier: Apache-2.0
"""The official scorers: SQuAD, CoNLL, GLUE. Plain Python and NumPy, of use without any model."""
