# SPDX-License-Identifier: Apache-2.0
"""bert-jax evaluate: run + held-out data or any text -> masked LM scores, those of pairs, pseudo-perplexity.

Of a fine-tuned run: run + a split with labels -> the task's scores and confusion matrix.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TYPE_CHECKING

from bert_jax.config.objective import ObjectiveConfig
from bert_jax.errors import listed, UserError
from bert_jax.runs.names import FINETUNE_FILE, SEEDS_FILE

if TYPE_CHECKING:
    from bert_jax.runs.directory import RunDirectory

DESCRIPTION = """\
Score a run's newest checkpoint: on held-out data (--data), which writes evaluation.json, or on any text (--text), beside n-gram
models of the training data (--data) or of another text (--baseline-text), which writes evaluation-text.json.
A fine-tuned run is scored on a split with labels of --data (its task's files)."""

NAME_WIDTH = 36  # of a score in the text form


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bert-jax evaluate", description=DESCRIPTION)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the run directory")
    add("--data", type=Path, help="made by bert-jax prepare with the run's vocabulary")
    add(
        "--split",
        metavar="NAME",
        help="of --data: validation (default) or train; of a fine-tuned run's task: dev (default)",
    )
    unknown = (
        "of a fine-tuned run: labels that it does not know: refuse, error (mistakes), ignore (default: as the run)"
    )
    add("--unknown-labels", choices=("refuse", "error", "ignore"), help=unknown)
    add("--sequence-length", type=int, metavar="S", help="default: that of the run's last phase")
    add("--json", action="store_true", help="print the scores as JSON")
    text = parser.add_argument_group("any text").add_argument
    text("--text", nargs="+", metavar="FILE", help="text to score, as bert-jax prepare takes its --input")
    text("--baseline-text", nargs="+", metavar="FILE", help="text that the n-gram models are made of, where not --data")
    pseudo = "sentences at most, evenly chosen, of which each token is masked in turn (default: 100; 0: none)"
    text("--pseudo-perplexity", type=int, metavar="N", help=pseudo)
    text("--lines", choices=("sentences", "paragraphs"), help="what a line of plain text is (default: sentences)")
    text("--json-field", metavar="NAME", help="field of JSON lines that holds the text (default: text)")
    text("--errors", choices=("strict", "replace"), help="bytes that are not UTF-8 (default: strict)")
    text("--text-format", choices=("auto", "plain", "wiki", "json"), help="default: auto, as the first line looks")
    text("--output", type=Path, metavar="JSON", help="file to write; default: RUN/evaluation-text.json")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_args(argv)
    if any((arguments.run / name).is_file() for name in (FINETUNE_FILE, SEEDS_FILE)):
        return _of_finetuned(arguments)
    _refuse_idle(arguments)
    if arguments.split not in (None, "validation", "train"):
        raise UserError(f"--split {arguments.split}: prepared data has validation and train")

    from bert_jax.runs.directory import open_run

    run = open_run(arguments.run)
    scores = _of_data(run, arguments) if arguments.text is None else _of_text(run, arguments)
    describe = describe_data if arguments.text is None else describe_text
    print(json.dumps(scores, indent=2, ensure_ascii=False) if arguments.json else describe(scores))
    return 0


def _of_finetuned(arguments: argparse.Namespace) -> int:
    idle = [name for name in (*OF_TEXT, "text", "sequence_length") if getattr(arguments, name) is not None]
    if idle or arguments.data is None:
        what = f"--{idle[0].replace('_', '-')} is for pre-trained runs" if idle else "nothing to score"
        raise UserError(
            f"{arguments.run} is a fine-tuned run, and {what}: give --data with its task's files, and --split"
        )
    from bert_jax.files import write_json
    from bert_jax.finetuning.run import metric_words
    from bert_jax.finetuning.saved import confusion_lines, SavedModel
    from bert_jax.mesh.distributed import say

    name = arguments.split or "dev"
    model = SavedModel(arguments.run, unknown_labels=arguments.unknown_labels)
    split = model.split(str(arguments.data), name)
    for note in split.notes:
        say(note)
    outcome = model.outcome(split)
    if not outcome.scores:
        raise UserError(f"{arguments.data}, {name}: has no labels to score with: bert-jax predict writes predictions")
    record = {"task": model.task.name, "split": name, "scores": outcome.scores, "counts": split.counts}
    record["f1_of"] = model.task.f1_of
    write_json(model.finetuned.path / f"evaluation-{name}.json", record)
    if arguments.json:
        print(json.dumps(record, indent=2, ensure_ascii=False))
        return 0
    for metric, value in outcome.scores.items():
        shown = "not defined" if value is None else f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name} {metric_words(metric, model.task.f1_of)}  {shown}")
    print("\n".join(confusion_lines(model.task, outcome)), end="")
    return 0


