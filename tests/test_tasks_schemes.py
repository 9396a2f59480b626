# SPDX-License-Identifier: Apache-2.0
"""Schemes of tags: entities in and out, sequences that break them, labels."""

import itertools
import random

import numpy as np
import pytest

from bert_jax.base.errors import UserError
from bert_jax.tasks import schemes
from bert_jax.tasks.examples import Sentence
from bert_jax.tasks.schemes import SCHEMES, Span


def sentence(tags: str, place: str = "dev.txt, line 7") -> Sentence:
    own = tuple(tags.split())
    return Sentence("0", tuple(f"w{number}" for number in range(len(own))), own, 0, place)


def random_spans(rng: random.Random) -> tuple[list[Span], int]:
    """Entities of one to four words, many of them neighbours of the same type."""
    spans, place = [], 0
    for _ in range(rng.randrange(6)):
        place += rng.choice([0, 0, 1, 2])
        end = place + rng.randint(1, 4)
        spans.append(Span(place, end, rng.choice(["PER", "LOC", "work-of-art", ""])))
        place = end
    return spans, place + rng.randrange(2)


# The same entities in all schemes, written down by hand from their definitions.
SAME = {
    "IOB1": "I-PER I-PER O I-LOC B-LOC I-LOC I-PER O I-ORG I-ORG I-ORG",
    "IOB2": "B-PER I-PER O B-LOC B-LOC I-LOC B-PER O B-ORG I-ORG I-ORG",
    "IOBES": "B-PER E-PER O S-LOC B-LOC E-LOC S-PER O B-ORG I-ORG E-ORG",
    "BMES": "B-PER E-PER O S-LOC B-LOC E-LOC S-PER O B-ORG M-ORG E-ORG",
    "BILOU": "B-PER L-PER O U-LOC B-LOC L-LOC U-PER O B-ORG I-ORG L-ORG",
}


@pytest.mark.parametrize(("source", "target"), list(itertools.product(SAME, SAME)))
def test_the_same_entities_in_every_scheme(source, target):
    assert schemes.in_scheme(SAME[source].split(), target) == SAME[target].split()
    assert not schemes.faults(SAME[source].split(), source)


@pytest.mark.parametrize(("source", "target"), list(itertools.product(SCHEMES, SCHEMES)))
def test_round_trips_over_random_entities_are_exact(source, target):
    rng = random.Random(0)
    for _ in range(200):
        spans, length = random_spans(rng)
        tags = schemes.tags_of(spans, length, source)
        assert schemes.spans_of(tags) == spans
        assert not schemes.faults(tags, source)
        there = schemes.in_scheme(tags, target)
        assert not schemes.faults(there, target)
        assert schemes.in_scheme(there, source) == tags


# What seqeval 1.2.2 reads (get_entities, which extends conlleval's rules to E and S); its ends are inclusive.
READ_BY_SEQEVAL = [
    ("I-PER I-PER", [(0, 1, "PER")]),
    ("O I-PER B-PER I-LOC", [(1, 1, "PER"), (2, 2, "PER"), (3, 3, "LOC")]),
    ("B-PER E-PER E-PER I-PER", [(0, 1, "PER"), (2, 2, "PER"), (3, 3, "PER")]),
    ("S-PER I-PER E-PER S-PER", [(0, 0, "PER"), (1, 2, "PER"), (3, 3, "PER")]),
    ("B-PER B-PER O E-LOC", [(0, 0, "PER"), (1, 1, "PER"), (3, 3, "LOC")]),
    ("B-PER S-PER B-PER E-LOC I-LOC", [(0, 0, "PER"), (1, 1, "PER"), (2, 2, "PER"), (3, 3, "LOC"), (4, 4, "LOC")]),
]


@pytest.mark.parametrize(("tags", "expected"), READ_BY_SEQEVAL)
def test_broken_sequences_are_read_as_conlleval_and_seqeval_do(tags, expected):
    assert [(begin, end - 1, kind) for begin, end, kind in schemes.spans_of(tags.split())] == expected


