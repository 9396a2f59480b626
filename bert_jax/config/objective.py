# SPDX-License-Identifier: Apache-2.0
"""Objectives of pre-training, by what they predict: masked tokens, the label of a pair and which tokens were replaced, or
each next token, also read backward."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bert_jax.base.errors import UserError
from bert_jax.config.fields import require_choice, require_positive, require_share, setting

MASKINGS = ("token", "whole_word", "span")


class Objective(NamedTuple):
    """A row of the table of objectives."""

    examples: str  # which examples of the prepared data it trains on; see `bert_jax.feed.kinds`
    pair_label: str | None  # what the label of a pair says, where it is predicted
    tokens: str = "mlm"  # which tokens are predicted, a row of TOKEN_WORDS
    replaces: bool = False  # whether a generator's samples replace the masked tokens, and all are judged
    backward: bool = False  # whether each token is predicted a second time, from those behind it


OBJECTIVES: Mapping[str, Objective] = {
    "mlm_nsp": Objective("nsp", "next sentence"),  # BERT
    "mlm_pairs": Objective("nsp", None),  # "No NSP" of the paper's ablation: the same rows, their label not predicted
    "mlm_sop": Objective("sop", "sentence order"),  # ALBERT (1909.11942)
    "mlm_full_sentences": Objective("full_sentences", None),  # RoBERTa (1907.11692), rows go across documents
    "mlm_document": Objective("document", None),  # RoBERTa's doc-sentences: rows stay inside a document
    "ltr": Objective("full_sentences", None, tokens="ltr"),  # GPT, and "LTR & No NSP" of the paper's ablation
    "bilm": Objective("full_sentences", None, tokens="ltr", backward=True),  # ELMo (1802.05365), by LSTMs
    "rtd": Objective("full_sentences", None, replaces=True),  # ELECTRA (2003.10555)
}


@dataclass(frozen=True)
class ObjectiveConfig:
    """The objective. Of the picked tokens `mask_share` become [MASK], `random_share` a random id, the rest stay."""

    name: str = setting(
        "mlm_nsp",
        "mlm_nsp, mlm_pairs (NSP's rows, label not predicted), mlm_sop, mlm_full_sentences, mlm_document, or on the rows of"
        " mlm_full_sentences ltr (each token from those before it), bilm (that and backward, by LSTMs, ELMo) or rtd (replaced"
        " tokens, ELECTRA)",
    )
    masking: str = setting("token", "what is picked as one: token, whole_word, or span of words (geometric lengths)")
    mlm_probability: float = setting(0.15, "share of tokens that are picked and predicted")
    mlm_probability_end: float | None = setting(
        None, "none: that share stays; a number: it goes there in a straight line, reached at the last step of the run"
    )
    mask_share: float = setting(0.8, "share of picked tokens replaced by [MASK]")
    random_share: float = setting(0.1, "share of picked tokens replaced by a random entry of the vocabulary")
    span_end_probability: float = setting(
        0.2, "masking=span: probability that a span ends after a word (SpanBERT: 0.2)"
    )
    longest_span: int = setting(10, "masking=span: words of a span at most (SpanBERT: 10)")
    generator_share: float = setting(
        0.25, "name=rtd: features and heads of the generator as a share of the model's (ELECTRA: 1/4 small, 1/3 base)"
    )

    def __post_init__(self) -> None:
        require_choice("objective", self, "name", tuple(OBJECTIVES))
        if not self.masks:
            self._refuse_masking()
        require_choice("objective", self, "masking", MASKINGS)
        for name in ("mlm_probability", "mask_share", "random_share", "span_end_probability", "generator_share"):
            require_share("objective", self, name)
        if self.mlm_probability_end is not None:
            require_share("objective", self, "mlm_probability_end")
            require_positive("objective", self, "mlm_probability_end")
        for name in ("mlm_probability", "span_end_probability", "longest_span"):
            require_positive("objective", self, name)
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise UserError(
                f"objective.mask_share={self.mask_share} and objective.random_share={self.random_share} add up to"
                " more than 1: lower one of them"
            )

    def _refuse_masking(self) -> None:
        for field in dataclasses.fields(self):
            if field.name not in ("name", "generator_share") and (value := getattr(self, field.name)) != field.default:
                raise UserError(
                    f"objective.{field.name}={value} says how tokens are masked, and objective.name={self.name} masks none:"
                    " leave it out"
                )

    @property
    def masks(self) -> bool:
        """Whether tokens are picked and masked; if not, each next token is predicted."""
        return OBJECTIVES[self.name].tokens == "mlm"

    @property
    def is_causal(self) -> bool:
        """Whether each token is predicted from those before it alone: attention sees the past only."""
        return not self.masks and not self.is_backward

    @property
    def is_backward(self) -> bool:
        """Whether each token is also predicted from those behind it, by a model of its own: a biLM."""
        return OBJECTIVES[self.name].backward

    @property
    def examples(self) -> str:
        """The kind of prepared examples that is trained on."""
        return OBJECTIVES[self.name].examples

    @property
    def terms(self) -> list[str]:
        """The names of the losses that are added up."""
        extra = (BACKWARD.term, self.is_backward), ("nsp", self.nsp), ("rtd", self.replaces)
        return [OBJECTIVES[self.name].tokens, *(name for name, has in extra if has)]

    @property
    def nsp(self) -> bool:
        """Whether the label of a pair is predicted: next sentence (NSP) or sentence order (SOP)."""
        return OBJECTIVES[self.name].pair_label is not None

    @property
    def replaces(self) -> bool:
        """Whether a generator's samples replace the masked tokens, and the model judges every token."""
        return OBJECTIVES[self.name].replaces

    @property
    def highest_probability(self) -> float:
        """The largest share of tokens that is picked in the course of the run."""
        return max(self.mlm_probability, self.mlm_probability_end or 0.0)

    def probability_at(self, step: float, total_steps: int) -> float:
        """The share of tokens that is picked in step `step` (from 0) of the run."""
        if self.mlm_probability_end is None:
            return self.mlm_probability
        progress = min(step / max(total_steps - 1, 1), 1.0)  # batches that are passed over lie behind the last step
        return self.mlm_probability + (self.mlm_probability_end - self.mlm_probability) * progress


