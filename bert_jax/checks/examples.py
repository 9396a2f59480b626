# SPDX-License-Identifier: Apache-2.0
"""Checks of the examples that objectives train on, by the passport: pair labels, cut sentences, padding, masks."""

from collections.abc import Iterator
from functools import partial

from bert_jax.checks import rules
from bert_jax.checks.findings import Finding, NOTE, Passport, percent, PROBLEM, Remake, WARNING
from bert_jax.feed.kinds import PAIRS, special_tokens
from bert_jax.runs.reading import Record


def training_tables(passport: Passport) -> Iterator[tuple[str, Record, Record]]:
    """(its place in words, split, table) of every table of training examples. Held-out ones are made alike."""
    split = passport["splits"]["train"]
    several = len({table["kind"] for table in split["tables"].values()}) > 1
    for table in split["tables"].values():
        kind = f" {table['kind']}," if several else ""
        yield f"train,{kind} sequence length {table['sequence_length']}", split, table


def pair_labels(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether both labels of the pairs are about as frequent."""
    for place, split, table in training_tables(passport):
        if table["kind"] not in PAIRS:
            continue
        first, second = ("IsNext", "NotNext") if table["kind"] == "nsp" else ("in order", "swapped")
        share = table["is_next_share"] if table["kind"] == "nsp" else table["in_order_share"]
        seen = f"{percent(share)} of the pairs are {first}, {percent(1 - share)} {second}"
        short = table["kind"] == "nsp" and table["sequence_length"] <= rules.SHORT_ROW
        # Two standard errors of a share of one half, were all pairs of a document alike: a document that is cut into
        # short pairs gives many, and mostly NotNext.
        noise = split["documents"] ** -0.5
        low, high = rules.IS_NEXT_RANGE
        if low - noise <= share <= high + noise:
            yield rules.PAIR_LABELS.fine(seen, share).at(place)
        elif short and rules.IS_NEXT_OF_SHORT_ROWS - noise <= share < low:
            causes = (
                f"google-research/bert's algorithm itself gives 38 to 47% on rows of up to {rules.SHORT_ROW} tokens, where"
                " one sentence often fills the chunk"
            )
            remedy = "compare accuracy with always saying NotNext; for a balance, use longer rows or lower --random-next-prob"
            found = rules.PAIR_LABELS.found(NOTE, seen, causes=causes, remedy=remedy, value=share, threshold=low)
            yield found.at(place)
        else:
            yield _unbalanced(seen, share, passport, table, remake).at(place)


def _unbalanced(seen: str, share: float, passport: Passport, table: Record, remake: Remake) -> Finding:
    split = passport["splits"]["train"]
    sentence = split["tokens"] / max(split["sentences"], 1)
    room = table["sequence_length"] - special_tokens(table["kind"])
    command = partial(remake, "balanced", random_next_prob=0.3)
    if share > 0.5:
        cause = f"--random-next-prob {passport['random_next_prob']}"
        command = partial(remake, "balanced", random_next_prob=0.6)
    elif split["sentences"] < 2 * split["documents"]:
        cause = "a blank line after each sentence makes it a document of its own, which gives NotNext only"
        command = partial(remake, "balanced")
    elif sentence > room / 2:
        cause = (
            f"rows too short: {room} tokens hold one sentence of {sentence:.0f} tokens, the mean, and a chunk of one"
            " sentence gets a random B, in google-research/bert's algorithm too"
        )
        command = partial(remake, "balanced", sequence_lengths=[rules.LONG_ENOUGH])
    else:
        cause = f"many documents of a single sentence, or --random-next-prob {passport['random_next_prob']}"
    remedy = (
        "check that sentences stand one a line with blank lines between documents (a document of one sentence gives"
        f" NotNext only), use longer rows, or {'lower' if share < 0.5 else 'raise'} --random-next-prob"
    )
    rarer = min(share, 1 - share)
    severity, limit = (
        (PROBLEM, rules.ALMOST_ONE_LABEL) if rarer < rules.ALMOST_ONE_LABEL else (WARNING, rules.IS_NEXT_RANGE[0])
    )
    return rules.PAIR_LABELS.found(
        severity, seen, causes=cause, remedy=remedy, command=command, value=rarer, threshold=limit
    )


def pair_sources(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether the second sentence of NotNext pairs comes from other documents; nothing is said where it does."""
    for place, split, table in training_tables(passport):
        same, pairs = table.get("same_document_negatives", 0), table["examples"]
        alone = sum(shard["documents"] == 1 for shard in split["shards"])
        seen = (
            f"{same:,} of {pairs:,} pairs took B from A's own document; {alone} of {len(split['shards'])} shards"
            " hold a single document"
        )
        found = rules.SAME_DOCUMENT.judge(same / max(pairs, 1), seen, command=partial(remake, "documents"))
        if found.severity == WARNING:
            yield found.at(place)


def unpaired(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether many documents are too short for a pair; nothing is said where few are."""
    for name, split in passport["splits"].items():
        unpaired = max((table.get("unpaired_documents", 0) for table in split["tables"].values()), default=0)
        seen = f"{unpaired:,} of {split['documents']:,} documents are a single sentence and in no pair"
        share, command = unpaired / max(split["documents"], 1), partial(remake, "full", kinds=["full_sentences"])
        found = rules.UNPAIRED.judge(share, seen, command=command)
        if found.severity == WARNING:
            yield found.at(name)


def cut_tokens(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether sentences are longer than rows."""
    for place, split, table in training_tables(passport):
        share, room = table["cut_token_share"], table["sequence_length"] - special_tokens(table["kind"])
        sentence = split["tokens"] / max(split["sentences"], 1)
        paragraphs = sentence > rules.LONG_SENTENCE and passport.get("lines") == "sentences"
        long = ": a paragraph or a document a line?" if paragraphs else ", which is long for these rows"
        lines, rows = (
            partial(remake, "whole", lines="paragraphs"),
            partial(remake, "whole", sequence_lengths=[rules.LONG_ENOUGH]),
        )
        found = rules.CUT.judge(
            share,
            f"{percent(share)} of the tokens are cut off sentences of more than {room}",
            " and seldom or never seen",
            causes=f"a sentence has {sentence:.0f} tokens on average{long}",
            command=lines if paragraphs else rows,
        )
        yield found.at(place)


def filled_rows(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether one example fills a row."""
    for place, _, table in training_tables(passport):
        share = table["valid_token_share"]
        command = "bert-jax pretrain CONFIG --data DATA --output RUN packing=packed"
        found = rules.FILLED.judge(share, f"{percent(share)} of a row is filled by one example", command=command)
        yield found.at(place)


def masks(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether masks of a sample are split as the default objective says."""
    for table, measured in (passport.get("masks") or {}).items():
        counts, chance = measured["treatment"], measured["p_value"]
        total = max(sum(counts.values()), 1)
        shares = " / ".join(percent(count / total) for count in counts.values())
        seen = f"{table}: of {total:,} picked tokens [MASK] / random / kept {shares}, p = {chance:.2g}"
        yield rules.MASKS.judge(chance, seen)