@pytest.mark.parametrize(
    ("scheme", "tags", "expected"),
    [
        ("IOB2", "O I-PER", [(1, schemes.NO_BEGINNING)]),
        ("IOB2", "B-PER I-LOC I-LOC", [(1, schemes.OTHER_TYPE)]),
        ("IOB2", "B-PER S-PER", [(1, schemes.OTHER_LETTER)]),
        ("IOB2", "B-PER B-PER", []),
        ("IOB1", "O B-PER I-PER", [(1, schemes.NEEDLESS_B)]),
        ("IOB1", "I-PER B-PER B-LOC", [(2, schemes.NEEDLESS_B)]),
        ("IOB1", "I-PER I-LOC", []),
        ("IOBES", "B-PER O", [(0, schemes.NO_END)]),
        ("IOBES", "B-PER I-PER", [(1, schemes.NO_END)]),
        ("IOBES", "B-PER S-PER", [(0, schemes.NO_END)]),
        ("IOBES", "E-PER I-PER", [(0, schemes.NO_BEGINNING), (1, schemes.NO_BEGINNING), (1, schemes.NO_END)]),
        ("IOBES", "B-PER E-LOC", [(1, schemes.OTHER_TYPE)]),
        ("BILOU", "B-PER M-PER L-PER", [(1, schemes.OTHER_LETTER)]),
        ("BILOU", "B-PER I-PER U-PER", [(1, schemes.NO_END)]),
    ],
)
def test_what_breaks_a_scheme_is_named_by_word_and_kind(scheme, tags, expected):
    assert schemes.faults(tags.split(), scheme) == expected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_repaired_sequences_keep_to_the_scheme_and_to_the_entities(scheme):
    rng = random.Random(1)
    labels = schemes.label_names(["PER", "LOC"], scheme)
    broken = [sentence(" ".join(rng.choices(labels, k=rng.randint(1, 8)))) for _ in range(300)]
    repaired, counts = schemes.checked(broken, scheme, "repair")
    for before, after in zip(broken, repaired, strict=True):
        assert not schemes.faults(after.tags, scheme)
        assert schemes.spans_of(after.tags) == schemes.spans_of(before.tags)
        if not schemes.faults(before.tags, scheme):
            assert after is before
    assert counts["sentences repaired"] == sum(bool(schemes.faults(own.tags, scheme)) for own in broken) > 50
    assert sum(counts.values()) - counts["sentences repaired"] == sum(
        len(schemes.faults(own.tags, scheme)) for own in broken
    )
    assert schemes.checked(repaired, scheme, "refuse") == (repaired, {})


def test_a_broken_sequence_is_refused_with_its_place():
    with pytest.raises(
        UserError, match=r"dev.txt, line 7, word 3 \(w2\): the tag I-LOC breaks IOB2 \(.*before it: O\)"
    ):
        schemes.checked([sentence("B-PER O I-LOC")], "IOB2", "refuse")
    with pytest.raises(UserError, match=r"dev.txt, line 7, word 2 \(w1\): 'X-LOC' is no tag"):
        schemes.checked([sentence("B-PER X-LOC")], "IOB2", "repair")
    with pytest.raises(UserError, match="'mend' is not one of repair, refuse"):
        schemes.checked([], "IOB2", "mend")


@pytest.mark.parametrize("scheme", SAME)
def test_the_scheme_of_a_file_is_detected(scheme):
    assert schemes.detect_scheme([sentence("O O"), sentence(SAME[scheme])]) == scheme


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", "IOB2"),
        ("B-X O B-X", "IOB2"),
        ("I-X O I-X", "IOB1"),
        ("B-X O B-Y I-Y O B-X O I-X", "IOB2"),  # one mistake, or three
        ("S-X O", "IOBES"),
        ("B-X E-X", "IOBES"),
        ("B I O B", "IOB2"),  # entities without a type
        ("NN VBZ . #", None),
        ("n v w M", None),
    ],
)
def test_what_a_file_leaves_open_is_decided_by_the_fewest_mistakes(tags, expected):
    assert schemes.detect_scheme([sentence(tags)]) == expected


def test_tags_of_no_one_scheme_are_refused():
    with pytest.raises(UserError, match="letters B, E, L, which no one scheme has"):
        schemes.detect_scheme([sentence("B-X E-X B-X L-X")])
    with pytest.raises(UserError, match=r"line 7, word 3 \(w2\): 'PER' is no tag"):
        schemes.detect_scheme([sentence("O B-PER PER O")])


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("bio", "IOB2"), ("IOB2", "IOB2"), ("BIOES", "IOBES"), ("bilou", "BILOU"), ("BMEOS", "BMES"), ("iob1", "IOB1")],
)
def test_schemes_have_several_names(name, scheme):
    assert schemes.scheme_named(name) == scheme


