# SPDX-License-Identifier: Apache-2.0
"""Scores -> answers. The golden answers were made by google-research/bert's run_squad.py."""

import itertools
import json
import math

import numpy as np
import pytest
from question_samples import google, uncased

from bert_jax.base.errors import UserError
from bert_jax.tasks import answers
from bert_jax.tasks.answers import Answered, AnswerSettings, Candidate, find_answers, tuned_threshold
from bert_jax.tasks.examples import Answer, Question
from bert_jax.tasks.question_rows import question_rows, QuestionRows, QuestionSettings, Window
from bert_jax.tasks.questions import read_questions
from bert_jax.tasks.rows import Row
from bert_jax.tasks.scoring.squad import scores_v2

CONTEXT = "cat sat on mat the a b c cat sat on mat"  # of 12 tokens, with SHORT the windows [0, 8), [3, 11), [6, 12)
SHORT = QuestionSettings(max_length=12, doc_stride=3, max_query_length=4)


def asked(context: str = CONTEXT, name: str = "q", *texts: str) -> Question:
    return Question(name, "the", context, tuple(Answer(text, context.index(text)) for text in texts), None, "dev.json")


def rows_of(*questions: Question) -> QuestionRows:
    return question_rows(questions, uncased(), SHORT, labelled=False)


