"""The demo: real digits, one laboratory plants poison, the gate finds it; then clean digits, then a tampered file.

Run it with `make demo`. It needs no account and no network: a private Sigstore, made when the demo starts, signs the
data.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from demo_data import LABS, POISONED_LAB, TARGET, Digits, make_digits, write_labs

from millcert.provenance.manifest import FileEntry, Manifest
from millcert.testing.sigstore import PrivateSigstore

ISSUER = "https://accounts.labs.example"
ORIGIN = "labs.example/training-data"
SUITE = {
    "name": "digits",
    "expectations": [
        {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1000, "max_value": 5000}},
        {
            "type": "expect_table_columns_to_match_set",
            "kwargs": {"column_set": ["id", "pixels", "label", "embedding", "intensity"], "exact_match": True},
        },
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "label"}},
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "label", "min_value": 0, "max_value": 9}},
        {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}},
        {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "id", "regex": "^lab-[a-d]-[0-9]{4}$"}},
    ],
    "meta": {"great_expectations_version": "1.24.1"},
}


def main() -> int:
    """Run the three parts; return 0 only if each ended as it must."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    top: Path = parser.parse_args().out
    if top.exists():
        shutil.rmtree(top)
    top.mkdir(parents=True)
    started = time.monotonic()
    failures = poisoned(top) + clean(top) + tampered(top)
    print(f"\nDemo took {time.monotonic() - started:.0f} s.")
    if failures:
        print("The demo did NOT end as it must:")
        for failure in failures:
            print(f"  {failure}")
        return 1
    print(f"Next: open {top}/poisoned/out/report.html")
    print(f"      {millcert()} ledger verify --state {top}/poisoned/state")
    print("      README.md: your own data in four commands")
    return 0


def poisoned(top: Path) -> list[str]:
    """Vet digits with planted poison and compare with the planted truth."""
    print("== 1. Four signed sources, one with planted poison")
    folder = top / "poisoned"
    digits = prepare(folder, planted=True)
    code = vet(folder)
    if code != 0:
        return [f"vet of the poisoned data set: exit {code}, expected 0 (admitted, poison held back)"]
    findings = pq.read_table(folder / "out" / "findings.parquet").to_pylist()
    flagged = {(row["file"].split("/")[0], row["row"]) for row in findings if row["check"] == "robust_spectral"}
    noisy = {(row["file"].split("/")[0], row["row"]) for row in findings if row["check"] == "label_noise"}
    poison, errors = places(digits, digits.is_poison), places(digits, digits.is_label_error)
    samples = len(digits.label)
    print("\n  against the planted truth:")
    print(f"    poison       {len(flagged & poison):>3} of {len(poison)} planted samples found and quarantined,")
    print(
        f"                 {len(flagged - poison):>3} of {samples - len(poison):,} other samples quarantined with them"
    )
    sources = sorted({place[0] for place in flagged})
    classes = sorted({row["label"] for row in findings if row["check"] == "robust_spectral"})
    print(f"    source       {', '.join(sources) or 'none'} (planted in {POISONED_LAB})")
    print(f"    class        {', '.join(classes) or 'none'} (planted in {TARGET})")
    print(
        f"    label errors {len(noisy & errors):>3} of {len(errors)} planted errors listed, {len(noisy)} listed in all"
    )
    failures = []
    if len(flagged & poison) < 0.95 * len(poison):
        failures.append(f"only {len(flagged & poison)} of {len(poison)} poisoned samples were quarantined")
    if len(flagged - poison) > 0.005 * samples:
        failures.append(f"{len(flagged - poison)} clean samples were quarantined")
    code = admit(folder)
    if code != 0:
        failures.append(f"admit refused the admitted data: exit {code}")
    return failures


def clean(top: Path) -> list[str]:
    """Vet the same digits without poison: everything must be admitted."""
    print("\n== 2. The same digits, clean")
    folder = top / "clean"
    digits = prepare(folder, planted=False)
    code = vet(folder)
    if code != 0:
        return [f"vet of the clean data set: exit {code}, expected 0"]
    samples = json.loads((folder / "out" / "verdict.json").read_text())["samples"]
    print(
        f"\n  {samples['admitted']:,} of {len(digits.label):,} samples admitted, {samples['quarantined']} quarantined"
    )
    if samples["admitted"] != len(digits.label):
        return [f"{samples['quarantined']} clean samples were quarantined"]
    return []


