# SPDX-License-Identifier: Apache-2.0
"""Checks of prepared data and of runs: what is likely wrong, and what to do about it.

  findings       what a check says: severity, what was seen, what it usually comes from, what to do
  rules          the one table of thresholds, each with its reason, its usual causes and its remedy
  text, examples, passport
                 prepared data, by its passport
  first_batches  what a run is about to be trained on, measured before the first step
  configuration  what a run's configuration says: recipe, data for the steps, held-out text
  losses         what its curves say: no learning, divergence, memorising, pair labels
  signals        gradient norms, throughput, masks as measured
  cost           what did not count: time that went elsewhere (goodput), bad steps
  finetuned      whether a fine-tuned run has learned anything, as it judged itself
  examination    a directory -> findings
  printing       findings -> what is printed

Every check gives a finding, also where all is well, with the numbers it looked at. No threshold stands anywhere else: the
doctor, the report, `bert-jax prepare`, a run's first batches and fine-tuning cannot disagree.
"""
