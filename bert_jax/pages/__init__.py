# SPDX-License-Identifier: Apache-2.0
"""The pages that stand alone: of a run, of a fine-tuned run, of several, of prepared data. No script, nothing loaded.

The engine, in which a page is data until it is printed:

  page      Page, Section and the parts that stand in them: tables, panels, bars, cards ...
  chart     a chart as data, and its SVG
  curves    a `Measure` of a run's metrics.jsonl -> its panel
  settings  every setting with its meaning; in which settings runs differ
  template  a page -> HTML, by page.html.jinja and style.css
  wording, metric_words
            numbers -> words

The pages, which say what is on them:

  pretrain, pretrain_summary, pretrain_curves, pretrain_evaluation, pretrain_data, notices
            a pre-training run
  finetune, finetune_summary, finetune_curves, hardest, glue_table
            a fine-tuned run
  class_tables, multi_label_tables, answer_tables, tag_tables, rating_tables
            what its page says of each kind of task
  several_runs, seed_spread, several_tasks
            several seeds, a sweep; several tasks, several pre-training runs
  passport, passport_tables, passport_charts
            prepared data
  any_run   whichever of these a directory holds

A new curve is two edits: the value in the lines of metrics.jsonl, and a `Measure` in pretrain_curves or finetune_curves.
"""
