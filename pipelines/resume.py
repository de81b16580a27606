"""A run that goes on where others stopped: what the driver prepares before the workers look for kept work.

A run never writes to another run's staging folder. It takes files from folders that were left behind, each checked
against its digest, into one of its own; so a worker that outlived its driver disturbs nobody, and nothing that this
run's plan does not ask for can come into its output. What is done again is decided file by file, by names that say
all that the work depends on (work_keys.py): after a change of policy, code or data, what is left of the old run fits
nothing.

The run's secret is taken over too, so that leaves that were salted need not be salted again; unless the run that left
it had begun to log its decision, because leaves that the ledger may name must not appear in two runs. A run that
finishes that very decision (unpublished.py) is no second one, and takes the secret with it.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from millcert.errors import MillcertError, StoreError, UsageError
from millcert.pipelines.plan import PlannedWork, VetPlan
from millcert.pipelines.publish import is_local, local_path, refuse_overlap, write_file
from millcert.pipelines.runner import is_local as is_local_runner
from millcert.pipelines.runner import refuse_out_of_reach
from millcert.pipelines.sample_leaves import SECRET_FILE, new_secret, read_secret
from millcert.pipelines.unpublished import Decision
from millcert.pipelines.value_coding import OUR_PACKAGE
from millcert.pipelines.work_keeping import place_run_keys
from millcert.provenance.sample_leaf import RunSecret
from millcert.provenance.work_key import FOLDER_NAME, work_key

if TYPE_CHECKING:
    from millcert.pipelines.driver import VetOptions

#: Reads from which on work is kept without being asked for: some 8 minutes of a core (workers.py). A shorter run is
#: done again sooner than anybody looks; keeping adds a tenth to a fifth to every run (docs/resume.md), killed or not.
WORTH_KEEPING_BYTES = 64 << 30
_NEVER = 1 << 62

#: Stands in the staging folder from the moment at which a run begins to log its decision.
RECORDING_FILE = "recording"


def kept_place(options: "VetOptions", beam_options: PipelineOptions) -> str:
    """Return where the store is that outlives the run, "" for none.

    Raises:
        UsageError: the workers cannot see it, or it lies among the data or in the output.
    """
    if options.work:
        place = local_path(options.work)
        refuse_out_of_reach(beam_options, (place,))
        if is_local(place):
            place = str(Path(place).absolute())
            refuse_overlap(options.out, options.datasets, Path(place))
            refuse_overlap(place, options.datasets, options.state)
        return place.rstrip("/")
    if not options.incremental:
        return ""
    if not is_local_runner(beam_options):
        raise UsageError(
            "Workers of a cluster do not see the state folder, where work is kept.",
            hint="Name a place that driver and workers see: --work URI.",
        )
    return str((options.state / FOLDER_NAME).absolute())


def prepare_work(
    staging: str,
    kept: str,
    left: Sequence[str],
    plan: VetPlan,
    options: "VetOptions",
    decided: Decision | None = None,
) -> tuple[PlannedWork, RunSecret]:
    """Put keys and the run's secret into the staging folder; return what the workers keep, and the secret.

    Args:
        staging: of this run.
        kept: where the store is that outlives the run, "" for none.
        left: staging folders of the runs that this one resumes.
        plan: of the run.
        options: of the run.
        decided: the decision that this run finishes, whose salts it takes.

    Raises:
        UsageError: the key of the state folder can be read by others.
        StoreError: a folder cannot be used.
    """
    place_run_keys(staging, work_key(options.state), kept)
    packages = {type(planned.check).__module__.split(".")[0] for planned in plan.checks} - {OUR_PACKAGE}
    read_bytes = plan.reads * sum(item.size_bytes for item in plan.items)
    planned = PlannedWork(kept, tuple(left), tuple(sorted(packages)), least_bytes(options, read_bytes))
    if decided is not None:
        write_file(f"{staging}/{SECRET_FILE}", decided.secret.secret)
        return planned, decided.secret
    return planned, _secret_of(left, staging) or new_secret(staging)


def least_bytes(options: "VetOptions", read_bytes: int) -> int:
    """Return the size of the files on which work is kept, at least; more than any file has where none is kept.

    Args:
        options: of the run. Kept is what the user asks for; without a word of his, what takes long.
        read_bytes: bytes of all files times the number of reads.

    Raises:
        UsageError: the options contradict each other.
    """
    needs_it = options.resume or options.incremental or bool(options.work)
    if options.keep_work is False:
        if needs_it:
            raise UsageError(
                "--no-keep-work leaves nothing for --resume, --incremental and --work.", hint="Give one or the other."
            )
        return _NEVER
    if options.least_work_bytes is not None:
        return options.least_work_bytes
    is_kept = needs_it or options.keep_work or read_bytes >= WORTH_KEEPING_BYTES
    return PlannedWork.least_bytes if is_kept else _NEVER


def begin_recording(staging: str) -> None:
    """Say that what this run salted may be in the ledger from now on."""
    write_file(f"{staging}/{RECORDING_FILE}", b"recording\n")  # Beam cannot write an empty object to S3


def is_worth_resuming(error: BaseException, staging: str) -> bool:
    """Say whether a run that ended so leaves its staging folder: the machine failed or somebody stopped it.

    One in which no work is kept goes.
    """
    if not isinstance(error, StoreError | KeyboardInterrupt):
        return False
    place = f"{staging}/{FOLDER_NAME}"
    try:
        return Path(place).is_dir() if is_local(place) else bool(FileSystems.match([f"{place}/**"])[0].metadata_list)
    except (OSError, BeamIOError):
        return False


def _secret_of(left: Sequence[str], staging: str) -> RunSecret | None:
    """Return the secret of the youngest run that was left, put into the staging folder; None where it may be logged."""
    logged: set[bytes] = set()
    found: list[RunSecret] = []
    for folder in left:
        with suppress(MillcertError, OSError, BeamIOError):
            secret = read_secret(folder)
            found.append(secret)
            if FileSystems.exists(f"{folder}/{RECORDING_FILE}"):
                logged.add(secret.secret)
    usable = [secret for secret in found if secret.secret not in logged]
    if not usable:
        return None
    write_file(f"{staging}/{SECRET_FILE}", usable[0].secret)
    return usable[0]
