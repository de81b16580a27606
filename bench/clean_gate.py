"""Claim: the policy that `millcert policy init` writes fails no clean data set: whole runs of `millcert vet`.

    OPENBLAS_NUM_THREADS=1 python bench/clean_gate.py [--most N]

Each data set is written as Parquet, a folder for each of its sources (random ones, so that no source is odd), `policy
init` writes a policy, and `vet` runs. The policy is edited in three places, which its comments ask for: unsigned
sources are admitted (`max_unknown_provenance_fraction`: 1), pictures get their shape, and a ledger of this run's own is
named. Printed for each run: exit code, what each check flagged, and why if it was not admitted; at last the share of
samples that any check but label_noise flagged. One attacked set ends the list, so that it is seen that the same policy
can reject: 1 % BadNets in one source's pictures.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.detection_sets import SHARED, Data, bundled, cifar_images, features, honest, sst2, stamped

SOURCES = 5
#: Columns by role, as `policy init` recognises them.
NAMES = {
    "embedding_self": "embedding",
    "embedding_external": "external_embedding",
    "features": "pixels",
    "text": "text",
    "label": "label",
}


def clean_sets() -> Iterator[Data]:
    """Yield at least 20 clean data sets in `SOURCES` random sources."""
    unpoisoned, backdoor, images, text = features("img_clean"), features("img_badnet_0.01"), cifar_images(), sst2()
    if unpoisoned is not None:
        for shard in range(4):
            rows = np.arange(shard * 5000, (shard + 1) * 5000)
            yield replace(unpoisoned.take(rows), name=f"CIFAR-10, self view, shard {shard}")
    if backdoor is not None:
        both = backdoor.take(np.flatnonzero(~backdoor.is_bad))
        for shard in range(4):
            rows = np.arange(shard * 4950, (shard + 1) * 4950)
            yield replace(both.take(rows), name=f"CIFAR-10, both views, shard {shard}")
        yield from _votes(backdoor)
    if images is not None:
        for shard in range(4):
            rows = np.arange(shard * 5000, (shard + 1) * 5000)
            pixels = {"features": images.views["features"][rows]}
            yield replace(honest(f"CIFAR-10, images, shard {shard}", pixels, images.label[rows]), shape=images.shape)
    if text is not None:
        for seed in range(2):
            yield replace(text[0], name=f"SST-2, texts and embeddings, sources {seed}")
    for data in bundled():
        views = {"features": data.views["features"]} if data.shape else {"embedding_self": data.views["embedding_self"]}
        for seed in range(2):
            yield replace(data, views=views, name=f"{data.name}, sources {seed}")


def _votes(backdoor: Data) -> Iterator[Data]:
    path = SHARED / "cifar10n" / "cifar10n_labels.npz"
    if path.is_file():
        there = np.load(SHARED / "features" / "img_badnet_0.01.npz", allow_pickle=False)["cifar_train_index"]
        voted = np.load(path, allow_pickle=False)["aggre_label"][there].astype(int)
        clean = replace(backdoor, label=voted).take(np.flatnonzero(~backdoor.is_bad))
        for shard in range(2):
            rows = np.arange(shard * 9900, (shard + 1) * 9900)
            yield replace(clean.take(rows), name=f"CIFAR-10N, both views, half {shard}")


def attacked_set() -> Data | None:
    images = cifar_images()
    if images is None:
        return None
    poisoned = stamped(images.take(np.arange(5000)), 0, bad=50, relabelled=True)
    only = replace(poisoned, views={"features": poisoned.views["features"]})
    return replace(only, name="CIFAR-10, images, 1 % BadNets in one source")


def write(data: Data, root: Path, seed: int) -> None:
    """Write the data, a folder for each source; all bad rows are in the first."""
    source = np.where(data.is_bad, 0, np.random.default_rng(seed).integers(0, SOURCES, len(data.label)))
    columns: dict[str, pa.Array] = {NAMES["label"]: pa.array([str(value) for value in data.label])}
    for role, rows in data.views.items():
        kind = pa.uint8() if role == "features" else pa.float32()
        flat = np.ascontiguousarray(rows.reshape(len(rows), -1))
        values = pa.array(flat.ravel()).cast(kind)
        columns[NAMES[role]] = pa.FixedSizeListArray.from_arrays(values, flat.shape[1])
    if data.text is not None:
        columns[NAMES["text"]] = pa.array(data.text.tolist())
    table = pa.table(columns)
    for number in range(SOURCES):
        folder = root / f"source-{number}"
        folder.mkdir(parents=True)
        pq.write_table(table.filter(pa.array(source == number)), folder / "part.parquet")


def edited(path: Path, data: Data) -> None:
    """Edit the policy as its comments ask for."""
    policy = yaml.safe_load(path.read_text())
    policy["verdict"]["max_unknown_provenance_fraction"] = 1.0
    if data.shape:
        largest = float(data.views["features"].max())
        policy["dataset"]["images"] = {NAMES["features"]: {"shape": list(data.shape), "max_value": largest}}
    path.write_text(yaml.safe_dump(policy))


def gate(data: Data, seed: int) -> tuple[int, int, int]:
    """Run the gate as a user would; return exit code, samples judged, and those that a check but label_noise flags."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(data, folder / "data", seed)
        millcert = [sys.executable, "-m", "millcert"]
        policy, out, state = folder / "policy.yaml", folder / "out", folder / "state"
        subprocess.run([*millcert, "policy", "init", "data", "--out", str(policy)], cwd=folder, check=True)
        edited(policy, data)
        command = [*millcert, "vet", "data", "--policy", str(policy), "--out", str(out), "--state", str(state)]
        done = subprocess.run([*command, "--quiet"], cwd=folder, capture_output=True, text=True, check=False)
        found = out / "verdict.json"
        if not found.is_file():
            print(f"  {data.name:46} exit {done.returncode}: {done.stderr.strip()[-300:]}", flush=True)
            return done.returncode, len(data.label), 0
        verdict = json.loads(found.read_text())
        flags = pq.read_table(out / "findings.parquet", columns=["file", "row", "check"]).to_pylist()
    checks = {check["name"]: check for check in verdict["checks"]}
    poison = len({(flag["file"], flag["row"]) for flag in flags if flag["check"] != "label_noise"})
    flagged = ", ".join(f"{key} {check['flagged']}" for key, check in checks.items())
    words = "; ".join(reason["message"] for reason in verdict["reasons"])
    print(f"  {data.name:46} {len(data.label):6d}  exit {done.returncode}  {flagged}  {words}", flush=True)
    return done.returncode, len(data.label), poison


def main() -> None:
    parser = argparse.ArgumentParser(description="Whole runs of the gate on clean data.")
    parser.add_argument("--most", type=int, default=1000, help="at most so many clean runs")
    most = parser.parse_args().most
    failed = samples = flagged = runs = 0
    for seed, data in enumerate(clean_sets()):
        if runs == most:
            break
        code, judged, poison = gate(data, seed)
        runs, failed, samples, flagged = runs + 1, failed + (code != 0), samples + judged, flagged + poison
    share = flagged / max(1, samples)
    print(f"clean runs: {runs}; not admitted: {failed}; flagged by poison checks: {flagged} of {samples} ({share:.3%})")
    attack = attacked_set()
    if attack is not None:
        code, _, poison = gate(attack, 0)
        print(f"attacked: exit {code}, {poison} flagged, {int(attack.is_bad.sum())} planted")


if __name__ == "__main__":
    main()
