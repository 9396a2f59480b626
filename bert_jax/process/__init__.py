# SPDX-License-Identifier: Apache-2.0
"""A process and its surroundings: signals, the terminal, and others that write where it does."""