TEXT_SETTINGS = ("sequence_length", "pseudo_perplexity", "lines", "json_field", "errors", "text_format")
OF_TEXT = ("baseline_text", "pseudo_perplexity", "lines", "json_field", "errors", "text_format", "output")


def _refuse_idle(arguments: argparse.Namespace) -> None:
    """Options that would do nothing."""
    if arguments.unknown_labels is not None:
        raise UserError(f"--unknown-labels is for fine-tuned runs, and {arguments.run} is none: leave it out")
    if arguments.text is None and arguments.data is None:
        raise UserError("nothing to score: give --data DIR (held-out data) or --text FILE... (any text)")
    idle, with_option = (OF_TEXT, "--text FILE...") if arguments.text is None else (("split",), "--data alone")
    for name in idle:
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} goes with {with_option}: leave it out")


def _of_data(run: "RunDirectory", arguments: argparse.Namespace) -> dict[str, Any]:
    from bert_jax.feed.shards import open_data
    from bert_jax.files import write_json
    from bert_jax.use.evaluation import evaluate_run

    split = arguments.split or "validation"
    scores = evaluate_run(run, open_data(arguments.data), split, arguments.sequence_length)
    if split == "validation" and scores["sequence_length"] == run.config().phases[-1].sequence_length:
        write_json(run.evaluation_file, scores)
    else:
        print(
            f"printed only: {run.evaluation_file} is for the validation split at the last phase's length",
            file=sys.stderr,
        )
    return scores


