# SPDX-License-Identifier: Apache-2.0
"""What a passport says of the text: vocabulary, unknown tokens, repetitions, documents, evaluation data in it."""

from collections.abc import Iterator

from bert_jax.checks.findings import Finding, NOTE, OK, Passport, percent, PROBLEM, quoted, Remake, WARNING
from bert_jax.text.mark_counts import describe_loss, scripts_of_marks
from bert_jax.text.marks import MarkLoss
from bert_jax.text.scripts import CONTROLS, REPLACEMENTS

# A WordPiece vocabulary begins with the letters and their continuations; below this there is little room for more.
# The paper has 30,522 entries.
SMALLEST_VOCABULARY = 1_000
# A vocabulary made of a text leaves less than 0.1 % of it unknown; BERT's own has 0.02 % of English Wikipedia.
MOST_UNKNOWN, FAR_TOO_MANY_UNKNOWN = 0.01, 0.1
# English Wikipedia, whose headings recur, has 5 %. At 30 % a third of every batch can be learned by heart.
MOST_REPEATED_SENTENCES, FAR_TOO_MANY_REPEATED = 0.1, 0.3
MOST_REPEATED_DOCUMENTS = 0.05  # Lee et al. 2022 (2107.06499) remove 3 to 14 % of web text as near-duplicates
MOST_OF_ONE_LINE = 0.01  # of all sentences; the commonest heading of Wikipedia ("History.") has 0.2 %
FEWEST_TIMES = 100  # a line that stands there less often is no matter, however short the text
MOST_OF_ONE_TOKEN = 0.2  # "the" is 5 to 7 % of English text, "，" or "的" of Chinese
FEWEST_DOCUMENTS = 10  # with fewer, a B from "another document" comes from the same few places again and again
MOST_REPLACED, MOST_CONTROLS = 1e-4, 0.01  # of the characters
MOST_DROPPED = 0.05  # of the sentences
FEWEST_HELD_OUT_TOKENS = 10_000  # 15 % of them give MLM accuracy to about 1 %
MOST_CONTAMINATED_TEXTS = 0.01


def vocabulary(passport: Passport, remake: Remake) -> Iterator[Finding]:
    size = passport["vocab_size"]
    text = passport.get("text", {})
    length = f"; {text['characters'] / text['tokens']:.1f} characters a token" if text.get("tokens") else ""
    unreachable = passport.get("unreachable_entries")
    if unreachable:
        length += f"; {unreachable:,} of them can never be met: their lines are empty or repeated further down"
    if size >= SMALLEST_VOCABULARY:
        yield Finding(OK, "Vocabulary", f"{size:,} entries{length}")
        return
    yield Finding(
        WARNING, "Vocabulary",
        f"the vocabulary has only {size} entries, so most words fall apart into letters{length}",
        "a vocabulary made for a test, or of too little text",
        "make a larger one with bert-jax vocab",
        "bert-jax vocab --input PATH... --output VOCAB --size 30522",
    )  # fmt: skip


def unknown_tokens(passport: Passport, remake: Remake) -> Iterator[Finding]:
    for name, split in passport["splits"].items():
        share = split["unknown_tokens"] / max(split["tokens"], 1)
        if share <= MOST_UNKNOWN:
            yield Finding(OK, "[UNK]", f"{name}: {percent(share, 3)} of the tokens are [UNK]")
            continue
        yield Finding(
            PROBLEM if share > FAR_TOO_MANY_UNKNOWN else WARNING, "[UNK]",
            f"{name}: {percent(share)} of the tokens are [UNK]",
            "a vocabulary of another language or script, or a cased vocabulary with --uncased",
            "the vocabulary is not for this text, make one of it with bert-jax vocab",
            f"bert-jax vocab --input PATH... --output VOCAB --size {passport['vocab_size']}",
        )  # fmt: skip


