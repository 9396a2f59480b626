# SPDX-License-Identifier: Apache-2.0
"""The one table of thresholds: how far a measured value may go, and what is said of one that goes further.

Doctor, report, the passport's warnings, a run's first batches and the judgement of fine-tuned runs all read it.
"""

from dataclasses import dataclass

from bert_jax.checks.findings import Command, Finding, NOTE, OK, PROBLEM, WARNING


@dataclass(frozen=True)
class Rule:
    """A threshold for each severity, with the usual causes of a value beyond it and what to do."""

    subject: str
    causes: str = ""
    remedy: str = ""
    note: float | None = None
    warning: float | None = None
    problem: float | None = None
    least: bool = False  # whether the value is to be at least the thresholds, and not at most

    def passed(self, value: float) -> tuple[str, float | None]:
        """The gravest severity whose threshold a value passes, and that threshold; OK and the nearest where none is."""
        for severity, threshold in ((PROBLEM, self.problem), (WARNING, self.warning), (NOTE, self.note)):
            if threshold is not None and (value < threshold if self.least else value > threshold):
                return severity, threshold
        known = [threshold for threshold in (self.note, self.warning, self.problem) if threshold is not None]
        return OK, known[0] if known else None

    def judge(
        self,
        value: float,
        seen: str,
        worse: str = "",
        *,
        fine: str = "",
        causes: str = "",
        remedy: str = "",
        command: Command = "",
    ) -> Finding:
        """The finding about a measured value.

        Args:
          value: measured.
          seen: the value in words, with what it is of.
          worse: what `seen` goes on with where a threshold is passed.
          fine: in place of `seen` where none is.
          causes, remedy: in place of the rule's.
          command: that does the remedy; a function is called where a threshold is passed.
        """
        severity, threshold = self.passed(value)
        if severity == OK:
            return self.fine(fine or seen, value)
        return self.found(
            severity, f"{seen}{worse}", causes=causes, remedy=remedy, command=command, value=value, threshold=threshold
        )

    def fine(self, seen: str, value: float | None = None) -> Finding:
        """The finding that all is well."""
        threshold = None if value is None else self.passed(value)[1]
        return Finding(OK, self.subject, seen, value=value, threshold=threshold)

    def found(
        self,
        severity: str,
        seen: str,
        *,
        causes: str = "",
        remedy: str = "",
        command: Command = "",
        value: float | None = None,
        threshold: float | None = None,
    ) -> Finding:
        """The finding where something other than the thresholds alone decides on the severity."""
        done = command if isinstance(command, str) else command()
        causes, remedy = causes or self.causes, remedy or self.remedy
        return Finding(severity, self.subject, seen, causes, remedy, done, value, threshold)


# ---- text ------------------------------------------------------------------------------------------------------------

