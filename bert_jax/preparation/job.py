# SPDX-License-Identifier: Apache-2.0
"""Text to prepared data: the work of `bert-jax prepare`.

    --input -> sources -> parts -> documents -> chunks -> (processes) -> shards and records -> manifest

This process reads the parts and cuts them into chunks; other processes turn each chunk into its shards
(`chunks.process_chunk`); the records are added up at the end (`publishing`). What comes out is a function of the text
and the settings: neither the number of processes nor an interruption changes a byte. Finished chunks stay in the folder
`prepare-unfinished` of the output (`work_folder`), and the same command goes on from there.
"""

import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from tqdm import tqdm

from bert_jax.base.bucket_output import staged
from bert_jax.base.errors import Interrupted, UserError
from bert_jax.base.host import usable_cores
from bert_jax.base.paths import on_bucket
from bert_jax.base.stopping import answering, Signalled
from bert_jax.base.types import JsonObject
from bert_jax.feed.shards import MANIFEST, open_data
from bert_jax.feed.tokenised import SMALLEST_SHARD
from bert_jax.preparation.beam import process_on_beam
from bert_jax.preparation.chunks import Chunk, ChunkWork, Process, process_chunk
from bert_jax.preparation.contamination import EvaluationNgrams
from bert_jax.preparation.near_duplicates import (
    DOCUMENT_BYTES,
    find_near_duplicates,
    require_library,
    sign_chunk,
    signing,
)
from bert_jax.preparation.pool import process_in_pool, WAITING
from bert_jax.preparation.publishing import publish, read_plan, write_plan
from bert_jax.preparation.request import (
    make_request,
    PrepareSettings,
    require_same_settings,
    require_same_text,
)
from bert_jax.preparation.work_folder import open_work_folder, part_is_finished, UNFINISHED, unfinished_chunks
from bert_jax.text.documents import LONGEST_DOCUMENT, MOST_LINES
from bert_jax.text.sources import parse_sources, Part, plan_parts, Source, total_bytes
from bert_jax.text.statistics import sample_bits
from bert_jax.tokenization import Tokenizer

# Measured, in bytes; see `_memory`.
_HERE_BYTES, _WORKER_BYTES, _OF_SHARD_IN_WORKER = 150_000_000, 190_000_000, 3.4
_OF_LONG_DOCUMENT = 6
_SEGMENTER_BYTES, _NEAR_DUPLICATES_BYTES, _OF_NGRAMS_IN_WORKER = 120_000_000, 70_000_000, 4

type Run = Callable[[Sequence[Part], Sequence[Source], ChunkWork, Process], None]  # in processes here, or on Beam


def prepare(
    inputs: Sequence[str | Path],
    tokenizer: Tokenizer,
    output: Path,
    settings: PrepareSettings,
    evaluation_data: Sequence[Path] = (),
    workers: int | None = None,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
) -> tuple[JsonObject, bool]:
    """Prepare the text of `inputs` into the directory `output`.

    Args:
      inputs: as `sources.parse_sources` takes them.
      evaluation_data: files whose overlap with the text is measured.
      workers: processes; None: as many as there are cores, or fewer for a small text. It does not change the result.
        With more than one, a script must call this below `if __name__ == "__main__":` (see `multiprocessing`).
      runner: of Apache Beam, in the place of processes here; see `beam`. It does not change the result either.

    Returns:
      The manifest, and whether it was made now; it is not where `output` holds the same already.

    Raises:
      UserError: text that cannot be used, or an `output` that holds something else.
      Interrupted: by Ctrl-C or SIGTERM; what is finished stays.
    """
    _require_outside(output, inputs)
    sources = parse_sources(inputs)
    size = total_bytes(sources)
    settings = settings.with_shard_size(size)
    evaluation = EvaluationNgrams.from_files(evaluation_data) if evaluation_data else None
    request = make_request(sources, tokenizer, settings, evaluation)
    if (output / MANIFEST).exists():
        return _made_before(output, request, sources), False
    if settings.near_duplicates:
        require_library()
    parts = plan_parts(sources, settings.shard_size)
    with (
        staged(output, "prepare", MANIFEST) as place,
        open_work_folder(place, request) as folder,
        _interruptible(folder),
    ):
        plan = read_plan(folder)
        if plan is None:
            work = ChunkWork(folder, tokenizer, settings, sample_bits(size), evaluation)
            if runner is None:
                workers = workers or _fitting_workers(parts, settings)
                _say_memory(parts, work, workers)
                _make_shards(parts, sources, work, partial(_process, workers=workers))
            else:
                _make_shards(parts, sources, work, partial(process_on_beam, runner=runner, options=runner_options))
            try:
                plan = write_plan(folder, request, parts, work)
            except UserError:  # what is finished will not do for these settings
                shutil.rmtree(folder)
                raise
        else:
            require_same_text(place, plan["manifest"], request, sources, f"remove {folder} to begin anew")
        return publish(folder, place, plan), True


def _require_outside(output: Path, inputs: Sequence[str | Path]) -> None:
    if on_bucket(output):
        return
    for path in [Path(path) for item in map(str, inputs) for path in (item, item.rpartition("@")[0]) if path]:
        if path.is_dir() and output.resolve().is_relative_to(path.resolve()):
            raise UserError(f"--output {output} lies inside --input {path}: choose a folder outside")


