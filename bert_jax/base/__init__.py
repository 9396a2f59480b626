# SPDX-License-Identifier: Apache-2.0
"""The ground that all rooms stand on: errors, files that are whole or absent, lines of text, signals, the terminal."""
