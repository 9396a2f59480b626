# SPDX-License-Identifier: Apache-2.0
"""bert-jax evaluate: a checkpoint of any format + held-out data or any text -> scores of masked tokens, of pairs, and
pseudo-perplexity. Of a fine-tuned run: run + a split with labels -> the task's scores and confusion matrix.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bert_jax.pipelines import _checkpoint_options, _options, _processes

from bert_jax.base.errors import listed, UserError
from bert_jax.base.paths import any_path, any_text, on_bucket
from bert_jax.base.types import JsonObject
from bert_jax.config.objective import directions, ObjectiveConfig, TokenWords
from bert_jax.runs.names import EVALUATION_TEXT_FILE, FINETUNE_FILE, SEEDS_FILE

if TYPE_CHECKING:
    from bert_jax.finetuning.saved import SavedModel
    from bert_jax.finetuning.split import Outcome, TaskSplit
    from bert_jax.use.model import Pretrained

DESCRIPTION = """\
Score a masked LM of any format (of a run its newest checkpoint): on held-out data (--data), or on any text (--text), beside
n-gram models of the training data (--data) or of another text (--baseline-text). In a run the scores are kept, as
evaluation.json and evaluation-text.json.
A fine-tuned run is scored on a split with labels of --data (its task's files); so is a fine-tuned checkpoint of another
format whose task is named (--task)."""

NAME_WIDTH = 36  # of a score in the text form


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _options.StageParser(prog="bert-jax evaluate", description=DESCRIPTION)
    add = parser.add_argument
    add("model", type=any_path, metavar="MODEL", help=_checkpoint_options.ANY_FORMAT)
    data = "prepared with the model's vocabulary; of a fine-tuned one its task's files"
    add("--data", type=any_path, metavar="DATA", help=data)
    add(
        "--split",
        metavar="NAME",
        help="of --data: validation (default) or train; of a fine-tuned run's task: dev (default)",
    )
    unknown = (
        "of a fine-tuned run: labels that it does not know: refuse, error (mistakes), ignore (default: as the run)"
    )
    add("--unknown-labels", choices=("refuse", "error", "ignore"), help=unknown)
    length = (
        "default: that of the run's last phase; of other checkpoints the longest of --data, or the model's positions"
    )
    task = "of a fine-tuned checkpoint of another format: the task whose files --data has"
    add("--task", metavar="NAME", help=task)
    add("--sequence-length", type=int, metavar="S", help=length)
    output = "file to write (default: RUN/evaluation.json, RUN/evaluation-text.json; of other checkpoints none)"
    add("--output", type=any_path, metavar="PATH", help=output)
    add("--json", action="store_true", help="print JSON")
    of_text = parser.add_argument_group("any text")
    text = of_text.add_argument
    text(
        "--text", type=any_text, nargs="+", metavar="TEXT", help="text to score, as bert-jax prepare takes its --input"
    )
    baseline = "text that the n-gram models are made of, where not --data"
    text("--baseline-text", type=any_text, nargs="+", metavar="TEXT", help=baseline)
    order = "tokens of the longest n-gram models, forward and backward: 2 to 5 (default: a bigram model, forward alone)"
    text("--order", type=int, metavar="N", help=order)
    pseudo = "sentences at most, evenly chosen, of which each token is masked in turn (default: 100; 0: none)"
    text("--pseudo-perplexity", type=int, metavar="N", help=pseudo)
    _options.add_reading_options(of_text, defaults=False)
    _checkpoint_options.add_checkpoint_options(parser, kind=False)
    _processes.add_process_options(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_args(argv)
    output = arguments.output
    if output is not None and not on_bucket(output) and not (folder := output.absolute().parent).is_dir():
        raise UserError(f"--output {output}: there is no folder {folder}: make it first")
    if arguments.task is not None or any((arguments.model / name).is_file() for name in (FINETUNE_FILE, SEEDS_FILE)):
        return _of_finetuned(arguments)
    _refuse_idle(arguments)
    if arguments.split not in (None, "validation", "train"):
        raise UserError(f"--split {arguments.split}: prepared data has validation and train")
    _processes.join_processes(arguments)

    from bert_jax.mesh.distributed import all_or_none, is_main

    with all_or_none():
        model = _open(arguments)
    _processes.require_same_work(arguments, {"step": str(model.origin.step)})
    of_data = arguments.text is None
    scores = _of_data(model, arguments) if of_data else _of_text(model, arguments)
    with all_or_none():
        if is_main():
            keep, describe = (_keep_data, describe_data) if of_data else (_keep_text, describe_text)
            keep(scores, model, arguments)
            print(json.dumps(scores, indent=2, ensure_ascii=False) if arguments.json else describe(scores))
    return 0


def _open(arguments: argparse.Namespace) -> "Pretrained":
    from bert_jax.use.model import load

    model = load(arguments.model, dtype=None, asked=_checkpoint_options.asked(arguments, head=False))
    shape = model.description.model
    if arguments.pseudo_perplexity and (shape.causal or shape.is_recurrent):
        sees = "a biLM, whose halves see one side each" if shape.is_recurrent else "left to right and sees one side"
        raise UserError(
            f"--pseudo-perplexity {arguments.pseudo_perplexity}: {arguments.model} is {sees} of a"
            " masked token; its perplexity is that of the text: leave the option out"
        )
    return model


def _of_finetuned(arguments: argparse.Namespace) -> int:
    idle = [name for name in (*OF_TEXT, "text", "sequence_length") if getattr(arguments, name) is not None]
    if idle or arguments.data is None:
        what = f"--{idle[0].replace('_', '-')} is for pre-trained runs" if idle else "nothing to score"
        raise UserError(
            f"{arguments.model} is a fine-tuned run, and {what}: give --data with its task's files, and --split"
        )
    _processes.join_processes(arguments)

    from bert_jax.finetuning.saved import SavedModel
    from bert_jax.mesh.distributed import all_or_none, is_main, say

    name = arguments.split or "dev"
    with all_or_none():
        asked = _checkpoint_options.asked(arguments)
        model = SavedModel(arguments.model, arguments.unknown_labels, arguments.task, asked)
        if model.run is not None and arguments.task is not None:
            raise UserError(
                f"--task {arguments.task}: {model.path} is a run and says its task itself: leave the option out"
            )
        split = model.split(str(arguments.data), name)
    _processes.require_same_work(arguments, {"step": str(model.checkpoint.step), "--data": split.content()})
    for note in split.notes:
        say(note)
    outcome = model.outcome(split)
    if not outcome.scores:
        raise UserError(f"{arguments.data}, {name}: has no labels to score with: bert-jax predict writes predictions")
    with all_or_none():
        if is_main():
            _tell_finetuned(model, split, outcome, arguments)
    return 0


def _tell_finetuned(model: "SavedModel", split: "TaskSplit", outcome: "Outcome", arguments: argparse.Namespace) -> None:
    """Keep the scores of a fine-tuned run, and print them."""
    from bert_jax.base.files import write_json
    from bert_jax.finetuning.run import metric_words
    from bert_jax.finetuning.saved import confusion_lines

    name = arguments.split or "dev"
    record: JsonObject = {"task": model.task.name, "split": name, "scores": outcome.scores, "counts": split.counts}
    record["f1_of"] = model.task.f1_of
    record["weights"] = weights = None if model.run is None else model.run.averaging()
    output = arguments.output or (None if model.run is None else model.path / f"evaluation-{name}.json")
    if output is not None:
        write_json(output, record)
    if arguments.json:
        print(json.dumps(record, indent=2, ensure_ascii=False))
        return
    if weights is not None:
        print(weights)
    for metric, value in outcome.scores.items():
        shown = "not defined" if value is None else f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name} {metric_words(metric, model.task.f1_of)}  {shown}")
    print("\n".join(confusion_lines(model.task, outcome)), end="")


OF_TEXT_SETTINGS = ("order", "pseudo_perplexity", "lines", "json_field", "errors", "text_format")
TEXT_SETTINGS, OF_TEXT = ("sequence_length", *OF_TEXT_SETTINGS), ("baseline_text", *OF_TEXT_SETTINGS)


def _refuse_idle(arguments: argparse.Namespace) -> None:
    """Options that would do nothing."""
    if arguments.unknown_labels is not None:
        raise UserError(f"--unknown-labels is for fine-tuned runs, and {arguments.model} is none: leave it out")
    if arguments.text is None and arguments.data is None:
        raise UserError("nothing to score: give --data DATA (held-out data) or --text TEXT... (any text)")
    idle, with_option = (OF_TEXT, "--text TEXT...") if arguments.text is None else (("split",), "--data alone")
    for name in idle:
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} goes with {with_option}: leave it out")


def _of_data(model: "Pretrained", arguments: argparse.Namespace) -> JsonObject:
    from bert_jax.feed.shards import open_data
    from bert_jax.use.evaluation import evaluate_data

    return evaluate_data(model, open_data(arguments.data), arguments.split or "validation", arguments.sequence_length)


def _keep_data(scores: JsonObject, model: "Pretrained", arguments: argparse.Namespace) -> None:
    from bert_jax.base.files import write_json

    output, run = arguments.output, model.origin.run
    if output is None and run is not None:
        if scores["split"] == "validation" and scores["sequence_length"] == model.phase(None).sequence_length:
            output = run.evaluation_file
        else:
            print(
                f"printed only: {run.evaluation_file} is for the validation split at the last phase's length",
                file=sys.stderr,
            )
    if output is not None:
        write_json(output, scores)


def _of_text(model: "Pretrained", arguments: argparse.Namespace) -> JsonObject:
    from bert_jax.feed.shards import open_data
    from bert_jax.use.intrinsic import evaluate_text, TextSettings

    given = {name: value for name in TEXT_SETTINGS if (value := getattr(arguments, name)) is not None}
    data = None if arguments.data is None else open_data(arguments.data)
    baseline = arguments.baseline_text or ()
    return evaluate_text(model, arguments.text, TextSettings(**given), data=data, baseline_texts=baseline)


def _keep_text(scores: JsonObject, model: "Pretrained", arguments: argparse.Namespace) -> None:
    from bert_jax.base.files import write_json

    run = model.origin.run
    output = arguments.output or (None if run is None else run.path / EVALUATION_TEXT_FILE)
    for warning in scores["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    if output is not None:
        write_json(output, scores)
        print(f"written: {output}", file=sys.stderr)


# ---- in words -------------------------------------------------------------------------------------------------------


def _checkpoint(scores: JsonObject) -> str:
    """Return which checkpoint of a run was scored, and what its weights are where they are not those that were trained."""
    step = None if scores["step"] is None else f"step {scores['step']:,}"
    return "".join(f"{words}, " for words in (step, scores["weights"]) if words)


def describe_data(scores: JsonObject) -> str:
    """The scores of held-out data."""
    words, *others = directions(ObjectiveConfig(scores["objective"]))
    return "\n".join(
        [
            f"{_checkpoint(scores)}{scores['split']}, {scores[words.counter]:,} {words.predicted} in rows of"
            f" {scores['sequence_length']}",
            *(line for each in (words, *others) for line in _direction_lines(scores, each)),
            *(f"  {name:<15} {text}" for name, text in [*_replaced_lines(scores), *_pair_lines(scores)]),
        ]
    )


def _direction_lines(scores: JsonObject, words: TokenWords) -> Iterator[str]:
    loss, perplexity, accuracy = (scores[f"{words.term}_{name}"] for name in ("loss", "perplexity", "accuracy"))
    low, high = scores[f"{words.term}_accuracy_95"]
    gain = scores["unigram_entropy"] - loss
    ratio = accuracy / max(scores["commonest_token_accuracy"], 1e-9)
    per_piece = {
        "ltr": " for each word piece, from those before it",
        "rtl": " for each word piece, from those behind it",
    }
    yield (
        f"  {words.short} loss        {loss:.3f} nats, perplexity {perplexity:.1f}{per_piece.get(words.term, '')};"
        f" {abs(gain):.2f} nats {'under' if gain >= 0 else 'over'} the unigram entropy of the training text,"
        f" {scores['unigram_entropy']:.3f}"
    )
    yield (
        f"  {words.short} accuracy    {accuracy:.1%} (95 %: {low:.1%} to {high:.1%}), {ratio:.1f} times always"
        f" guessing '{scores['commonest_token']}', {scores['commonest_token_accuracy']:.1%}"
    )


def describe_text(scores: JsonObject) -> str:
    """The scores of a text."""
    text, pseudo = scores["text"], scores.get("pseudo")
    names = listed(file["file"] for file in text["files"])
    lines = [
        f"{_checkpoint(scores)}{names}: {text['sentences']:,} sentences, {text['tokens']:,} tokens,"
        f" {text['unknown_share']:.2%} [UNK]"
    ]
    rows = [*_token_lines(scores), *_pair_lines(scores)]
    if pseudo is not None:
        rows += _pseudo_lines(pseudo)
    lines += [f"  {name:<{NAME_WIDTH}} {value}" for name, value in rows]
    return "\n".join([*lines, *_ngram_lines(scores.get("ngrams"))])


def _token_lines(scores: JsonObject) -> Iterator[tuple[str, str]]:
    ways = {"ltr": "left to right", "rtl": "right to left"}
    for words in directions(ObjectiveConfig(scores["objective"])):
        loss, perplexity, accuracy = (scores[f"{words.term}_{name}"] for name in ("loss", "perplexity", "accuracy"))
        low, high = scores[f"{words.term}_accuracy_95"]
        how = ways.get(words.term) or f"{100 * scores['mlm_probability']:g} % masked"
        tokens = f"on {scores[words.counter]:,} {words.predicted} in rows of {scores['sequence_length']}"
        yield f"{words.short} perplexity ({how})", f"{perplexity:.2f} (loss {loss:.4f} nats) {tokens}"
        if words.term != "rtl":  # the floors are of the same tokens in both directions
            alike = "the same tokens" if words.term == "mlm" else "the same tokens without [SEP]"
            yield from _baseline_lines(scores, alike)
        yield f"{words.short} accuracy", f"{accuracy:.1%} (95 %: {low:.1%} to {high:.1%})"


def _baseline_lines(scores: JsonObject, alike: str = "the same tokens") -> Iterator[tuple[str, str]]:
    from bert_jax.pages.wording import ngram_names, spoken_ngram

    for name in ngram_names(scores):
        loss = f"(loss {scores[f'{name}_loss']:.4f} nats) on {alike}"
        yield f"  {spoken_ngram(name)} perplexity", f"{scores[f'{name}_perplexity']:.2f} {loss}"


def _replaced_lines(scores: JsonObject) -> Iterator[tuple[str, str]]:
    if "rtd_loss" not in scores:
        return
    yield (
        "replaced tokens",
        f"{scores['rtd_recall']:.1%} found, {scores['rtd_precision']:.1%} of those flagged were replaced;"
        f" {scores['replaced_share']:.1%} of {scores['rtd_tokens']:,} tokens are",
    )
    yield (
        "RTD accuracy",
        f"{scores['rtd_accuracy']:.1%}, always saying that none is {scores['rtd_always_original']:.1%};"
        f" loss {scores['rtd_loss']:.4f} nats, giving all the same probability {scores['rtd_share_loss']:.4f}",
    )


def _pair_lines(scores: JsonObject) -> Iterator[tuple[str, str]]:
    from bert_jax.config.objective import pair_words

    if (reason := scores.get("nsp_left_out")) is not None:
        yield "NSP accuracy", f"left out: {reason}"
    words = pair_words(ObjectiveConfig(scores["objective"]))
    if words is not None:
        low, high = scores["nsp_accuracy_95"]
        yield (
            f"{words.short} accuracy",
            f"{scores['nsp_accuracy']:.1%} (95 %: {low:.1%} to {high:.1%}) on {scores['pairs']:,} pairs,"
            f" {scores['is_next_share']:.1%} of them {words.labels[0]}",
        )


def _pseudo_lines(pseudo: JsonObject) -> Iterator[tuple[str, str]]:
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


def _ngram_lines(ngrams: JsonObject | None) -> Iterator[str]:
    from bert_jax.pages.wording import spoken_ngram

    if ngrams is None:
        yield "  no unigram and bigram models beside it: name their text with --data or --baseline-text"
        return
    counted = f"{ngrams['counted_tokens']:,} tokens"
    if ngrams["counted_tokens"] < ngrams["available_tokens"]:
        counted += f" (of {ngrams['available_tokens']:,})"
    yield f"  n-gram models: {counted} of {ngrams['text']}"
    held_out = f"chosen, as all that follows, on {ngrams['held_out_tokens']:,} held-out tokens"
    yield f"    unigram: add-k, k {ngrams['unigram']['k']:g}; {held_out}"
    for name, model in ngrams.items():
        if name.endswith("gram") and name != "unigram":
            yield (
                f"    {spoken_ngram(name)}: {model['smoothing']}, discount {model['discount']:g}, k {model['k']:g};"
                f" {model['distinct']:,} different ones in {model['bytes'] / 1e6:.1f} MB"
            )