def _made_before(output: Path, request: JsonObject, sources: Sequence[Source]) -> JsonObject:
    """The manifest of data that is there, if it is what is asked for."""
    manifest = dict(open_data(output).manifest)
    mend = f"remove {output} or choose another --output"
    require_same_settings(f"{output} was made", manifest, request, mend)
    require_same_text(output, manifest, request, sources, mend)
    if not on_bucket(output):
        shutil.rmtree(output / UNFINISHED, ignore_errors=True)  # of a run that was ended after it wrote the manifest
    return manifest


def _fitting_workers(parts: Sequence[Part], settings: PrepareSettings) -> int:
    return min(usable_cores(), sum(part.bytes for part in parts) // settings.shard_size + 1)


def _make_shards(parts: Sequence[Part], sources: Sequence[Source], work: ChunkWork, run: Run) -> None:
    """Read all parts and make shards of them; before that, for near-duplicates, compare the documents of all sources."""
    if work.settings.near_duplicates:
        near = signing(work)
        run([part for part in parts if not part.repetition], sources, near, sign_chunk)
        find_near_duplicates(near.folder, parts, sources, drop=work.settings.near_duplicates == "drop")
    run(parts, sources, work, process_chunk)


def _process(parts: Sequence[Part], sources: Sequence[Source], work: ChunkWork, process: Process, workers: int) -> None:
    """Make what is not there yet of all parts."""
    total, what = sum(part.bytes for part in parts), "prepare" if process is process_chunk else "near-duplicates"
    with tqdm(total=total, unit="B", unit_scale=True, desc=what, disable=None) as progress:
        shards = sum(1 for _ in work.folder.glob("record-*.json"))
        if shards and process is process_chunk:
            progress.write(f"goes on: {shards} shard(s) are finished", file=sys.stderr)
        with closing(_read(parts, sources, work, progress)) as chunks:
            several = workers > 1
            run = process_in_pool(chunks, work, workers, process) if several else _process_here(chunks, work, process)
            with closing(run) as finished:
                for chunk_bytes in finished:
                    shards += 1
                    progress.set_postfix_str(f"{shards} shards", refresh=False)
                    progress.update(chunk_bytes)


def _read(parts: Sequence[Part], sources: Sequence[Source], work: ChunkWork, progress: tqdm) -> Generator[Chunk]:
    def skip(count: int) -> None:  # no progress of this run, so not a part of its speed
        if not progress.disable:
            progress.n += count
            progress.initial += count
            progress.last_print_n += count

    for part in parts:
        if part_is_finished(work.folder, part, sources):
            skip(part.bytes)
        else:
            yield from unfinished_chunks(part, sources, work, skip)


def _process_here(chunks: Iterator[Chunk], work: ChunkWork, process: Process) -> Generator[int]:
    for chunk in chunks:
        process(chunk, work, lambda: None)
        yield chunk.stored_bytes


# ---- said beforehand, and when stopped ---------------------------------------------------------------------


def _say_memory(parts: Sequence[Part], work: ChunkWork, workers: int) -> None:
    tqdm.write(_memory(work, workers), file=sys.stderr)
    if work.settings.near_duplicates:
        tqdm.write(
            f"memory: near-duplicates take at most {DOCUMENT_BYTES} bytes more here for each document, and on disk, until"
            f" the end, 8 bytes for each word and {DOCUMENT_BYTES} for each document",
            file=sys.stderr,
        )
    if max(part.bytes for part in parts) > max(work.settings.shard_size, SMALLEST_SHARD):
        tqdm.write(_memory_of_long_documents(work), file=sys.stderr)


def _memory(work: ChunkWork, workers: int) -> str:
    """The most that is needed, for people. A document longer than a shard needs more."""
    size = work.settings.shard_size
    worker = _WORKER_BYTES + _OF_SHARD_IN_WORKER * size
    if work.settings.segmenter != "none":
        worker += _SEGMENTER_BYTES
    if work.settings.near_duplicates:
        worker += _NEAR_DUPLICATES_BYTES
    if work.evaluation is not None:
        worker += _OF_NGRAMS_IN_WORKER * sum(file.ngrams.nbytes for file in work.evaluation.files)
    here = _HERE_BYTES + (workers + WAITING + 1) * size
    if workers == 1:
        return f"memory: at most about {int(worker + 2 * size) // 10**6} MB"
    return f"memory: at most about {here // 10**6} MB here + {int(worker) // 10**6} MB for each of {workers} workers"


def _memory_of_long_documents(work: ChunkWork) -> str:
    """Say what memory is needed beyond that, where a file is so large that a document may be larger than a shard."""
    return (
        f"memory: a document of more than {work.settings.shard_size / 1e6:,.0f} MB takes about {_OF_LONG_DOCUMENT} bytes"
        f" more for each of its bytes; the longest that is taken has {LONGEST_DOCUMENT / 1e6:,.0f} million characters in"
        f" {MOST_LINES:,} lines"
    )


@contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block with `Interrupted`. Every file is whole or absent, so any moment will do."""
    try:
        with answering("prepare"):
            yield
    except Signalled as signalled:
        shards = sum(1 for _ in folder.glob("record-*.json"))
        raise Interrupted(
            f"interrupted; {shards} shards are finished and stay: run the same command again to go on", signalled.number
        ) from None
