# SPDX-License-Identifier: Apache-2.0
"""The benchmark of a machine: what is measured (suite.py, subjects/), how (measure.py), and how it is shown (page.py).

Nothing is read from disk and nothing needs TensorFlow: text and batches are made up (made_up.py).
"""
