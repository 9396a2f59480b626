# SPDX-License-Identifier: Apache-2.0
"""bert-jax evaluate: run + held-out data -> masked LM scores, and those of pairs (next sentence, sentence order)."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bert_jax.config import ObjectiveConfig


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bert-jax evaluate",
        description="Score a run's newest checkpoint on held-out data; writes evaluation.json.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run directory")
    parser.add_argument("--data", type=Path, required=True, help="made by bert-jax prepare with the run's vocabulary")
    parser.add_argument("--split", default="validation", choices=("validation", "train"), help="default: validation")
    parser.add_argument("--sequence-length", type=int, help="default: that of the run's last phase")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_args(argv)

    from bert_jax.data.shards import open_data
    from bert_jax.evaluation import evaluate_run
    from bert_jax.files import write_json
    from bert_jax.run_directory import open_run

    run = open_run(arguments.run)
    scores = evaluate_run(run, open_data(arguments.data), arguments.split, arguments.sequence_length)
    if arguments.split == "validation" and scores["sequence_length"] == run.config().phases[-1].sequence_length:
        write_json(run.evaluation_file, scores)
    else:
        print(
            f"printed only: {run.evaluation_file} is for the validation split at the last phase's length",
            file=sys.stderr,
        )
    print(json.dumps(scores, indent=2, ensure_ascii=False) if arguments.json else describe(scores))
    return 0


def describe(scores: dict[str, Any]) -> str:
    """The scores in words."""
    from bert_jax.batch import pair_words

    low, high = scores["mlm_accuracy_95"]
    gain = scores["unigram_entropy"] - scores["mlm_loss"]
    ratio = scores["mlm_accuracy"] / max(scores["commonest_token_accuracy"], 1e-9)
    lines = [
        f"step {scores['step']:,}, {scores['split']}, {scores['masked_tokens']:,} masked tokens in rows of"
        f" {scores['sequence_length']}",
        f"  MLM loss        {scores['mlm_loss']:.3f} nats, perplexity {scores['mlm_perplexity']:.1f};"
        f" {abs(gain):.2f} nats {'under' if gain >= 0 else 'over'} the unigram entropy of the training text,"
        f" {scores['unigram_entropy']:.3f}",
        f"  MLM accuracy    {scores['mlm_accuracy']:.1%} (95 %: {low:.1%} to {high:.1%}), {ratio:.1f} times always guessing"
        f" '{scores['commonest_token']}', {scores['commonest_token_accuracy']:.1%}",
    ]
    words = pair_words(ObjectiveConfig(scores["objective"]))
    if words is not None:
        low, high = scores["nsp_accuracy_95"]
        lines.append(
            f"  {words.short} accuracy    {scores['nsp_accuracy']:.1%} (95 %: {low:.1%} to {high:.1%}) on"
            f" {scores['pairs']:,} pairs, {scores['is_next_share']:.1%} of them {words.labels[0]}"
        )
    return "\n".join(lines)