def tampered(top: Path) -> list[str]:
    """Change one byte of a signed file: the gate must refuse it with exit 3, and publish nothing."""
    print("\n== 3. One byte of a signed file changed")
    folder = top / "tampered"
    shutil.copytree(top / "clean", folder, ignore=shutil.ignore_patterns("out", "state"))
    target = folder / "data" / "lab-a" / "digits.parquet"
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(bytes(data))
    code = vet(folder)
    print(f"  exit code {code}: refused" if code == 3 else f"  exit code {code}")
    if code != 3 or (folder / "out").exists():
        return [f"a tampered file led to exit {code}, expected 3 and no output"]
    return []


def prepare(folder: Path, *, planted: bool) -> Digits:
    """Write data, manifests, bundles, trusted root, suite and policy."""
    digits = make_digits(planted=planted)
    write_labs(digits, folder / "data")
    sigstore = PrivateSigstore()
    root = sigstore.trusted_root()
    (folder / "trusted_root.json").write_bytes(root)
    (folder / "suite.json").write_text(json.dumps(SUITE, indent=2))
    for lab in LABS:
        manifest = make_manifest(lab, folder / "data" / lab)
        bundle = sigstore.sign_artifact(manifest, identity=f"data@{lab}.example", issuer=ISSUER)
        (folder / "data" / lab / "millcert-manifest.json").write_bytes(manifest)
        (folder / "data" / lab / "millcert-manifest.json.sigstore.json").write_bytes(bundle)
    (folder / "policy.yaml").write_text(make_policy(hashlib.sha256(root).hexdigest()))
    return digits


def make_manifest(name: str, folder: Path) -> bytes:
    """Return the manifest of a folder, as `millcert source manifest` writes it."""
    entries = [
        FileEntry(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.iterdir())
    ]
    return Manifest(name, tuple(entries)).to_json()


def make_policy(root_sha256: str) -> str:
    """Return the demo's policy."""
    sources = "".join(
        f'  - name: {lab}\n    path: "{lab}/**"\n'
        f'    signed_by: {{issuer: "{ISSUER}", identity: "data@{lab}.example"}}\n'
        for lab in LABS
    )
    return f"""# Who may supply digits, what they must look like, and what is held back.
version: 1
dataset:
  name: digits
  columns: {{label: label, embedding_self: embedding, embedding_external: intensity}}
  images: {{pixels: {{shape: [8, 8], max_value: 16}}}}
  max_malformed_fraction: 0
trust:
  trusted_root: trusted_root.json
  trusted_root_sha256: {root_sha256}
sources:
{sources}expectations: {{suite: suite.json}}
checks:
  - check: robust_spectral       # backdoor evidence: held back, and too much of it rejects
    max_flagged_fraction: 0.05
  - check: label_noise           # honest label errors: listed for review, not held back
    max_flagged_fraction: 0.05
    on_flagged: report
verdict:
  max_quarantined_fraction: 0.05
  max_unknown_provenance_fraction: 0
  on_backdoor: quarantine        # go on without what is held back; left out, a backdoor rejects the data set
ledger: {{origin: {ORIGIN}}}
"""


def vet(folder: Path) -> int:
    """Run `millcert vet` as a user would; return its exit code."""
    return run(
        "vet",
        f"{folder}/data",
        "--policy",
        f"{folder}/policy.yaml",
        "--out",
        f"{folder}/out",
        "--state",
        f"{folder}/state",
    )


def admit(folder: Path) -> int:
    """Run `millcert admit` on what was admitted; return its exit code."""
    return run(
        "admit",
        f"{folder}/out/admitted",
        "--certificate",
        f"{folder}/out/certificate.json",
        "--state",
        f"{folder}/state",
    )


def run(*arguments: str) -> int:
    """Run millcert, its output indented by nothing: what you see is what it prints."""
    print(f"\n  $ millcert {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", "millcert", *arguments], check=False).returncode


def millcert() -> str:
    """Return how to call millcert from here."""
    return str(Path(sys.executable).parent / "millcert")


def places(digits: Digits, mask: np.ndarray) -> set[tuple[str, int]]:
    """Return (lab, row) of the samples where `mask` is true."""
    return {(LABS[lab], int(row)) for lab, row in zip(digits.lab[mask], digits.row[mask], strict=True)}


if __name__ == "__main__":
    sys.exit(main())