class TokenWords(NamedTuple):
    """How people speak of the tokens that are predicted."""

    term: str  # of the loss; scores are named TERM_loss, TERM_accuracy, TERM_perplexity
    short: str
    predicted: str  # tokens, in the plural
    counter: str  # the name of their number in a record


TOKEN_WORDS: Mapping[str, TokenWords] = {
    words.term: words
    for words in (
        TokenWords("mlm", "MLM", "masked tokens", "masked_tokens"),
        TokenWords("ltr", "LTR", "next tokens", "next_tokens"),
    )
}
# Of a biLM, beside those of `ltr`; there are as many of them.
BACKWARD = TokenWords("rtl", "RTL", "tokens before", "next_tokens")


def token_words(objective: ObjectiveConfig) -> TokenWords:
    """Return the words for the tokens that an objective predicts."""
    return TOKEN_WORDS[OBJECTIVES[objective.name].tokens]


def directions(objective: ObjectiveConfig) -> list[TokenWords]:
    """Return the words for the tokens that an objective predicts, of a biLM those of either direction."""
    return [token_words(objective), *([BACKWARD] if objective.is_backward else [])]


class PairWords(NamedTuple):
    """How people speak of the label of a pair. Fields, parameters and metrics are named `nsp` whatever it says."""

    task: str  # as in `OBJECTIVES`
    short: str
    labels: tuple[str, str]  # what 0 and 1 say
    question: str


PAIR_WORDS: Mapping[str, PairWords] = {
    words.task: words
    for words in (
        PairWords(
            "next sentence",
            "NSP",
            ("IsNext", "NotNext"),
            "Does sentence B follow sentence A in the text (IsNext), or is it drawn from elsewhere (NotNext)?",
        ),
        PairWords(
            "sentence order",
            "SOP",
            ("in order", "swapped"),
            "Do sentences A and B stand in the order of the text (in order), or are they swapped?",
        ),
    )
}


def pair_words(objective: ObjectiveConfig) -> PairWords | None:
    """The words for the label that an objective predicts; None where it predicts none."""
    task = OBJECTIVES[objective.name].pair_label
    return None if task is None else PAIR_WORDS[task]
