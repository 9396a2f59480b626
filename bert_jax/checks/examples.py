# SPDX-License-Identifier: Apache-2.0
"""What a passport says of the examples that objectives train on: pair labels, cut sentences, padding, masks."""

from collections.abc import Iterator, Mapping
from typing import Any

from bert_jax.checks.findings import Finding, NOTE, OK, Passport, percent, PROBLEM, Remake, WARNING
from bert_jax.feed.kinds import PAIRS, special_tokens

IS_NEXT_RANGE = (0.45, 0.55)
# In short rows the first sentence often fills the whole chunk, and B must then be drawn elsewhere: google-research/bert
# itself, run on Wikipedia, gives 38 to 47 % IsNext on rows of up to 64 tokens.
SHORT_ROW, IS_NEXT_OF_SHORT_ROWS = 64, 0.38
ALMOST_ONE_LABEL = 0.05  # of the rarer label: nothing is left to learn (google-research/bert#125)
LONG_ENOUGH = 128  # tokens; the paper's rows for 90 % of its steps
MOST_SAME_DOCUMENT = 0.01  # of the pairs
MOST_UNPAIRED = 0.25  # of the documents; of English Wikipedia, with its stubs, a tenth
MOST_CUT = 0.1  # of the tokens; they are in no row
LONG_SENTENCE = 60  # tokens, the mean; English Wikipedia has 27 with 30,000 entries, 37 with 4,000
LEAST_FILLED = 0.8  # below, packing saves more than a fifth of the time
NO_ACCIDENT = 1e-6  # chance of a chi-square as large: so seldom that a right split would not show it in a life's runs


def training_tables(passport: Passport) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """(its place in words, split, table) of every table of training examples. Held-out ones are made alike."""
    split = passport["splits"]["train"]
    several = len({table["kind"] for table in split["tables"].values()}) > 1
    for table in split["tables"].values():
        kind = f" {table['kind']}," if several else ""
        yield f"train,{kind} sequence length {table['sequence_length']}", split, table


def pair_labels(passport: Passport, remake: Remake) -> Iterator[Finding]:
    for place, split, table in training_tables(passport):
        if table["kind"] not in PAIRS:
            continue
        first, second = ("IsNext", "NotNext") if table["kind"] == "nsp" else ("in order", "swapped")
        share = table["is_next_share"] if table["kind"] == "nsp" else table["in_order_share"]
        seen = f"{place}: {percent(share)} of the pairs are {first}, {percent(1 - share)} {second}"
        short = table["kind"] == "nsp" and table["sequence_length"] <= SHORT_ROW
        # Two standard errors of a share of one half, were all pairs of a document alike: a document that is cut into
        # short pairs gives many, and mostly NotNext.
        noise = split["documents"] ** -0.5
        low, high = IS_NEXT_RANGE
        if low - noise <= share <= high + noise:
            yield Finding(OK, "Pair labels", seen)
        elif short and IS_NEXT_OF_SHORT_ROWS - noise <= share < low:
            yield Finding(
                NOTE, "Pair labels", seen,
                f"google-research/bert's algorithm itself gives 38 to 47% on rows of up to {SHORT_ROW} tokens, where one"
                " sentence often fills the chunk",
                "compare accuracy with always saying NotNext; for a balance, use longer rows or lower --random-next-prob",
            )  # fmt: skip
        else:
            yield _unbalanced(seen, share, passport, table, remake)


def _unbalanced(seen: str, share: float, passport: Passport, table: Mapping[str, Any], remake: Remake) -> Finding:
    split = passport["splits"]["train"]
    sentence = split["tokens"] / max(split["sentences"], 1)
    room = table["sequence_length"] - special_tokens(table["kind"])
    changes: dict[str, Any] = {"random_next_prob": 0.3}
    if share > 0.5:
        cause = f"--random-next-prob {passport['random_next_prob']}"
        changes = {"random_next_prob": 0.6}
    elif split["sentences"] < 2 * split["documents"]:
        cause = "a blank line after each sentence makes it a document of its own, which gives NotNext only"
        changes = {}
    elif sentence > room / 2:
        cause = (
            f"rows too short: {room} tokens hold one sentence of {sentence:.0f} tokens, the mean, and a chunk of one"
            " sentence gets a random B, in google-research/bert's algorithm too"
        )
        changes = {"sequence_lengths": [LONG_ENOUGH]}
    else:
        cause = f"many documents of a single sentence, or --random-next-prob {passport['random_next_prob']}"
    return Finding(
        PROBLEM if min(share, 1 - share) < ALMOST_ONE_LABEL else WARNING, "Pair labels", seen, cause,
        "check that sentences stand one a line with blank lines between documents (a document of one sentence gives"
        f" NotNext only), use longer rows, or {'lower' if share < 0.5 else 'raise'} --random-next-prob",
        remake("balanced", **changes),
    )  # fmt: skip


