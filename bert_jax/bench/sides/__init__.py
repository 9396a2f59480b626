# SPDX-License-Identifier: Apache-2.0
"""The work that subjects compare by processes: a function each, called by the program child.py, ours and the peers'."""