# A WordPiece vocabulary begins with the letters and their continuations; below this there is little room for more.
# The paper has 30,522 entries.
VOCABULARY = Rule(
    "Vocabulary",
    "a vocabulary made for a test, or of too little text",
    "make a larger one with bert-jax vocab",
    warning=1_000,
    least=True,
)
# A vocabulary made of a text leaves less than 0.1 % of it unknown; BERT's own has 0.02 % of English Wikipedia.
UNKNOWN = Rule(
    "[UNK]",
    "a vocabulary of another language or script, or a cased vocabulary with --uncased",
    "the vocabulary is not for this text, make one of it with bert-jax vocab",
    warning=0.01,
    problem=0.1,
)
UNKNOWN_SCORED = Rule(
    "[UNK]", UNKNOWN.causes, warning=0.2
)  # of any text that is scored: beyond, mostly [UNK] is predicted
ACCENTS = Rule(
    "Accents",
    "a vocabulary that strips accents, as google-research/bert does wherever it lower-cases",
    "make a vocabulary that keeps them, with bert-jax vocab --keep-accents",
)
# "the" is 5 to 7 % of English text, "，" or "的" of Chinese.
COMMONEST_TOKEN = Rule(
    "Word frequencies",
    "tables, code, separators or [UNK] instead of prose",
    "look at the text and remove what is not prose",
    warning=0.2,
)
# English Wikipedia, whose headings recur, has 5 %. At 30 % a third of every batch can be learned by heart.
REPEATED_SENTENCES = Rule(
    "Repeated lines",
    "headers, footers, licences, menus, copies of files; such text can hold the loss near 7",
    "remove repeated lines",
    warning=0.1,
    problem=0.3,
)
# Share of all sentences; the commonest heading of Wikipedia ("History.") has 0.2 %.
ONE_LINE = Rule("Repeated lines", REPEATED_SENTENCES.causes, REPEATED_SENTENCES.remedy, warning=0.01)
FEWEST_TIMES = 100  # a line that stands there less often is no matter, however short the text
# Lee et al. 2022 (2107.06499) remove 3 to 14 % of web text as near-duplicates.
REPEATED_DOCUMENTS = Rule(
    "Repeated documents",
    "an input named twice under other names, or a crawl with mirrors",
    "keep one of each; to take a source several times on purpose, give it a weight (--input TEXT@2)",
    warning=0.05,
)
# As many again with small changes: Lee et al. find 0.4 % in Wikipedia, 3 % in C4, 14 % in news articles.
NEAR_DUPLICATES = Rule(
    "Near-duplicates",
    "articles printed again, pages of one template, several versions of one text",
    "leave them out (--near-duplicates drop)",
    warning=0.05,
)
REPLACED = Rule(  # share of the characters
    "Characters",
    "text that was decoded with the wrong encoding, here (--errors replace) or before",
    "convert the files from their true encoding",
    warning=1e-4,
)
CONTROLS = Rule(  # share of the characters
    "Characters",
    "binary files among the input, or a private encoding",
    "leave such files out of --input",
    warning=0.01,
)
DROPPED = Rule(  # share of the sentences
    "Dropped text",
    "lines of control characters, or a script the tokenizer removes",
    "look at the input, or choose another vocabulary",
    warning=0.05,
)
# With fewer, a B from "another document" comes from the same few places again and again.
DOCUMENTS = Rule(
    "Documents",
    "a file without blank lines between its documents",
    "separate documents by blank lines",
    warning=10,
    least=True,
)
# 15 % of as many tokens give MLM accuracy to about 1 %.
HELD_OUT = Rule("Held-out text", "", "scores on so little text vary by more than 1 %", note=10_000, least=True)
CONTAMINATION = Rule(  # share of an evaluation file's texts
    "Contamination",
    "the evaluation set was made of the same source, such as SQuAD of Wikipedia",
    "say so beside its scores, or leave those documents out of the training text",
    warning=0.01,
)
LICENCE = Rule("Licence", "", "name it, for those who get the model")

# ---- examples --------------------------------------------------------------------------------------------------------

PAIR_LABELS = Rule("Pair labels")
IS_NEXT_RANGE = (0.45, 0.55)
# In short rows the first sentence often fills the whole chunk, and B must then be drawn elsewhere: google-research/bert
# itself, run on Wikipedia, gives 38 to 47 % IsNext on rows of up to 64 tokens.
SHORT_ROW, IS_NEXT_OF_SHORT_ROWS = 64, 0.38
ALMOST_ONE_LABEL = 0.05  # of the rarer label: nothing is left to learn (google-research/bert#125)
LONG_ENOUGH = 128  # tokens; the paper's rows for 90 % of its steps
SAME_DOCUMENT = Rule(  # share of the pairs
    "NotNext sentences",
    "documents as long as a shard: books, or files without blank lines",
    "separate documents by blank lines, or raise --shard-size",
    warning=0.01,
)
UNPAIRED = Rule(  # share of the documents; of English Wikipedia, with its stubs, a tenth
    "Unpaired documents",
    "a blank line after each sentence",
    "separate documents, not sentences, by blank lines, or train without pairs (mlm_full_sentences)",
    warning=0.25,
)
CUT = Rule(  # share of the tokens, which are in no row
    "Cut sentences",
    "",
    "write one sentence a line or let --lines paragraphs split them, or use longer rows",
    warning=0.1,
)
LONG_SENTENCE = 60  # tokens, the mean; English Wikipedia has 27 with 30,000 entries, 37 with 4,000
# Below, packing saves more than a fifth of the time.
FILLED = Rule(
    "Padding",
    "documents shorter than a row",
    "several examples in a row cost less time: train with packing=packed",
    note=0.8,
    least=True,
)
# The chance of a chi-square as large: below it so seldom that a right split would not show it in a life's runs.
MASKS = Rule("Masks", "an error of the program", "report it, with passport.json", problem=1e-6, least=True)

# ---- first batches ---------------------------------------------------------------------------------------------------

