# SPDX-License-Identifier: Apache-2.0
"""Checks of the text, by the passport: vocabulary, unknown tokens, repetitions, documents, evaluation data in it."""

from collections.abc import Iterator
from functools import partial

from bert_jax.base.marks import MarkLoss
from bert_jax.checks import rules
from bert_jax.checks.findings import Finding, NOTE, OK, Passport, percent, quoted, Remake, WARNING
from bert_jax.text.mark_counts import describe_loss, scripts_of_marks
from bert_jax.text.scripts import CONTROLS, REPLACEMENTS


def vocab_command(size: int, options: str = "") -> str:
    """The command that makes a vocabulary of the text."""
    return f"bert-jax vocab --input TEXT... --output VOCAB --size {size}{options}"


def vocabulary(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether the vocabulary has room for words."""
    size, text = passport["vocab_size"], passport.get("text", {})
    told = f"; {text['characters'] / text['tokens']:.1f} characters a token" if text.get("tokens") else ""
    if unreachable := passport.get("unreachable_entries"):
        told += f"; {unreachable:,} of them can never be met: their lines are empty or repeated further down"
    few = f"the vocabulary has only {size} entries, so most words fall apart into letters{told}"
    yield rules.VOCABULARY.judge(size, few, fine=f"{size:,} entries{told}", command=vocab_command(30_522))


def unknown_tokens(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether the vocabulary knows the text."""
    for name, split in passport["splits"].items():
        share = split["unknown_tokens"] / max(split["tokens"], 1)
        words = percent(share, 3 if rules.UNKNOWN.passed(share)[0] == OK else 1)
        command = vocab_command(passport["vocab_size"])
        yield rules.UNKNOWN.judge(share, f"{name}: {words} of the tokens are [UNK]", command=command)


def marks(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether stripping of accents makes other words of the text's words."""
    if not passport.get("strip_accents"):
        if "strip_accents" in passport:
            yield rules.ACCENTS.fine("accents and other marks are kept")
        return
    text = passport.get("text", {})
    measured = text.get("marks")
    loss, scripts = MarkLoss(**measured) if measured else None, scripts_of_marks(text.get("scripts", {}))
    told, too_much = describe_loss(loss, scripts)
    seen = f"accents are stripped: {told or 'what that takes was not measured'}"
    command = vocab_command(passport["vocab_size"], " --keep-accents")
    yield rules.ACCENTS.found(WARNING, seen, command=command) if too_much else rules.ACCENTS.fine(seen)


def commonest_token(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether one token fills the text."""
    train = passport["splits"]["train"]
    share, entropy = train["commonest_token_share"], train["unigram_entropy"]
    seen = f"the commonest token (id {train['commonest_token']}) is {percent(share)} of the training text"
    yield rules.COMMONEST_TOKEN.judge(share, f"{seen}; unigram entropy {entropy:.3f} nats")


def repeated_sentences(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether the text repeats itself line by line."""
    text, rule = passport.get("text"), rules.REPEATED_SENTENCES
    if not text:
        yield Finding(NOTE, rule.subject, "the passport holds no statistics of the text", "", "prepare it again")
        return
    counts, lines = text["sentences"], text["repeated_lines"]
    share, estimated = counts["repeated_share"], "about " if counts["compared"] < 1 else ""
    worst = f"; most often {quoted(lines[0]['text'])}, {lines[0]['times']:,} times" if lines else ""
    seen = f"{estimated}{percent(share)} of the sentences ({counts['repeated']:,}) repeat an earlier one{worst}"
    worse, command = ", and a model learns such text by heart", partial(remake, "clean")
    # A few sentences repeat by chance in a text of a few: one line counts where it stands there many times.
    if rule.passed(share)[0] == OK and lines and lines[0]["times"] >= rules.FEWEST_TIMES:
        rule, share = rules.ONE_LINE, lines[0]["times"] / max(counts["count"], 1)
    yield rule.judge(share, seen, worse, command=command)


def repeated_documents(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether the text repeats whole documents."""
    counts = passport.get("text", {}).get("documents")
    if counts:
        share, estimated = counts["repeated_share"], "about " if counts["compared"] < 1 else ""
        seen = f"{estimated}{percent(share)} of the documents ({counts['repeated']:,}) are equal to an earlier one"
        yield rules.REPEATED_DOCUMENTS.judge(share, seen, command=partial(remake, "clean"))


def near_duplicates(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether the text repeats documents with small changes."""
    looked_for, rule = passport.get("near_duplicate_documents"), rules.NEAR_DUPLICATES
    if not looked_for:
        return
    found, compared = (sum(source[name] for source in looked_for["sources"]) for name in ("found", "compared"))
    share = found / max(compared, 1)
    seen = f"{percent(share)} of the documents ({found:,}) are nearly the same as an earlier one"
    if looked_for["dropped"]:
        yield rule.fine(f"{seen}; they were dropped", share)
    else:
        yield rule.judge(share, seen, command=partial(remake, "unlike", near_duplicates="drop"))


def characters(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether characters were lost, or are no text."""
    text = passport.get("text", {})
    total, other = max(text.get("characters", 0), 1), text.get("other_characters", {})
    replaced, controls = other.get(REPLACEMENTS, 0), other.get(CONTROLS, 0)
    lost = f"{replaced:,} characters ({percent(replaced / total, 3)}) are U+FFFD, which stands for lost ones"
    odd = f"{percent(controls / total)} of the characters are control characters or unassigned"
    judged = [
        rules.REPLACED.judge(replaced / total, lost, command="iconv -f OLD_ENCODING -t UTF-8 FILE"),
        rules.CONTROLS.judge(controls / total, odd),
    ]
    bad = [finding for finding in judged if finding.severity == WARNING]
    yield from bad
    if not bad and text:
        yield rules.REPLACED.fine(f"{total:,} characters, {replaced:,} of them U+FFFD, {controls:,} controls")


def dropped(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether much of the input gave no token or no character."""
    dropped, replaced = passport.get("dropped_sentences", 0), passport.get("reading", {}).get("replaced_bytes", 0)
    # Each read once, whatever the weights of the sources: as those that were dropped are counted.
    read = passport.get("text", {}).get("sentences", {}).get("count")
    sentences = dropped + (sum(split["sentences"] for split in passport["splits"].values()) if read is None else read)
    seen = f"{dropped:,} of {sentences:,} sentences gave no token and were dropped"
    yield rules.DROPPED.judge(dropped / max(sentences, 1), seen)
    if replaced:
        yield Finding(NOTE, "Replaced bytes", f"{replaced:,} bytes were not UTF-8 and were replaced (--errors replace)")


# ---- documents and splits --------------------------------------------------------------------------------------------


def documents(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether there are documents enough to draw the second sentence of a pair from."""
    train = passport["splits"]["train"]
    # A source of weight 10 has no more documents for it.
    documents = min(train["documents"], passport.get("text", {}).get("documents", {}).get("count", train["documents"]))
    fine = f"{documents:,} training documents of {train['tokens'] / documents:,.0f} tokens"
    if "nsp" not in passport["kinds"]:
        yield rules.DOCUMENTS.fine(fine, documents)
        return
    few = f"the training text is {documents} document{'s' if documents > 1 else ''}, so the sentences of NotNext pairs"
    worse, command = " come from the same few places", partial(remake, "documents")
    yield rules.DOCUMENTS.judge(documents, few, worse, fine=fine, command=command)


def held_out(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether there is held-out text to score on."""
    validation, rule = passport["splits"].get("validation"), rules.HELD_OUT
    if validation is None:
        remedy = "without one nobody sees whether a model learns the text by heart; hold some documents out"
        seen, command = "there is no validation split (--held-out 0)", remake("held-out", held_out=0.05)
        yield Finding(NOTE, rule.subject, seen, "", remedy, command)
        return
    tokens = validation["tokens"]
    yield rule.judge(tokens, f"{validation['documents']:,} documents, {tokens:,} tokens are held out")


# ---- use -------------------------------------------------------------------------------------------------------------


def contamination(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether evaluation data stands in the training text."""
    for file in passport.get("contamination", []):
        share, rule = file["texts_with_found"] / max(file["texts"], 1), rules.CONTAMINATION
        seen = (
            f"{file['file']}: {file['texts_with_found']:,} of {file['texts']:,} texts of {file['ngram_words']} words or"
            f" more ({percent(share)}) share {file['ngram_words']} words in a row with the training text"
        )
        own = [f"{source['source']} {source['texts_with_found']:,}" for source in file.get("sources", [])]
        seen += f" ({', '.join(own)})" if len(own) > 1 else ""
        example = f"; {quoted(file['examples'][0])}" if file["examples"] else ""
        if not file["found_ngrams"]:
            yield rule.fine(seen, share)
        elif (found := rule.judge(share, seen + example)).severity == WARNING:
            yield found
        else:
            yield rule.found(NOTE, seen + example, value=share, threshold=rule.warning)


def licence(passport: Passport, remake: Remake) -> Iterator[Finding]:
    """Whether the licence of the text is recorded."""
    if name := passport.get("licence"):
        yield rules.LICENCE.fine(f"{name}")
        return
    command = f"{remake('licensed')} --licence NAME"
    yield rules.LICENCE.found(NOTE, "the licence of the text is not recorded", command=command)
