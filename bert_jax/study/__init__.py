# SPDX-License-Identifier: Apache-2.0
"""Tables of papers as lists of ordinary runs: what is run, what the paper has, and whether the signs of differences agree."""