def marks(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether stripping of accents makes other words of the text's words."""
    if not passport.get("strip_accents"):
        if "strip_accents" in passport:
            yield Finding(OK, "Accents", "accents and other marks are kept")
        return
    text = passport.get("text", {})
    measured = text.get("marks")
    loss, scripts = MarkLoss(**measured) if measured else None, scripts_of_marks(text.get("scripts", {}))
    told, too_much = describe_loss(loss, scripts)
    seen = f"accents are stripped: {told or 'what that takes was not measured'}"
    if not too_much:
        yield Finding(OK, "Accents", seen)
        return
    yield Finding(
        WARNING, "Accents", seen,
        "a vocabulary that strips accents, as google-research/bert does wherever it lower-cases",
        "make a vocabulary that keeps them, with bert-jax vocab --keep-accents",
        f"bert-jax vocab --input PATH... --output VOCAB --size {passport['vocab_size']} --keep-accents",
    )  # fmt: skip


def commonest_token(passport: Passport, remake: Remake) -> Iterator[Finding]:
    train = passport["splits"]["train"]
    share, entropy = train["commonest_token_share"], train["unigram_entropy"]
    seen = f"the commonest token (id {train['commonest_token']}) is {percent(share)} of the training text"
    if share <= MOST_OF_ONE_TOKEN:
        yield Finding(OK, "Word frequencies", f"{seen}; unigram entropy {entropy:.3f} nats")
        return
    yield Finding(
        WARNING, "Word frequencies", f"{seen}, unigram entropy {entropy:.3f} nats",
        "tables, code, separators or [UNK] instead of prose",
        "look at the text and remove what is not prose",
    )  # fmt: skip


def repeated_sentences(passport: Passport, remake: Remake) -> Iterator[Finding]:
    text = passport.get("text")
    if not text:
        yield Finding(NOTE, "Repeated lines", "the passport holds no statistics of the text", "", "prepare it again")
        return
    counts, lines = text["sentences"], text["repeated_lines"]
    share, estimated = counts["repeated_share"], "about " if counts["compared"] < 1 else ""
    worst = f"; most often {quoted(lines[0]['text'])}, {lines[0]['times']:,} times" if lines else ""
    seen = f"{estimated}{percent(share)} of the sentences ({counts['repeated']:,}) repeat an earlier one{worst}"
    one_line = lines[0]["times"] / max(counts["count"], 1) if lines else 0.0
    # A few sentences repeat by chance in a text of a few: one line counts where it stands there many times.
    if share <= MOST_REPEATED_SENTENCES and (one_line <= MOST_OF_ONE_LINE or lines[0]["times"] < FEWEST_TIMES):
        yield Finding(OK, "Repeated lines", seen)
        return
    yield Finding(
        PROBLEM if share > FAR_TOO_MANY_REPEATED else WARNING, "Repeated lines",
        f"{seen}, and a model learns such text by heart",
        "headers, footers, licences, menus, copies of files; such text can hold the loss near 7",
        "remove repeated lines",
        remake("clean"),
    )  # fmt: skip


def repeated_documents(passport: Passport, remake: Remake) -> Iterator[Finding]:
    counts = passport.get("text", {}).get("documents")
    if not counts:
        return
    share, estimated = counts["repeated_share"], "about " if counts["compared"] < 1 else ""
    seen = f"{estimated}{percent(share)} of the documents ({counts['repeated']:,}) are equal to an earlier one"
    if share <= MOST_REPEATED_DOCUMENTS:
        yield Finding(OK, "Repeated documents", seen)
        return
    yield Finding(
        WARNING, "Repeated documents", seen, "an input named twice under other names, or a crawl with mirrors",
        "keep one of each; to take a source several times on purpose, give it a weight (--input PATH@2)",
        remake("clean"),
    )  # fmt: skip


def characters(passport: Passport, remake: Remake) -> Iterator[Finding]:
    text = passport.get("text", {})
    total, other = max(text.get("characters", 0), 1), text.get("other_characters", {})
    replaced, controls = other.get(REPLACEMENTS, 0), other.get(CONTROLS, 0)
    if replaced / total > MOST_REPLACED:
        yield Finding(
            WARNING, "Characters",
            f"{replaced:,} characters ({percent(replaced / total, 3)}) are U+FFFD, which stands for lost ones",
            "text that was decoded with the wrong encoding, here (--errors replace) or before",
            "convert the files from their true encoding",
            "iconv -f OLD_ENCODING -t UTF-8 FILE",
        )  # fmt: skip
    if controls / total > MOST_CONTROLS:
        yield Finding(
            WARNING, "Characters", f"{percent(controls / total)} of the characters are control characters or unassigned",
            "binary files among the input, or a private encoding", "leave such files out of --input",
        )  # fmt: skip
    if replaced / total <= MOST_REPLACED and controls / total <= MOST_CONTROLS and text:
        yield Finding(OK, "Characters", f"{total:,} characters, {replaced:,} of them U+FFFD, {controls:,} controls")


def dropped(passport: Passport, remake: Remake) -> Iterator[Finding]:
    dropped, replaced = passport.get("dropped_sentences", 0), passport.get("reading", {}).get("replaced_bytes", 0)
    sentences = dropped + sum(split["sentences"] for split in passport["splits"].values())
    seen = f"{dropped:,} of {sentences:,} sentences gave no token and were dropped"
    if dropped / max(sentences, 1) > MOST_DROPPED:
        yield Finding(
            WARNING, "Dropped text", seen, "lines of control characters, or a script the tokenizer removes",
            "look at the input, or choose another vocabulary",
        )  # fmt: skip
    else:
        yield Finding(OK, "Dropped text", seen)
    if replaced:
        yield Finding(NOTE, "Replaced bytes", f"{replaced:,} bytes were not UTF-8 and were replaced (--errors replace)")


# ---- documents and splits --------------------------------------------------------------------------------------------


def documents(passport: Passport, remake: Remake) -> Iterator[Finding]:
    train = passport["splits"]["train"]
    documents = train["documents"]
    if documents >= FEWEST_DOCUMENTS or "nsp" not in passport["kinds"]:
        yield Finding(OK, "Documents", f"{documents:,} training documents of {train['tokens'] / documents:,.0f} tokens")
        return
    yield Finding(
        WARNING, "Documents",
        f"the training text is {documents} document{'s' if documents > 1 else ''}, so the sentences of NotNext pairs"
        " come from the same few places",
        "a file without blank lines between its documents",
        "separate documents by blank lines",
        remake("documents"),
    )  # fmt: skip


def held_out(passport: Passport, remake: Remake) -> Iterator[Finding]:
    validation = passport["splits"].get("validation")
    if validation is None:
        yield Finding(
            NOTE, "Held-out text", "there is no validation split (--held-out 0)", "",
            "without one nobody sees whether a model learns the text by heart; hold some documents out",
            remake("held-out", held_out=0.05),
        )  # fmt: skip
        return
    seen = f"{validation['documents']:,} documents, {validation['tokens']:,} tokens are held out"
    few = validation["tokens"] < FEWEST_HELD_OUT_TOKENS
    yield Finding(
        NOTE if few else OK, "Held-out text", seen, "",
        "scores on so little text vary by more than 1 %" if few else "",
    )  # fmt: skip


# ---- use -------------------------------------------------------------------------------------------------------------


def contamination(passport: Passport, remake: Remake) -> Iterator[Finding]:
    for file in passport.get("contamination", []):
        share = file["texts_with_found"] / max(file["texts"], 1)
        seen = (
            f"{file['file']}: {file['texts_with_found']:,} of {file['texts']:,} texts of {file['ngram_words']} words or"
            f" more ({percent(share)}) share {file['ngram_words']} words in a row with the training text"
        )
        if not file["found_ngrams"]:
            yield Finding(OK, "Contamination", seen)
            continue
        example = f"; {quoted(file['examples'][0])}" if file["examples"] else ""
        yield Finding(
            WARNING if share > MOST_CONTAMINATED_TEXTS else NOTE, "Contamination", seen + example,
            "the evaluation set was made of the same source, such as SQuAD of Wikipedia",
            "say so beside its scores, or leave those documents out of the training text",
        )  # fmt: skip


def licence(passport: Passport, remake: Remake) -> Iterator[Finding]:
    licence = passport.get("licence")
    if licence:
        yield Finding(OK, "Licence", f"{licence}")
        return
    yield Finding(
        NOTE, "Licence", "the licence of the text is not recorded", "", "name it, for those who get the model",
        remake("licensed") + " --licence NAME",
    )  # fmt: skip