def _of_text(run: "RunDirectory", arguments: argparse.Namespace) -> dict[str, Any]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are ours to count

    from bert_jax.feed.shards import open_data
    from bert_jax.files import write_json
    from bert_jax.use.intrinsic import evaluate_text, SCORES_FILE, TextSettings

    output = arguments.output or run.path / SCORES_FILE
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.absolute().parent}: make it first")
    given = {name: value for name in TEXT_SETTINGS if (value := getattr(arguments, name)) is not None}
    data = None if arguments.data is None else open_data(arguments.data)
    baseline = arguments.baseline_text or ()
    scores = evaluate_text(run, arguments.text, TextSettings(**given), data=data, baseline_texts=baseline)
    write_json(output, scores)
    for warning in scores["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"written: {output}", file=sys.stderr)
    return scores


# ---- in words -------------------------------------------------------------------------------------------------------


def describe_data(scores: dict[str, Any]) -> str:
    """The scores of held-out data."""
    low, high = scores["mlm_accuracy_95"]
    gain = scores["unigram_entropy"] - scores["mlm_loss"]
    ratio = scores["mlm_accuracy"] / max(scores["commonest_token_accuracy"], 1e-9)
    return "\n".join(
        [
            f"step {scores['step']:,}, {scores['split']}, {scores['masked_tokens']:,} masked tokens in rows of"
            f" {scores['sequence_length']}",
            f"  MLM loss        {scores['mlm_loss']:.3f} nats, perplexity {scores['mlm_perplexity']:.1f};"
            f" {abs(gain):.2f} nats {'under' if gain >= 0 else 'over'} the unigram entropy of the training text,"
            f" {scores['unigram_entropy']:.3f}",
            f"  MLM accuracy    {scores['mlm_accuracy']:.1%} (95 %: {low:.1%} to {high:.1%}), {ratio:.1f} times always"
            f" guessing '{scores['commonest_token']}', {scores['commonest_token_accuracy']:.1%}",
            *(f"  {name:<15} {text}" for name, text in _pair_lines(scores)),
        ]
    )


def describe_text(scores: dict[str, Any]) -> str:
    """The scores of a text."""
    text, pseudo = scores["text"], scores.get("pseudo")
    names = listed(file["file"] for file in text["files"])
    lines = [
        f"step {scores['step']:,}, {names}: {text['sentences']:,} sentences, {text['tokens']:,} tokens,"
        f" {text['unknown_share']:.2%} [UNK]"
    ]
    rows = [*_masked_lines(scores), *_pair_lines(scores)]
    if pseudo is not None:
        rows += _pseudo_lines(pseudo)
    lines += [f"  {name:<{NAME_WIDTH}} {value}" for name, value in rows]
    return "\n".join([*lines, *_ngram_lines(scores.get("ngrams"))])


def _masked_lines(scores: dict[str, Any]) -> Iterator[tuple[str, str]]:
    low, high = scores["mlm_accuracy_95"]
    masked = f"MLM perplexity ({100 * scores['mlm_probability']:g} % masked)"
    tokens = f"on {scores['masked_tokens']:,} masked tokens in rows of {scores['sequence_length']}"
    yield masked, f"{scores['mlm_perplexity']:.2f} (loss {scores['mlm_loss']:.4f} nats) {tokens}"
    yield from _baseline_lines(scores)
    yield "MLM accuracy", f"{scores['mlm_accuracy']:.1%} (95 %: {low:.1%} to {high:.1%})"


def _baseline_lines(scores: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("unigram", "bigram"):
        if f"{name}_perplexity" in scores:
            loss = f"(loss {scores[f'{name}_loss']:.4f} nats) on the same tokens"
            yield f"  {name} perplexity", f"{scores[f'{name}_perplexity']:.2f} {loss}"


def _pair_lines(scores: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from bert_jax.config.objective import pair_words

    words = pair_words(ObjectiveConfig(scores["objective"]))
    if words is not None:
        low, high = scores["nsp_accuracy_95"]
        yield (
            f"{words.short} accuracy",
            f"{scores['nsp_accuracy']:.1%} (95 %: {low:.1%} to {high:.1%}) on {scores['pairs']:,} pairs,"
            f" {scores['is_next_share']:.1%} of them {words.labels[0]}",
        )


def _pseudo_lines(pseudo: dict[str, Any]) -> Iterator[tuple[str, str]]:
    of = f"{pseudo['sentences']:,} of {pseudo['sentences_of_text']:,} sentences"
    if pseudo["too_long"]:
        of += f" ({pseudo['too_long']:,} of more than {pseudo['longest_tokens']} tokens are left out)"
    name = "pseudo-perplexity per token"
    if "perplexity" not in pseudo:
        yield name, f"none: {of}"
        return
    yield (
        name,
        f"{pseudo['perplexity']:.2f} (loss {pseudo['loss']:.4f} nats) on {pseudo['tokens']:,} tokens, each masked in turn,"
        f" of {of}",
    )
    yield from _baseline_lines(pseudo)


def _ngram_lines(ngrams: dict[str, Any] | None) -> Iterator[str]:
    if ngrams is None:
        yield "  no unigram and bigram models beside it: name their text with --data or --baseline-text"
        return
    counted = f"{ngrams['counted_tokens']:,} tokens"
    if ngrams["counted_tokens"] < ngrams["available_tokens"]:
        counted += f" (of {ngrams['available_tokens']:,})"
    bigram = ngrams["bigram"]
    yield (
        f"  n-gram models: {counted} of {ngrams['text']}, {ngrams['distinct_bigrams']:,} different bigrams in"
        f" {ngrams['bytes'] / 1e6:.1f} MB"
    )
    yield (
        f"    unigram: add-k, k {ngrams['unigram']['k']:g}; bigram: {bigram['smoothing']}, discount {bigram['discount']:g}, k"
        f" {bigram['k']:g}; chosen on {ngrams['held_out_tokens']:,} held-out tokens of that text"
    )