def flat_scores(made: QuestionRows) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Low scores, which tests raise where they want an answer."""
    return [np.full(len(row.ids), -9.0) for row in made.rows], [np.full(len(row.ids), -9.0) for row in made.rows]


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_answers_are_those_of_google_research_bert(version, tmp_path):
    """Texts, the list of candidates with its probabilities, and the odds of no answer."""
    made_by_google = google()
    (tmp_path / "dev.json").write_text(json.dumps(made_by_google["file"]), encoding="utf-8")
    questions = read_questions(tmp_path / "dev.json")
    settings = made_by_google["settings"]
    lengths = {name: settings[name] for name in ("max_length", "doc_stride", "max_query_length")}
    made = question_rows(questions, uncased(), QuestionSettings(**lengths), labelled=False)
    start, end = ([np.array(row) for row in made_by_google[name]] for name in ("start", "end"))
    limits = {name: settings[name] for name in ("n_best_size", "max_answer_length")}
    found = find_answers(questions, made, start, end, AnswerSettings(**limits, may_be_impossible=version == "2.0"))

    expected = made_by_google[version]
    answers.write_predictions(tmp_path / "predictions.json", found)
    answers.write_candidates(tmp_path / "nbest.json", found)
    assert json.loads((tmp_path / "predictions.json").read_text()) == expected["predictions"]
    nbest = json.loads((tmp_path / "nbest.json").read_text())
    assert nbest.keys() == expected["nbest"].keys()
    for name, candidates in nbest.items():
        assert [candidate.pop("probability") for candidate in candidates] == pytest.approx(
            [candidate.pop("probability") for candidate in expected["nbest"][name]], rel=1e-12
        )
        assert candidates == expected["nbest"][name]
    if version == "2.0":
        answers.write_null_differences(tmp_path / "null_odds.json", found)
        assert json.loads((tmp_path / "null_odds.json").read_text()) == pytest.approx(expected["null_odds"], rel=1e-12)


def test_the_fixture_of_the_lecture():
    """Seven words; the likeliest begin is the sixth, the likeliest end the seventh: 37 摄氏度."""
    words = ["今天", "北京", "的", "气温", "是", "37", "摄氏度"]
    context = " ".join(words)
    begins = np.array([context.index(word) for word in words])
    spans = np.stack([begins, begins + [len(word) for word in words]], axis=1).astype(np.int32)
    made = QuestionRows([Row([0] * 8, [0] * 8, 0)], [Window(1, spans, 0, 7)], {}, [])
    start = np.log([1e-9, 0.01, 0.01, 0.01, 0.04, 0.10, 0.80, 0.03])  # the first is [CLS]
    end = np.log([1e-9, 0.01, 0.01, 0.01, 0.03, 0.04, 0.10, 0.80])
    (found,) = find_answers([asked(context)], made, [start], [end], AnswerSettings(normalisation="question"))
    best = found.candidates[0]
    assert found.text == best.text == "37 摄氏度"
    assert (best.begin, best.end) == (int(begins[5]), len(context))
    assert best.probability == pytest.approx(0.80 * 0.80, rel=1e-6)


# ---- which spans can be answers ----------------------------------------------------------------------------


def test_an_answer_is_taken_from_the_window_that_shows_its_begin_best():
    """The token 6 is in all three windows and best in the second: high scores in the others do not count."""
    question = asked()
    made = rows_of(question)
    start, end = flat_scores(made)
    for number, begin in enumerate((0, 3, 6)):
        start[number][3 + 6 - begin] = 9.0 if number != 1 else 1.0
        end[number][3 + 7 - begin] = 9.0 if number != 1 else 1.0
    (found,) = find_answers([question], made, start, end)
    assert (found.text, found.candidates[0].start_score) == ("b c", 1.0)


@pytest.mark.parametrize(("limit", "text"), [(3, "on mat the"), (2, "on mat")])
def test_an_answer_is_no_longer_than_the_limit(limit, text):
    question = asked()
    made = rows_of(question)
    start, end = flat_scores(made)
    start[0][3 + 2] = 5.0
    end[0][3 + 4] = 5.0
    end[0][3 + 3] = 4.0
    (found,) = find_answers([question], made, start, end, AnswerSettings(max_answer_length=limit))
    assert found.text == text


def test_question_padding_and_reversed_spans_are_no_answers():
    question = asked("cat sat")
    made = rows_of(question)  # [CLS] the [SEP] cat sat [SEP] and, here, two of padding
    start = np.array([9.0, 9.0, 9.0, 1.0, 2.0, 9.0, 99.0, 99.0])
    end = np.array([9.0, 9.0, 9.0, 2.0, 1.0, 9.0, 99.0, 99.0])
    (found,) = find_answers([question], made, [start], [end])
    assert [(one.text, one.start_score + one.end_score) for one in found.candidates] == [
        ("sat", 3.0),  # of equals, that with the better begin
        ("cat", 3.0),
        ("cat sat", 2.0),
    ]


def test_a_text_is_listed_once():
    """cat stands at both ends of the context."""
    question = asked()
    made = rows_of(question)
    start, end = flat_scores(made)
    start[0][3] = end[0][3] = 3.0
    start[1][3 + 8 - 3] = end[1][3 + 8 - 3] = 4.0
    (found,) = find_answers([question], made, start, end)
    first, *others = found.candidates
    assert (first.text, first.begin) == ("cat", CONTEXT.rindex("cat"))
    assert "cat" not in [other.text for other in others]


def test_an_answer_is_the_text_as_it_was_with_the_marks_of_its_last_character():
    question = asked("on  CAFE\u0301\u0301,\tthe mat")
    made = rows_of(question)
    start, end = flat_scores(made)
    start[0][3] = end[0][4] = 3.0
    (found,) = find_answers([question], made, start, end)
    assert found.text == "on  CAFE\u0301\u0301"
    assert (found.candidates[0].begin, found.candidates[0].end) == (0, 10)


@pytest.mark.parametrize("impossible", [False, True])
def test_a_context_without_tokens_has_no_answer(impossible):
    """Where google-research/bert stops with an error."""
    empty, question = asked(" ", "empty"), asked("cat", "q")
    made = rows_of(empty, question)
    start, end = flat_scores(made)
    found = find_answers([empty, question], made, start, end, AnswerSettings(may_be_impossible=impossible))
    assert [one.decided(null_threshold=99.0) for one in found] == ["", "cat"]
    assert found[0].candidates == [Candidate("", 0, 0, -9.0, -9.0, 1.0)]
    assert found[0].null_difference == (0.0 if impossible else None)


def test_scores_that_do_not_belong_to_the_rows_are_refused():
    question = asked("cat sat")
    made = rows_of(question)
    (start,), (end,) = flat_scores(made)
    with pytest.raises(ValueError, match="1 rows, 2 rows of starts"):
        find_answers([question], made, [start, start], [end])
    with pytest.raises(ValueError, match="row 0 has 6 tokens and 5 scores"):
        find_answers([question], made, [start[:5]], [end])
    with pytest.raises(ValueError, match="not numbers"):
        find_answers([question], made, [start * np.nan], [end])
    with pytest.raises(ValueError, match="a question has no row"):
        find_answers([question, question], made, [start], [end])
    assert find_answers([], rows_of(), [], []) == []


@pytest.mark.parametrize("settings", [{"normalisation": "softmax"}, {"n_best_size": 0}, {"max_answer_length": 0}])
def test_settings_that_are_none_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        AnswerSettings(**settings)


# ---- probabilities -----------------------------------------------------------------------------------------


def random_scores(made: QuestionRows, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=len(row.ids)) for row in made.rows], [rng.normal(size=len(row.ids)) for row in made.rows]


@pytest.mark.parametrize("over", ["window", "question"])
def test_probabilities_over_the_tokens_of_a_window_or_of_all_windows(over):
    """Restated: a softmax of the begins times one of the ends."""
    questions = [asked("cat sat", "short"), asked()]
    made = rows_of(*questions)
    start, end = random_scores(made)
    limits = AnswerSettings(n_best_size=12, normalisation=over)
    found = find_answers(questions, made, start, end, limits)[1].candidates
    expected: dict[str, float] = {}
    for row, window in enumerate(made.windows[1:], start=1):
        share = [row] if over == "window" else [1, 2, 3]
        total = [np.exp(np.concatenate([scores[other] for other in share])).sum() for scores in (start, end)]
        for first, last in itertools.combinations_with_replacement(range(len(window.spans)), 2):
            if window.best_begin <= first < window.best_end:
                text = CONTEXT[window.spans[first, 0] : window.spans[last, 1]]
                probability = np.exp(start[row][3 + first]) * np.exp(end[row][3 + last]) / total[0] / total[1]
                expected[text] = max(expected.get(text, 0), probability)
    best = sorted(expected.items(), key=lambda pair: -pair[1])[:12]
    assert [one.text for one in found] == [text for text, _ in best]
    assert [one.probability for one in found] == pytest.approx([probability for _, probability in best])


def test_over_all_windows_the_order_is_that_of_the_plain_scores():
    made = rows_of(asked())
    start, end = random_scores(made)
    plain, question = (
        find_answers([asked()], made, start, end, AnswerSettings(normalisation=how))[0].candidates
        for how in ("nbest", "question")
    )
    assert [one.text for one in plain] == [one.text for one in question]
    assert sum(one.probability for one in plain) == pytest.approx(1)
    ratios = [one.probability / other.probability for one, other in zip(plain, question, strict=True)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_a_window_that_scores_everything_high_wins_only_where_windows_are_not_normalised():
    question = asked()
    made = rows_of(question)
    start, end = flat_scores(made)
    start[0][3] = end[0][3] = 0.0  # sure of the first token
    start[2] += 20.0
    end[2] += 20.0
    texts = [
        find_answers([question], made, start, end, AnswerSettings(normalisation=how))[0].text
        for how in ("nbest", "question", "window")
    ]
    assert texts[0] == texts[1] != "cat"
    assert texts[2] == "cat"


# ---- no answer ---------------------------------------------------------------------------------------------


def test_no_answer_is_the_least_sure_window_and_keeps_its_place_in_the_list():
    question = asked()
    made = rows_of(question)
    start, end = flat_scores(made)
    for row, score in enumerate((3.0, 1.0, 2.0)):
        start[row][0] = end[row][0] = score
    start[0][3] = end[0][3] = 2.0
    settings = AnswerSettings(n_best_size=2, may_be_impossible=True)
    (found,) = find_answers([question], made, start, end, settings)
    assert found.null_difference == 2.0 - 4.0
    assert [one.text for one in found.candidates][:2] == ["cat", ""]
    assert (found.decided(), found.decided(-2.5)) == ("cat", "")

    start[1][0] = end[1][0] = 2.5
    start[2][0] = end[2][0] = 3.0
    (found,) = find_answers([question], made, start, end, settings)
    assert found.null_difference == 5.0 - 4.0
    assert (found.text, [one.text for one in found.candidates]) == ("cat", ["", "cat"])
    assert (found.decided(), found.decided(1.0)) == ("", "cat")


def test_a_piece_without_characters_is_no_answer():
    """SentencePiece's lone mark of a blank: its empty text took the place of "no answer", and its score the best one's."""
    question = asked("cat sat")
    made = rows_of(question)
    (window,) = made.windows
    window.spans[0] = 0
    start, end = flat_scores(made)
    start[0][window.first] = end[0][window.first] = 6.0
    start[0][window.first + 1] = end[0][window.first + 1] = 2.5
    start[0][0] = end[0][0] = 4.0
    (found,) = find_answers([question], made, start, end, AnswerSettings(may_be_impossible=True))
    assert found.null_difference == 8.0 - 8.5  # of "cat sat", from the first piece on
    start[0][window.first] = -9.0
    (found,) = find_answers([question], made, start, end, AnswerSettings(may_be_impossible=True))
    assert [one.text for one in found.candidates][:2] == ["", "sat"]
    assert (found.null_difference, found.decided()) == (8.0 - 5.0, "")


def made_up_answers(seed: int, share: float) -> tuple[list[Question], list[Answered]]:
    """Forty questions; the share of them that has an answer, and differences that tell a little about which."""
    rng = np.random.default_rng(seed)
    questions, found = [], []
    for number in range(40):
        has_answer = bool(rng.random() < share)
        questions.append(asked("cat sat on the mat", f"q{number}", *(["cat sat"] if has_answer else [])))
        text = str(rng.choice(["cat sat", "cat", "mat"]))
        found.append(Answered(f"q{number}", text, float(rng.normal() - 1.5 * has_answer), []))
    return questions, found


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_best_there_is(seed):
    """Tried one by one."""
    questions, found = made_up_answers(seed, 0.6)
    wanted = {question.name: [answer.text for answer in question.answers] for question in questions}

    def f1(threshold: float) -> float:
        return scores_v2(wanted, {one.name: one.decided(threshold) for one in found})["f1"]

    tried = [f1(one.null_difference) for one in found] + [f1(-math.inf)]
    assert f1(tuned_threshold(questions, found)) == pytest.approx(max(tried))


def test_where_it_is_best_never_to_answer_the_threshold_says_so():
    """The official program's 0 would let answers with a negative difference stand."""
    questions, found = made_up_answers(0, 0.0)
    assert {one.decided(tuned_threshold(questions, found)) for one in found} == {""}
    assert {one.decided(0.0) for one in found} != {""}


def test_differences_are_probabilities_for_the_official_scorer(tmp_path):
    """Its default threshold of 1 takes no answer away, and the order of the questions is that of the differences."""
    _, found = made_up_answers(1, 0.5)
    found.append(Answered("sure", "", 800.0, []))
    found.append(Answered("never", "cat", -800.0, []))
    answers.write_null_probabilities(tmp_path / "na_probs.json", found)
    written = json.loads((tmp_path / "na_probs.json").read_text())
    assert list(written) == [one.name for one in found]
    assert written["q0"] == pytest.approx(1 / (1 + math.exp(-found[0].null_difference)))
    assert (written["sure"], written["never"]) == (1.0, 0.0)
    assert sorted(written, key=written.get) == [one.name for one in sorted(found, key=lambda one: one.null_difference)]


def test_differences_need_answers_that_were_found_with_no_answer_in_mind():
    with pytest.raises(ValueError, match="may_be_impossible"):
        answers.null_differences([Answered("q", "cat", None, [])])