def pair_sources(passport: Passport, remake: Remake) -> Iterator[Finding]:
    for place, split, table in training_tables(passport):
        same = table.get("same_document_negatives", 0)
        if same <= MOST_SAME_DOCUMENT * table["examples"]:
            continue
        alone = sum(shard["documents"] == 1 for shard in split["shards"])
        yield Finding(
            WARNING, "NotNext sentences",
            f"{place}: {same:,} of {table['examples']:,} pairs took B from A's own document; {alone} of"
            f" {len(split['shards'])} shards hold a single document",
            "documents as long as a shard: books, or files without blank lines",
            "separate documents by blank lines, or raise --shard-size",
            remake("documents"),
        )  # fmt: skip


def unpaired(passport: Passport, remake: Remake) -> Iterator[Finding]:
    for name, split in passport["splits"].items():
        unpaired = max((table.get("unpaired_documents", 0) for table in split["tables"].values()), default=0)
        if unpaired <= MOST_UNPAIRED * split["documents"]:
            continue
        yield Finding(
            WARNING, "Unpaired documents",
            f"{name}: {unpaired:,} of {split['documents']:,} documents are a single sentence and in no pair",
            "a blank line after each sentence",
            "separate documents, not sentences, by blank lines, or train without pairs (mlm_full_sentences)",
            remake("full", kinds=["full_sentences"]),
        )  # fmt: skip


def cut_tokens(passport: Passport, remake: Remake) -> Iterator[Finding]:
    for place, split, table in training_tables(passport):
        share, room = table["cut_token_share"], table["sequence_length"] - special_tokens(table["kind"])
        seen = f"{place}: {percent(share)} of the tokens are cut off sentences of more than {room}"
        if share <= MOST_CUT:
            yield Finding(OK, "Cut sentences", seen)
            continue
        sentence = split["tokens"] / max(split["sentences"], 1)
        paragraphs = sentence > LONG_SENTENCE and passport.get("lines") == "sentences"
        changes = {"lines": "paragraphs"} if paragraphs else {"sequence_lengths": [LONG_ENOUGH]}
        yield Finding(
            WARNING, "Cut sentences", f"{seen} and seldom or never seen",
            f"a sentence has {sentence:.0f} tokens on average"
            + (": a paragraph or a document a line?" if paragraphs else ", which is long for these rows"),
            "write one sentence a line or let --lines paragraphs split them, or use longer rows",
            remake("whole", **changes),
        )  # fmt: skip


def filled_rows(passport: Passport, remake: Remake) -> Iterator[Finding]:
    for place, _, table in training_tables(passport):
        share = table["valid_token_share"]
        seen = f"{place}: {percent(share)} of a row is filled by one example"
        few = share < LEAST_FILLED
        yield Finding(
            NOTE if few else OK, "Padding", seen, "documents shorter than a row" if few else "",
            "several examples in a row cost less time: train with packing=packed" if few else "",
            "bert-jax pretrain CONFIG --data DATA --output RUN packing=packed" if few else "",
        )  # fmt: skip


def masks(passport: Passport, remake: Remake) -> Iterator[Finding]:
    for table, masks in (passport.get("masks") or {}).items():
        counts = masks["treatment"]
        total = max(sum(counts.values()), 1)
        shares = " / ".join(percent(count / total) for count in counts.values())
        seen = f"{table}: of {total:,} picked tokens [MASK] / random / kept {shares}, p = {masks['p_value']:.2g}"
        wrong = masks["p_value"] < NO_ACCIDENT
        yield Finding(
            PROBLEM if wrong else OK, "Masks", seen, "an error of the program" if wrong else "",
            "report it, with passport.json" if wrong else "",
        )  # fmt: skip