FIRST_MASKS = Rule("First batches", MASKS.causes, "do not train on this", problem=MASKS.problem, least=True)
FEWEST_EXPECTED = 5  # of each treatment; with fewer the chi-square test does not hold
PICKED = Rule(
    "Picked tokens", warning=0.2
)  # distance, as a share of what is configured; counts of short rows are rounded
PAIR_SHARES = (0.3, 0.7)  # of one label; rows of few tokens have more NotNext, as the original's do

# ---- recipe ----------------------------------------------------------------------------------------------------------

# The best rate of a small model is known to a factor of a few only; an order of magnitude from the recipe's is worth a look.
RATE = Rule("Learning rate", "", "try the recipe's", note=10.0, warning=30.0)
RECIPE_WARMUP_SHARE = 0.01  # 10,000 of 1,000,000 steps (BERT 1810.04805, appendix A.2)
WARM_UP = Rule(  # a tenth of the recipe's
    "Warm-up",
    "an encoder with LayerNorm after each sub-layer has large gradients at its start (Xiong et al. 2020, 2002.04745) and"
    " may diverge or stay at the word frequencies",
    "warm up for a hundredth of the steps",
    warning=0.001,
    least=True,
)
# initializer_range x sqrt(hidden_size) is 0.55 for BERT-base and 0.64 for BERT-large. At width 128 a range of 0.02 makes
# 0.23: by AdamW attention then stays flat for thousands of steps (seen here); 0.12 makes 1.4, and it forms in hundreds. By Muon
# it forms in hundreds in both, and sooner where positions alone have the larger range (docs/results.md, the demo).
SPREAD = Rule("Initial weights", "", "about 1 / sqrt(hidden_size) lets attention form sooner", note=0.4, least=True)
# The paper's own: 1,000,000 steps are about 40 passes over its 3.3 billion words (appendix A.2).
EPOCHS = Rule("Text for the steps", "too little text for so many steps: the model learns it by heart", warning=40)
NOT_HELD_OUT = Rule(
    "Held-out text", "prepared with --held-out 0", "prepare the data again with some documents held out"
)
# Rows that grow from 32 to 64 in configs/demo.py (batches of 64, one seed): at the change the held-out loss on rows of 64 was
# 5.73 nats, and 5.43 with the new rows of the position table copied from the old; it had been 5.01 on rows of 32. After 100
# steps 5.39 and 5.21, after 300 no difference.
LONGER_ROWS = Rule("Longer rows", warning=300, least=True)

# ---- curves ----------------------------------------------------------------------------------------------------------

CURVES = Rule(
    "Curves",
    "a learning rate or a warm-up the model cannot bear",
    "do not use what follows; begin anew with a lower rate",
)
CONTEXT = Rule("Learning from context")
AT_FLOOR = 0.1  # nats: the noise of logged lines, and what a little topic brings
FLOOR_BAND = 0.3  # nats above the floor that count as staying there, for the same reasons and while it is reached
# nats below the unigram entropy that topic alone brings, without attention to neighbours: curves of width 128 stay flat
# 0.5 below it for a thousand steps and more.
TOPIC = 0.7
# How long a run may stay there: attention forms late, then all at once. The demo's does from step 1,400 on, five times its
# warm-up.
PATIENCE, SHORTEST_PATIENCE = 6, 2_000  # times the warm-up; steps
# nats above the best: well beyond the noise of an average over lines.
STABILITY = Rule(
    "Stability",
    "a learning rate too high for the model, or a stretch of the data unlike the rest",
    "begin anew with a lower rate or a longer warm-up",
    warning=0.3,
    problem=1.0,
)
BY_HEART = Rule("Held-out loss", warning=0.05, problem=0.5)  # nats above the best
FALL = 0.02  # nats that training loss falls meanwhile
PAIR_GAIN = 0.01  # of accuracy above the commoner label, besides chance
SPIKE = 10.0  # times the median of the lines before: far outside the spread of a healthy run, a factor of two or three
JUMP = 0.5  # nats that the loss rises with a spike
GRADIENT = Rule(
    "Gradient norm",
    "a learning rate near what the model can bear, or a batch unlike the others",
    "if the loss jumps with it, lower the rate or lengthen the warm-up",
)
CLIPPED = Rule(  # share of the logged steps after warm-up
    "Gradient norm",
    "small batches or a small model",
    "nothing needs to be done where the loss falls: Adam's step hardly depends on the scale of the gradient",
    note=0.9,
)
THROUGHPUT = Rule(  # share of the median
    "Throughput",
    "another program on the machine, a device that throttles, or storage that has become slow",
    "look at what else runs; the run itself loses nothing",
    warning=0.7,
    least=True,
)
SLOW = 0.5  # of the median: what counts as a slow line
SLOW_LINES = Rule(  # share of the lines
    "Throughput",
    "a shared machine, or a feed that now and then waits for storage",
    "copy the data to a local disk",
    note=0.05,
)
# Share of the first loss that is left of one batch after two minutes. A BERT of any size that is put together rightly comes
# below a tenth; one whose masks, labels or gradients are wrong stays near the word frequencies of its batch.
OVERFIT = Rule(
    "One batch by heart",
    "a learning rate too low or too high for the model, initial weights too narrow, labels that do not belong to the text",
    "try a rate of three times, and of a third; then look at the batch",
    note=0.1,
    warning=0.5,
    problem=0.9,
)
BAD_STEPS = Rule(
    "Bad steps",
    "a learning rate near what the model can bear, a batch unlike the others, a device that computes wrongly",
    "look at one: it is taken again in float32, operation by operation",
)

