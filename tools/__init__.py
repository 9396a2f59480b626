# SPDX-License-Identifier: Apache-2.0
"""Occasional commands."""
