"""What the driver makes of a run's parts before it records: joined, completed, signed; and the documents behind it.

Every step may be done again: the same result gives the same bytes.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from millcert.checks.profile_format import digest_in_file
from millcert.errors import InternalError
from millcert.pipelines.formats import ReadLimits
from millcert.pipelines.output import (
    PartWriter,
    copy_spooled,
    open_output,
    part_name,
    read_part,
    read_whole,
    translate_store_errors,
)
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.profiling import PROFILE_FILE, SIGNED_PROFILE_FILE
from millcert.pipelines.publish import is_local, write_file
from millcert.pipelines.rating import RATES_FILE, rates_digest
from millcert.pipelines.recording import Recorded, Recorder
from millcert.pipelines.records import WorkItem
from millcert.pipelines.reference import keep_profile, keep_rates
from millcert.pipelines.ruling import RunResult
from millcert.pipelines.spool import read_verified
from millcert.provenance.manifest import Manifest
from millcert.verdict import Verdict


def merge_parts(staging: str, kind: str, schema: pa.Schema, files: Sequence[str]) -> int:
    """Join the files' parts in the order of the files' names, in bounded memory; return how many rows there are."""
    target = f"{staging}/publish/{kind}.parquet"
    with PartWriter(target, schema) as merged:
        for name in sorted(files, key=str.encode):
            for batch in read_part(f"{staging}/parts/{kind}/{part_name(name)}"):
                merged.write(batch.cast(schema))
    if not merged.rows:
        with translate_store_errors(target), open_output(target) as stream:
            pq.write_table(schema.empty_table(), stream)
    return merged.rows


def settle_admitted(plan: VetPlan, result: RunResult, published: str) -> None:
    """Complete `admitted/` with the auxiliary files, or take it away where the verdict does not admit."""
    admitted = f"{published}/admitted"
    if result.verdict is not None and result.verdict.decision == "admitted":
        for item in plan.auxiliary:
            _copy_auxiliary(item, f"{admitted}/{item.name}", result.output_manifest, plan.limits)
        return
    with translate_store_errors(admitted):
        if is_local(admitted):
            if Path(admitted).exists():
                shutil.rmtree(admitted)
        else:
            found = [entry.path for entry in FileSystems.match([f"{admitted}/**"])[0].metadata_list]
            if found:
                FileSystems.delete(found)


def settle_profile(verdict: Verdict, recorder: Recorder, published: str, state: Path) -> None:
    """Sign the profile; keep that of an admitted version, so that the next one can be compared with it."""
    if not verdict.profile_digest:
        return
    data = read_whole(f"{published}/{PROFILE_FILE}")
    if (digest := digest_in_file(data)) != verdict.profile_digest:
        raise InternalError(f"The profile has the digest {digest}; the verdict says {verdict.profile_digest}.")
    write_file(f"{published}/{SIGNED_PROFILE_FILE}", recorder.sign_profile(verdict, data))
    if verdict.decision == "admitted":
        keep_profile(state, digest, data)


def settle_rates(verdict: Verdict, published: str, state: Path) -> None:
    """Keep the rates of an admitted version, so that the next one can be compared with them."""
    if not verdict.rates_digest:
        return
    data = read_whole(f"{published}/{RATES_FILE}")
    if (digest := rates_digest(data)) != verdict.rates_digest:
        raise InternalError(f"The rates have the digest {digest}; the verdict says {verdict.rates_digest}.")
    if verdict.decision == "admitted":
        keep_rates(state, digest, data)


def _copy_auxiliary(item: WorkItem, target: str, manifest: Manifest | None, limits: ReadLimits) -> None:
    if manifest is None:
        raise InternalError("An admitted data set has no manifest.")
    entry = next(entry for entry in manifest.files if entry.path == item.name)
    with read_verified(item.uri, expected_sha256=entry.sha256, limits=limits) as spooled:
        copy_spooled(spooled, target)


def write_documents(result: RunResult, recorded: Recorded, published: str) -> None:
    """Write what says of a run: certificate, suite's result, manifest, verdict."""
    documents: dict[str, bytes | None] = {
        "certificate.json": recorded.certificate,
        "expectations.json": None if result.suite_result is None else _json(result.suite_result),
        "manifest.json": None if result.input_manifest is None else result.input_manifest.to_json(),
        "verdict.json": None if result.verdict is None else result.verdict.to_json(),
    }
    for name, data in documents.items():
        if data is not None:
            write_file(f"{published}/{name}", data)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode()
