# SPDX-License-Identifier: Apache-2.0
"""The names of the files in a run directory, of pre-training and of fine-tuning. No file of a run is named elsewhere."""

CONFIG_FILE = "config.json"  # resolved, and written last: a directory that has it is a run
MODEL_FILE = (
    "model.json"  # the model's shape, and which heads its checkpoints have; runs of earlier versions may lack it
)
SOURCE_FILE = "source.json"  # the model that pre-training began with, where its weights were not drawn
TEACHER_FILE = "teacher.json"  # the model that pre-training learns from beside its data, where there is one
PASSPORT = "passport.json"  # a copy: what the data is, that the run is trained on
ENVIRONMENT_FILE = "environment.json"  # versions and devices
CHECKPOINTS = "checkpoints"  # a folder for each step
METRICS_FILE = "metrics.jsonl"  # one JSON object a line
TRACKER_FILE = "tracker.json"  # which run of an experiment tracker this one is, and how many lines that has
TENSORBOARD = "tensorboard"  # the same curves, as TensorBoard's events
BAD_STEPS = "bad_steps"  # a folder: a capsule for each step that did not count, and the checkpoints to replay it from
PROFILE = "profile"  # a folder of traces of steps, as the profiler of JAX writes them
EVALUATION_FILE = "evaluation.json"  # scores on held-out data
EVALUATION_TEXT_FILE = "evaluation-text.json"  # scores on a text that was named
REPORT_FILE = "report.html"

# A fine-tuned run has these too; SEEDS_FILE lies in the folder of several runs.
FINETUNE_FILE = "finetune.json"  # the task, every setting, where the weights came from; written before the first step
SCORES_FILE = "scores.json"  # by split; written last: a run that has it is finished
SEEDS_FILE = "seeds.json"
PREDICTIONS = "predictions"  # a folder: an object for each example, and the official files

# The folder of a study has these; its runs lie in folders below.
PLAN_FILE = "plan.json"  # which study it is, written before its first run
SWEEP_FILE = "sweep.json"  # in its place, of a sweep: the held-out losses of every rung
STUDY_FILE = "study.json"  # every figure beside the paper's, and the signs of differences
