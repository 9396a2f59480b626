# SPDX-License-Identifier: Apache-2.0
"""SQuAD's and CMRC's scores. The expected figures were printed by their official programs."""

import gzip
import json

import pytest
from conftest import real_data

from bert_jax.base.errors import UserError
from bert_jax.tasks.scoring import cmrc, squad

# Articles and punctuation, an answer that is an article only, words in other order, accents, a no-break space, nothing.
ANSWERS = {
    "q1": ["The Eiffel Tower", "Eiffel tower in Paris"],
    "q2": ["the"],
    "q3": ["37.5 %", "37.5 per cent"],
    "q4": [],
    "q5": ["an apple a day, keeps"],
    "q6": [],
    "q7": ["naïve café"],
    "q8": ["x"],
    "q9": [],
    "q10": ["one two three four five six seven"],
    "q11": ["the", "x y"],
}
PREDICTIONS = {
    "q1": "eiffel tower!",
    "q2": "a the",
    "q3": "about 37.5 per cent of all",
    "q4": "",
    "q5": "apple day",
    "q6": "something",
    "q7": "Naïve\u00a0Café's",
    "q8": "",
    "q9": "an",
    "q10": "three four nine",
    "q11": "a",
}
NA_PROBS = {  # equal ones count in this order
    "q2": 0.3,
    "q10": 0.7,
    "q8": 0.05,
    "q4": 0.5,
    "q1": 0.3,
    "q11": 0.2,
    "q9": 0.2,
    "q3": 0.9,
    "q5": 0.3,
    "q7": 0.3,
    "q6": 0.5,
}
ANSWERABLE = {name: texts for name, texts in ANSWERS.items() if texts}

WITHOUT_THRESHOLD = {
    "exact": 36.36363636363637,
    "f1": 57.87878787878788,
    "total": 11,
    "HasAns_exact": 25.0,
    "HasAns_f1": 54.58333333333334,
    "HasAns_total": 8,
    "NoAns_exact": 66.66666666666667,
    "NoAns_f1": 66.66666666666667,
    "NoAns_total": 3,
}
WITH_THRESHOLD = {
    "exact": 45.45454545454545,
    "f1": 57.27272727272727,
    "total": 11,
    "HasAns_exact": 25.0,
    "HasAns_f1": 41.25,
    "HasAns_total": 8,
    "NoAns_exact": 100.0,
    "NoAns_f1": 100.0,
    "NoAns_total": 3,
}
BEST = {
    "best_exact": 36.36363636363637,
    "best_exact_thresh": 0.3,
    "best_f1": 48.787878787878796,
    "best_f1_thresh": 0.9,
}


def layout(answers: dict[str, list[str]]) -> dict:
    """SQuAD's layout of such answers."""
    questions = [
        {"id": name, "question": "?", "answers": [{"text": text, "answer_start": 0} for text in texts]}
        for name, texts in answers.items()
    ]
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "c", "qas": questions}]}]}


# ---- the official figures ----------------------------------------------------------------------------------


def test_version_1_1_has_the_official_figures_to_the_last_digit():
    """q10 has no prediction and is scored 0; q4, q6 and q9 are no questions of the file."""
    predictions = {name: text for name, text in PREDICTIONS.items() if name != "q10"}
    scores = squad.scores_v1(ANSWERABLE, predictions)
    assert scores == {"exact_match": 37.5, "f1": 37.083333333333336}
    assert squad.coverage(ANSWERABLE, predictions) == (["q10"], ["q4", "q6", "q9"])


def test_version_2_0_has_the_official_figures_to_the_last_digit():
    assert squad.scores_v2(ANSWERS, PREDICTIONS) == WITHOUT_THRESHOLD
    assert squad.scores_v2(ANSWERS, PREDICTIONS, NA_PROBS) == WITHOUT_THRESHOLD | BEST


def test_above_the_threshold_no_answer_is_said():
    """A probability that equals the threshold is not above it."""
    assert squad.scores_v2(ANSWERS, PREDICTIONS, NA_PROBS, 0.3) == WITH_THRESHOLD | BEST


def test_a_file_without_unanswerable_questions_has_no_figures_of_them():
    scores = squad.scores_v2(ANSWERABLE, PREDICTIONS)
    assert {key: scores[key] for key in ("exact", "f1", "total")} == {
        "exact": 25.0,
        "f1": 54.58333333333334,
        "total": 8,
    }
    assert not any(key.startswith(("NoAns", "best")) for key in scores)


def test_version_2_0_scores_missing_predictions_0_whether_there_is_an_answer_or_not():
    """The official program fails here. Without q1 and q4, q2 is right of eight with answers and q9 of three without."""
    predictions = {name: text for name, text in PREDICTIONS.items() if name not in ("q1", "q4")}
    scores = squad.scores_v2(ANSWERS, predictions, NA_PROBS)
    assert (scores["exact"], scores["total"]) == (pytest.approx(200 / 11), 11)
    assert (scores["HasAns_exact"], scores["NoAns_exact"]) == (12.5, pytest.approx(100 / 3))
    # "No answer" everywhere is right for q6 and q9; no threshold is better.
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (pytest.approx(200 / 11), 0.0)


