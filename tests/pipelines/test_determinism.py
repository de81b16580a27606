"""Same input, same verdict digest: on one worker or two, without Beam, and in any order of the files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any


def published(out: Path) -> dict[str, bytes]:
    """Return what a run publishes, less what has a clock in it."""
    timed = {"certificate.json", "report.html"}
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in timed
    }


@pytest.mark.slow
def test_workers_and_file_order_change_nothing_that_is_published(bench: Workbench, tmp_path: Path) -> None:
    """Rule: deterministic: same input, same verdict digest, on any runner, worker count, order and retry."""
    bench.policy["checks"][0]["on_flagged"] = "quarantine"
    names = ["north/a.parquet", "north/deep/b.jsonl", "south/c.arrow"]
    for source in ("north", "south"):
        (bench.data / source / "millcert-manifest.json.sigstore.json").rename(tmp_path / f"{source}.bundle")
        (bench.data / source / "millcert-manifest.json").unlink()
    bench.policy["sources"] = [
        {"name": source, "path": f"{source}/**", "unsigned": "accept_as_unknown"} for source in ("north", "south")
    ]
    bench.policy["verdict"]["max_unknown_provenance_fraction"] = 1.0
    del bench.policy["trust"]
    globs = [f"{bench.data}/**/{Path(name).name}" for name in names]

    # Each with a ledger of its own: a verdict tells what changed since the last version in it.
    plain = bench.vet(*globs, out=tmp_path / "plain")
    (bench.top / "state").rename(tmp_path / "state-plain")
    one = bench.vet(*globs, out=tmp_path / "one", on_beam=True)
    (bench.top / "state").rename(tmp_path / "state-one")
    two = bench.vet(*reversed(globs), out=tmp_path / "two", on_beam=True, workers=2)

    assert plain.verdict.digest == one.verdict.digest == two.verdict.digest
    assert published(tmp_path / "plain") == published(tmp_path / "one") == published(tmp_path / "two")
