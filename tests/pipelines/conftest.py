"""A small signed data set, its policy, and how to run the gate on it."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from millcert.pipelines.driver import Engine, Published, VetOptions, VetResult, vet_dataset
from millcert.policy import load_policy
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.testing.sigstore import PrivateSigstore

ISSUER = "https://issuer.example"
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
DIMENSION = 6


@pytest.fixture(scope="session")
def sigstore() -> PrivateSigstore:
    return PrivateSigstore()


@dataclass
class Workbench:
    """A folder with data, policy and state; tests change the data or the policy and run the gate."""

    top: Path
    sigstore: PrivateSigstore
    plain: Callable[..., Engine]
    policy: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.top / "data"

    @property
    def out(self) -> Path:
        return self.top / "out"

    def write(self, source: str, name: str, table: pa.Table) -> Path:
        path = self.data / source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pq.write_table(table, path, row_group_size=64)
        elif name.endswith(".arrow"):
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=50)
        elif name.endswith(".jsonl"):
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        else:
            raise AssertionError(name)
        return path

    def sign(self, source: str, *, identity: str | None = None) -> None:
        folder = self.data / source
        own = {"millcert-manifest.json", "millcert-manifest.json.sigstore.json"}
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in own]
        entries = tuple(
            FileEntry(
                path.relative_to(folder).as_posix(), path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
            )
            for path in files
        )
        manifest = Manifest(source, entries).to_json()
        bundle = self.sigstore.sign_artifact(manifest, identity=identity or f"data@{source}.example", issuer=ISSUER)
        (folder / "millcert-manifest.json").write_bytes(manifest)
        (folder / "millcert-manifest.json.sigstore.json").write_bytes(bundle)

    def save_policy(self) -> Path:
        root = self.sigstore.trusted_root()
        (self.top / "trusted_root.json").write_bytes(root)
        if "trust" in self.policy:
            self.policy["trust"]["trusted_root_sha256"] = hashlib.sha256(root).hexdigest()
        path = self.top / "policy.yaml"
        path.write_text(yaml.safe_dump(self.policy, sort_keys=False))
        return path

    def vet(
        self,
        *datasets: str,
        out: Path | None = None,
        replace: bool = False,
        workers: int = 1,
        after: Callable[[str], None] = lambda _: None,
        render_report: Callable[[Published], str] | None = None,
        engine: Engine | None = None,
        on_beam: bool = False,
        state: Path | None = None,
        **more: Any,
    ) -> VetResult:
        """Run the gate with the plain engine; on Beam where that is asked for. `more`: further options of the run."""
        options = VetOptions(
            datasets=datasets or (str(self.data),),
            out=str(out or self.out),
            state=state or self.top / "state",
            replace=replace,
            workers=workers,
            now=lambda: NOW,
            **more,
        )
        return vet_dataset(
            load_policy(self.save_policy()),
            options,
            after=after,
            render_report=render_report,
            engine=None if on_beam else engine or self.plain(),
        )

    def verdict(self) -> Mapping[str, Any]:
        loaded: Mapping[str, Any] = json.loads((self.out / "verdict.json").read_text())
        return loaded


def make_table(rows: int, seed: int, classes: Sequence[int] = (0, 1, 2)) -> pa.Table:
    """Return rows of well-separated classes: id, label, text, embedding."""
    rng = np.random.default_rng(seed)
    label = rng.choice(np.array(classes), rows)
    embedding = (rng.normal(size=(rows, DIMENSION)) + 8 * np.eye(DIMENSION)[label]).astype(np.float32)
    return pa.table(
        {
            "id": pa.array([f"{seed}-{row}" for row in range(rows)]),
            "label": pa.array(label, pa.int64()),
            "text": pa.array([f"sample {row} of {seed}" for row in range(rows)]),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embedding.reshape(-1)), DIMENSION),
        }
    )


@pytest.fixture(scope="session")
def make() -> Callable[..., pa.Table]:
    """Return `make_table`: tests are no package, so they cannot import it."""
    return make_table


@pytest.fixture(scope="session")
def plain_engine() -> Callable[..., Engine]:
    """Return the class of tests/plain_engine.py: tests are no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("plain_engine", Path(__file__).parents[1] / "plain_engine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kind: Callable[..., Engine] = module.PlainEngine
    return kind


@pytest.fixture
def bench(tmp_path: Path, sigstore: PrivateSigstore, plain_engine: Callable[..., Engine]) -> Workbench:
    """Two signed sources, `north` (Parquet and JSONL) and `south` (Arrow); label noise is only listed."""
    workbench = Workbench(tmp_path, sigstore, plain_engine)
    workbench.write("north", "a.parquet", make_table(150, 1))
    workbench.write("north", "deep/b.jsonl", make_table(90, 2))
    workbench.write("south", "c.arrow", make_table(120, 3))
    for source in ("north", "south"):
        workbench.sign(source)
    workbench.policy = {
        "version": 1,
        "dataset": {
            "name": "small",
            "columns": {"label": "label", "embedding_external": "embedding"},
            "max_malformed_fraction": 0.0,
        },
        "trust": {"trusted_root": "trusted_root.json", "trusted_root_sha256": ""},
        "sources": [
            {
                "name": source,
                "path": f"{source}/**",
                "signed_by": {"issuer": ISSUER, "identity": f"data@{source}.example"},
            }
            for source in ("north", "south")
        ],
        "checks": [{"check": "label_noise", "max_flagged_fraction": 0.1, "on_flagged": "report"}],
        "verdict": {"max_quarantined_fraction": 0.1, "max_unknown_provenance_fraction": 0.0},
        "ledger": {"origin": "test.example/ledger"},
    }
    return workbench
