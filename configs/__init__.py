# SPDX-License-Identifier: Apache-2.0
"""Run configurations: one file, one frozen `PretrainConfig` named `config` each."""