# ---- cost of a run ---------------------------------------------------------------------------------------------------

JUDGED_SECONDS = 600  # a shorter run is mostly its own start
DATA_BOUND = Rule(  # share of the time between steps and data
    "Data wait",
    "a feed that is slower than the device: storage, too few cores, or a small model on a fast device",
    "copy the data to a local disk, give the job more cores, or use larger batches",
    note=0.05,
    warning=0.2,
)
# Shares of the whole time. Published goodput of long runs on thousands of chips is 90 % and more (PaLM, 2204.02311: restarts
# and rollbacks; MegaScale, 2402.15627, section 6: over 90 %).
COMPILING = Rule("Compiling", "", "share the folder of compiled programs between starts", note=0.2)
EVALUATING = Rule("Evaluation", "", "evaluate less often, or on fewer batches", note=0.2)
SAVING = Rule("Saving", "slow storage, or very frequent saves", "raise save_every", note=0.05, warning=0.2)
RESTARTING = Rule("Restarts", "kills far from a checkpoint, or many", "lower save_every", note=0.05, warning=0.2)

# ---- what is logged beside the losses --------------------------------------------------------------------------------

LOGGED_MASKS = Rule("Masks", MASKS.causes, "do not train on; report it with metrics.jsonl and config.json")
DEVIATIONS = 5  # standard errors of a share; once in two million
LEAST_DEVIATION = 0.002  # of a share; less does not matter, whatever its significance

# ---- fine-tuned runs -------------------------------------------------------------------------------------------------

ALIKE = 0.02  # a rating's standard deviation, as a share of that of the true ones, below which all are the same
NEAR_CHANCE = 0.01  # of a loss, as a share of that of always saying the classes' shares
HALFWAY = 0.5  # skill that is clearly learned: 0 chance, 1 all right
SAME_SHARE = 0.98  # of the answers of a model that gives one answer to everything
DEGENERATE = Rule("Degenerate")

# ---- files of tasks --------------------------------------------------------------------------------------------------

TASK_FILE = Rule("Files", remedy="take the official file")
TASK_HASH = Rule(
    "Hash",
    "a mirror that has written the file anew (order of names, spaces, ids of its own)",
    "scores on it are of other bytes than those that papers scored: take the official file, or say so beside the score",
)
TASK_LINES = Rule(
    "Lines",
    "a part of the data, another version of it, or a reader that took quotes for more than characters and put rows together",
    "take the official file; it is read without quoting (pandas: quoting=csv.QUOTE_NONE)",
)
TASK_QUOTES = Rule(
    "Quotes",
    "the file was written again by a program for CSV: its texts now have quotes that the official ones lack",
    "take the official file, or write it without quoting (pandas: quoting=csv.QUOTE_NONE)",
)
TASK_IDS = Rule(
    "Ids",
    "the file was sorted or shuffled",
    "predictions are written with these ids, by which the site scores them: take the official file where they are not its own",
)
TASK_LABELS = Rule(
    "Labels",
    "a test file under another name, or labels that were filled in",
    "take the official file: nothing can be learned or scored here",
)
TASK_ANSWERS = Rule(
    "Answers",
    "offsets in other units than characters, or spoilt ones, which official files have too",
    "nothing needs to be done: the place of the same text that is nearest is taken",
)
