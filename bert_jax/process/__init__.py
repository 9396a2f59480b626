# SPDX-License-Identifier: Apache-2.0
"""What a process has to do with its surroundings: signals, the terminal, and others that write where it does."""
