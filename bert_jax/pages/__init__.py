# SPDX-License-Identifier: Apache-2.0
"""The pages that stand alone: of a run, of a fine-tuned run, of several, of prepared data. No script, nothing loaded.

template, drawing, charts, panels, wording, metric_words
                   what all pages share: a template filled and saved, plain lists -> SVG, numbers -> words
pretrain, pretrain_summary, pretrain_tables, pretrain_data, pretrain_samples, notices
                   a pre-training run
finetune, finetune_summary, finetune_panels, hardest, glue_table
                   a fine-tuned run
class_tables, answer_tables, tag_tables, rating_tables
                   what its page says of each kind of task
several_runs, several_charts, several_tasks
                   several seeds, a sweep, several tasks
passport, passport_tables, passport_charts
                   prepared data
any_run            whichever of these a directory holds
"""
