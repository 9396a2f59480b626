# SPDX-License-Identifier: Apache-2.0
"""The model card of a directory for Hugging Face: README.md, whose front matter programs read.

Nothing is said in it that is not recorded: by the run, by the passport of its data, by its scores, by the certificate. The
front matter is YAML, of which JSON values are a part.
"""

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bert_jax.base.errors import listed
from bert_jax.base.files import complete_or_absent, reading
from bert_jax.base.host import __version__
from bert_jax.base.types import JsonObject
from bert_jax.config.description import ModelDescription
from bert_jax.conversion.checkpoints import Checkpoint
from bert_jax.conversion.config_files import is_electra
from bert_jax.conversion.names import BERT_JAX
from bert_jax.conversion.sentence_files import SentenceVectors
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.finetuned import FinetunedRun, load_finetuned

CARD = "README.md"
_PIPELINES = {
    "classification": "text-classification",
    "multi_label": "text-classification",
    "regression": "text-classification",
    "choice": "multiple-choice",
    "span": "question-answering",
    "tagging": "token-classification",
}
# Licences by the Hub's names, as people write them in other ways: "CC BY-SA 3.0" is cc-by-sa-3.0.
_LICENCES = re.compile(
    r"(apache-2\.0|mit|bsd-[23]-clause|[al]?gpl-[23]\.0|mpl-2\.0|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[1-4]\.[05])"
)
_RESTORE = "restore the file"


def write_card(
    source: Checkpoint, folder: Path, vectors: SentenceVectors | None, certificate: Sequence[str]
) -> list[str]:
    """Write the card; that of a source which has one, and is no run of ours, is kept.

    Args:
      source: what was converted.
      folder: the result.
      vectors: how sentences become vectors; None: they do not.
      certificate: its lines.

    Returns:
      What is to be said about it.
    """
    theirs = source.path / CARD
    if source.format != BERT_JAX:
        if theirs.is_file():
            shutil.copyfile(theirs, folder / CARD)
            return [f"{CARD} of the source is kept as it is"]
        text = _card(source.path.name, _front(source, {}, None, vectors), [_what(source, {}, None)], certificate)
    else:
        run = RunDirectory(source.path)
        with reading(run.path, _RESTORE):
            passport = run.manifest() if run.data_file.is_file() else {}
            tuned = load_finetuned(run.path) if run.finetune_file.is_file() else None
            parts = [_what(source, passport, tuned), *_origin(run), *_scores(tuned), *_data(passport)]
            text = _card(source.path.name, _front(source, passport, tuned, vectors), parts, certificate)
    with complete_or_absent(folder / CARD) as file:
        file.write(text.encode())
    return []


def _card(name: str, front: JsonObject, parts: Iterable[str], certificate: Sequence[str]) -> str:
    matter = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in front.items())
    proof = "\n".join(f"- {line}" for line in certificate)
    sections = [
        *parts,
        f"## Conversion\n\nWritten by bert_jax {__version__}; conversion.json has the whole proof.\n\n{proof}",
    ]
    return f"---\n{matter}---\n\n# {name}\n\n" + "\n\n".join(sections) + "\n"


# ---- front matter --------------------------------------------------------------------------------------------------


def _front(
    source: Checkpoint, passport: JsonObject, tuned: FinetunedRun | None, vectors: SentenceVectors | None
) -> JsonObject:
    front: JsonObject = {"library_name": "transformers" if vectors is None else "sentence-transformers"}
    front["pipeline_tag"] = _pipeline(source.description)
    front["tags"] = [_family(source.description).lower(), "jax", *(["sentence-transformers"] if vectors else [])]
    front |= _licence(passport.get("licence", ""))
    splitter = str(passport.get("splitter", "")).partition(":")[2]
    if splitter:  # sentencex:de
        front["language"] = splitter
    began = _began_with(source)
    if began is not None:
        front["base_model"] = began
    if tuned is not None and tuned.metrics:
        front["model-index"] = [{"name": source.path.name, "results": [_result(source.description, tuned)]}]
    return front


def _family(description: ModelDescription) -> str:
    return "ELECTRA" if is_electra(description) else "BERT"


def _pipeline(description: ModelDescription) -> str:
    if description.task is not None:
        return _PIPELINES[description.task.kind]
    return "fill-mask" if description.mlm else "feature-extraction"


def _licence(text: str) -> JsonObject:
    """The licence of the data, which the passport has in words."""
    if not text:
        return {}
    name = re.sub(r"[\s_-]+", "-", text.strip().lower())
    return {"license": name} if _LICENCES.fullmatch(name) else {"license": "other", "license_name": text}


def _began_with(source: Checkpoint) -> str | None:
    """The name of the model that a run began with; of its path the last part."""
    if source.format != BERT_JAX:
        return None
    run = RunDirectory(source.path)
    began = (run.source() or {}).get("path")
    if began is None and run.finetune_file.is_file():
        origin = load_finetuned(run.path).record["source"]
        began = None if origin.get("from_scratch") else origin.get("path")
    return None if began is None else Path(began).name


def _result(description: ModelDescription, tuned: FinetunedRun) -> JsonObject:
    scores = tuned.scores.get(tuned.split, {})
    metrics = [{"type": name, "value": scores[name]} for name in tuned.metrics if scores.get(name) is not None]
    return {
        "task": {"type": _pipeline(description)},
        "dataset": {"name": tuned.title, "type": tuned.title.lower().replace(" ", "-"), "split": tuned.split},
        "metrics": metrics,
    }


# ---- text ----------------------------------------------------------------------------------------------------------


def _what(source: Checkpoint, passport: JsonObject, tuned: FinetunedRun | None) -> str:
    task = "" if tuned is None else f" Fine-tuned on {tuned.title}."
    step = "" if source.step is None else f" Its checkpoint is of step {source.step:,}."
    trained = "" if not passport else " Pre-trained with bert_jax."
    family = _family(source.description)
    return f"{'An' if family == 'ELECTRA' else 'A'} {family}: {source.description.summary()}.{trained}{task}{step}"


def _origin(run: RunDirectory) -> list[str]:
    record, teacher = run.source(), run.teacher()
    taught = f"It learned from {Path(teacher['path']).name} too ({teacher['summary']})." if teacher else None
    return [*_beginning(record), *([taught] if taught else [])]


def _beginning(record: JsonObject | None) -> list[str]:
    if record is None:
        return []
    drawn = f"; drawn anew: {', '.join(record['drawn'])}" if record["drawn"] else ""
    return [f"It began with the weights of {Path(record['path']).name} ({record['summary']}){drawn}."]


def _scores(tuned: FinetunedRun | None) -> list[str]:
    if tuned is None or not tuned.scores:
        return []
    rows = [
        (split, name, scores[name])
        for split, scores in tuned.scores.items()
        for name in tuned.metrics
        if name in scores
    ]
    return ["## Scores\n\n" + _table(("split", "metric", "value"), rows)]


def _data(passport: JsonObject) -> list[str]:
    if not passport:
        return []
    rows = [
        (one["source"], one["weight"], f"{one['documents']:,}", f"{one['tokens']:,}") for one in passport["sources"]
    ]
    scripts = passport.get("text", {}).get("scripts", {})
    letters = max(sum(scripts.values()), 1)
    shares = listed(f"{name} {count / letters:.1%}" for name, count in list(scripts.items())[:4])
    told = [f"Scripts, by letters: {shares}."] if shares else []
    if passport.get("licence"):
        told.append(f"Licence of the text: {passport['licence']}.")
    return ["## Data\n\n" + _table(("source", "weight", "documents", "tokens"), rows), *told]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)