@pytest.mark.parametrize(
    ("system", "exact", "f1"),
    [
        ("BERT_ensemble_Google_AI_Language", 86.2062, 92.1956),
        ("Logistic_Regression_Baseline_Stanford_University", 40.1419, 50.9815),
    ],
)
def test_real_predictions_have_their_published_scores(system, exact, f1):
    data, predictions = real_data("squad/dev-v1.1.json.xz"), real_data(f"squad/predictions/v1.1-{system}.json.xz")
    answers, texts = squad.read_answers(data), squad.read_predictions(predictions)
    assert len(answers) == 10_570
    scores = squad.scores_v1(answers, texts)
    assert (round(scores["exact_match"], 4), round(scores["f1"], 4)) == (exact, f1)
    assert squad.scores_v2(answers, texts)["f1"] == pytest.approx(f1, abs=5e-5)


# ---- files -------------------------------------------------------------------------------------------------


def test_packed_files_read_as_plain_ones(tmp_path):
    plain, packed = tmp_path / "a.json", tmp_path / "a.json.gz"
    plain.write_text(json.dumps(layout(ANSWERS)), encoding="utf-8")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert squad.read_answers(plain) == squad.read_answers(packed) == ANSWERS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", "", "is not JSON"),
        ("a.json.gz", "\x1f", "is not JSON"),
        ("a.json", "[]", "a.json is a list, not an object with 'data'"),
        ("a.json", '{"data": [{"paragraphs": [{"qas": 1}]}]}', r"data\[0\].paragraphs\[0\].qas is 1, not a list"),
        ("a.json", '{"data": [{"paragraphs": [{"qas": [{"id": "x"}]}]}]}', r"qas\[0\] has no 'answers'"),
        ("a.json", '{"data": []}', "has no questions"),
    ],
)
def test_files_of_another_shape_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        squad.read_answers(path)


def test_an_id_that_comes_twice_is_refused(tmp_path):
    path = tmp_path / "a.json"
    content = layout({"a": ["x"]})
    content["data"] *= 2
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=r"data\[1\].*the id a is in the file twice"):
        squad.read_answers(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["a"]', "it is a list, not an object"),
        ("{}", "is empty"),
        ('{"a": null}', "the prediction of a is null, not text"),
        ('{"a": "x", "a": "y"}', "'a' is in one object twice"),
    ],
)
def test_predictions_of_another_shape_are_refused(tmp_path, content, message):
    path = tmp_path / "p.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        squad.read_predictions(path)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "true", '"0.5"'])
def test_probabilities_that_are_no_numbers_are_refused(tmp_path, value):
    path = tmp_path / "na.json"
    path.write_text(f'{{"a": {value}}}', encoding="utf-8")
    with pytest.raises(UserError, match=r"the probability of a is .*, not a finite number"):
        squad.read_na_probs(path)


def test_files_that_do_not_belong_together_are_refused():
    with pytest.raises(UserError, match="none of the 1 predictions is for one of the 11 questions"):
        squad.coverage(ANSWERS, {"other": "x"})
    with pytest.raises(UserError, match=r"3 of 11 questions have no answers, the first is q4: version 1\.1"):
        squad.scores_v1(ANSWERS, PREDICTIONS)
    with pytest.raises(
        UserError, match="10 of 11 predictions have no probability of having no answer, the first is q2"
    ):
        squad.scores_v2(ANSWERS, PREDICTIONS, {"q1": 0.5})


# ---- Chinese -----------------------------------------------------------------------------------------------

CHINESE = {
    "a": ["光荣和ω-force", "光荣和ω-force社"],
    "b": ["《战国无双3》"],
    "c": ["1,000人 in the U.S.A.", "千人"],
    "d": ["don't stop (really)"],
    "e": ["北京"],
}
CHINESE_PREDICTIONS = {
    "a": "由光荣和ω-Force开发",
    "b": " 战国无双3。",
    "c": "约1,000人",
    "d": "They don't “stop” (ever)",
}


def test_chinese_answers_have_the_official_figures():
    """e has no prediction and is scored 0."""
    scores = cmrc.scores_cmrc(CHINESE, CHINESE_PREDICTIONS)
    assert {key: f"{scores[key]:.3f}" for key in ("AVERAGE", "F1", "EM")} == CHINESE_SCORES
    assert (scores["TOTAL"], scores["SKIP"]) == (5, 1)


CHINESE_SCORES = {"AVERAGE": "37.871", "F1": "55.742", "EM": "20.000"}


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("光荣和ω-force", "光 荣 和 ωforce"),
        ("1,000人, 3.5%。", "1,000 人 , 3.5 %"),
        ("the end.", "the end ."),
        ("a.b. c", "a.b. c"),
        ('he said "no"!', "he said `` no '' !"),
        ("don't cannot it's 'quoted'", "do n't can not it 's ' quoted '"),
        ("wait... what?", "wait ... what ?"),
        ("(x)[y]{z}", "( x ) [ y ] { z }"),
        ("约15''", "约 15 ''"),
        ("''hero''", "'' hero ''"),
        ("歌曲'don't'", "歌 曲 ' do n't '"),
        ("a's'?", "a 's ' ?"),
        ("no.'a", "no. ' a"),
        ("d'ye", "d 'ye"),
        ("……", "……"),
        ("～", ""),
    ],
)
def test_text_is_cut_as_nltk_cuts_it(text, segments):
    assert cmrc.segments_of(text) == segments.split()


def test_the_longest_common_run_is_contiguous():
    assert cmrc.longest_common_run("abcxdef", "abcdef") == 3
    assert cmrc.longest_common_run("aab", "aaab") == 3
    assert cmrc.longest_common_run("", "a") == 0
