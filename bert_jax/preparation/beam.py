# SPDX-License-Identifier: Apache-2.0
"""Chunks on Apache Beam, for more text than one machine should prepare. The only importer of apache_beam.

The same functions as in the pool write the same files, so the output is the pool's, byte for byte, and what one has
begun the other goes on with. Every worker needs the input and the output at the paths that were given (a shared file
system), and bert_jax. On one machine the pool is faster: Beam copies every chunk several times.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import write_json
from bert_jax.preparation.chunks import Chunk, ChunkWork, Process
from bert_jax.preparation.work_folder import part_is_finished, read_record, unfinished_chunks
from bert_jax.text.sources import Part, Source

_FAILURE = "failure.json"


def process_on_beam(
    parts: Sequence[Part],
    sources: Sequence[Source],
    work: ChunkWork,
    process: Process,
    runner: str,
    options: Sequence[str],
) -> None:
    """Make what is not there yet of all parts.

    Args:
      process: what is done on each chunk.
      runner: a name that Beam knows, such as DirectRunner, FlinkRunner, SparkRunner.
      options: of that runner, as on its command line: ["--flink_master=...", ...].

    Raises:
      UserError: Beam is not installed or does not know the runner, or what a worker raised.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UserError(f'--runner {runner} needs Apache Beam: pip install "bert-jax[beam]"') from None
    (work.folder / _FAILURE).unlink(missing_ok=True)
    try:
        pipeline = beam.Pipeline(options=PipelineOptions([*options, f"--runner={runner}"]))
    except ValueError as error:
        raise UserError(f"--runner {runner}: {str(error).splitlines()[0]}: give a runner that Beam has") from None
    chunks = (
        pipeline
        | "Parts" >> beam.Create(list(parts))
        | "Spread parts" >> beam.Reshuffle()
        | "Cut" >> beam.FlatMap(_cut, list(sources), work)
        | "Spread chunks" >> beam.Reshuffle()
    )
    chunks | "Process" >> beam.Map(_process, work, process)
    try:
        pipeline.run().wait_until_finish()
    except Exception:
        failure = read_record(work.folder / _FAILURE)
        if failure is None:
            raise
        raise UserError(failure["message"]) from None


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Write down an error that the user can mend: Beam passes on its text only, in the middle of a traceback."""
    try:
        yield
    except UserError as error:
        write_json(folder / _FAILURE, {"message": str(error)})
        raise
    except OSError as error:
        with contextlib.suppress(OSError):  # the disk is full
            write_json(
                folder / _FAILURE, {"message": f"{error.strerror} at {error.filename}: run the same command again"}
            )
        raise


def _cut(part: Part, sources: Sequence[Source], work: ChunkWork) -> Iterator[Chunk]:
    with _telling(work.folder):
        if not part_is_finished(work.folder, part, sources):
            yield from unfinished_chunks(part, sources, work)


def _process(chunk: Chunk, work: ChunkWork, process: Process) -> None:
    with _telling(work.folder):
        process(chunk, work, lambda: None)