def test_names_that_say_no_scheme_are_refused():
    with pytest.raises(UserError, match="'IOB': IOB is said of two: IOB1 and IOB2"):
        schemes.scheme_named("IOB")
    with pytest.raises(UserError, match="'XYZ': use one of IOB1, IOB2, IOBES, BMES, BILOU"):
        schemes.scheme_named("XYZ")


def test_labels_of_three_types_are_thirteen_and_of_four_seventeen():
    """O and {B, I, E, S} x {PER, LOC, ORG}; with MISC as in the real data, 17."""
    labels = schemes.label_names(["PER", "LOC", "ORG"], "IOBES")
    assert labels[:6] == ["O", "B-LOC", "I-LOC", "E-LOC", "S-LOC", "B-ORG"]
    assert len(labels) == 13
    assert len(schemes.label_names(["PER", "LOC", "ORG", "MISC"], "IOBES")) == 17


def test_labels_do_not_depend_on_the_order_of_the_file():
    one, other = sentence("S-PER O"), sentence("B-LOC E-LOC")
    assert schemes.labels_of([one, other], "IOBES") == schemes.labels_of([other, one], "IOBES")
    assert schemes.labels_of([one, other], "IOBES") == schemes.label_names(["LOC", "PER"], "IOBES")
    assert schemes.labels_of([sentence("NN VB"), sentence("DT NN")], None) == ["DT", "NN", "VB"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_transitions_allow_just_the_sequences_without_faults(scheme):
    labels = schemes.label_names(["X", "Y"], scheme)
    rules = schemes.transitions(labels, scheme)
    for numbers in itertools.product(range(len(labels)), repeat=3):
        pairs = itertools.pairwise(numbers)
        allowed = rules.first[numbers[0]] and rules.last[numbers[2]] and all(rules.follows[pair] for pair in pairs)
        assert allowed == (not schemes.faults([labels[number] for number in numbers], scheme))
    assert rules.follows.dtype == np.bool_


def test_labels_of_another_scheme_cannot_be_constrained():
    with pytest.raises(UserError, match="'E-X' is not of IOB2"):
        schemes.transitions(["O", "B-X", "E-X"], "IOB2")
    with pytest.raises(UserError, match="'NN' is not of IOB2"):
        schemes.transitions(["O", "NN"], "IOB2")
    with pytest.raises(UserError, match="O is not among them"):
        schemes.transitions(["B-X", "I-X"], "IOB2")


@pytest.mark.parametrize(
    ("tags", "labels"),
    [
        ("O O COMMA O O O PERIOD O QUESTION", ["COMMA", "O", "PERIOD", "QUESTION"]),  # punctuation to be restored
        ("O art-film art-film O O O O person-actor", ["O", "art-film", "person-actor"]),  # Few-NERD
        ("DT NN , VB : . `` -LRB- S", [",", "-LRB-", ".", ":", "DT", "NN", "S", "VB", "``"]),  # parts of speech
        ("O , O . O O ?", [",", ".", "?", "O"]),
    ],
)
def test_classes_are_no_scheme_also_beside_o(tags, labels):
    """Most words are O: it alone was taken for a sign of a scheme, and the classes for mistakes."""
    sentences = [sentence(tags)]
    assert schemes.detect_scheme(sentences) is None
    assert schemes.labels_of(sentences, None) == labels


@pytest.mark.parametrize("tags", ["O B-PER I-PER LOC", "B-PER O PER O", "O O O B-X I-X O O no-tag"])
def test_a_tag_without_the_form_of_the_others_is_a_mistake(tags):
    with pytest.raises(UserError, match=r"is no tag: those of a scheme are O, or B, I, E, S, M, L, U with a type"):
        schemes.detect_scheme([sentence(tags)])


@pytest.mark.parametrize(
    ("names", "scheme", "labels"),
    [
        ("LOC PER", "IOB2", "O B-LOC I-LOC B-PER I-PER"),
        ("O B-PER I-PER B-GPE", "IOB2", "O B-GPE I-GPE B-PER I-PER"),
        ("O X", "IOBES", "O B-X I-X E-X S-X"),
        ("S B", "IOB2", "O B-B I-B B-S I-S"),  # types that look like letters of a scheme
        ("NOUN VERB X", None, "NOUN VERB X"),
    ],
)
def test_labels_are_named_as_tags_or_as_types(names, scheme, labels):
    assert schemes.named_labels(names.split(), scheme) == labels.split()
