"""A run whose policy asks for witnesses: nothing is published before enough of them cosigned the ledger."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from millcert.cli.main import main
from millcert.errors import SignatureError, StoreError
from millcert.policy import load_policy
from millcert.provenance.certificate import verify_certificate
from millcert.provenance.checkpoint import decode_base64, encode_base64, vkey_of
from millcert.provenance.cosignature import ED25519, ML_DSA_44, WitnessRule, format_witness_vkey, require_witnesses
from millcert.provenance.keys import load_or_create_key
from millcert.provenance.state import load_gate_keys, load_ledger_vkeys
from millcert.provenance.tile_folder import TileFolder
from millcert.provenance.witness_folder import create_witness, open_witness, read_witness_vkeys
from millcert.provenance.witness_server import WitnessServer

ORIGIN = "example.org/test"


class Workbench(Protocol):
    top: Path
    out: Path
    policy: dict[str, Any]

    def vet(self) -> Any: ...
    def save_policy(self) -> Path: ...


class Witnesses:
    """Witnesses of one ledger, on loopback; each can be stopped."""

    def __init__(self, top: Path) -> None:
        self.top = top
        key = load_or_create_key(top / "state" / "keys" / "ledger.key")
        self.logs = {ORIGIN: [vkey_of(ORIGIN, key)]}
        self.running: dict[str, tuple[WitnessServer, threading.Thread]] = {}

    def start(self, name: str) -> dict[str, Any]:
        """Start a witness and return its section of a policy."""
        folder = self.top / name
        create_witness(folder, name, [ED25519, ML_DSA_44])
        server = WitnessServer(open_witness(folder, self.logs), ("127.0.0.1", 0), log=lambda _: None)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.running[name] = (server, thread)
        keys = read_witness_vkeys(folder / "witness.vkey")
        return {"url": server.url, "vkeys": [format_witness_vkey(key) for key in keys]}

    def stop(self, name: str) -> None:
        server, thread = self.running.pop(name)
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def witnesses(tmp_path: Path) -> Iterator[Callable[[Path], Witnesses]]:
    made: list[Witnesses] = []

    def make(top: Path) -> Witnesses:
        made.append(Witnesses(top))
        return made[-1]

    yield make
    for one in made:
        for name in list(one.running):
            one.stop(name)


def rule_of(top: Path, *names: str, required: int) -> WitnessRule:
    return WitnessRule(
        tuple(key for name in names for key in read_witness_vkeys(top / name / "witness.vkey")), required
    )


def test_a_run_is_cosigned_and_its_certificate_evidence_and_export_carry_it(
    bench: Workbench, witnesses: Callable[[Path], Witnesses], capsys: pytest.CaptureFixture[str]
) -> None:
    watching = witnesses(bench.top)
    bench.policy["ledger"] |= {"origin": ORIGIN, "witnesses_required": 2}
    bench.policy["ledger"]["witnesses"] = [watching.start("w1"), watching.start("w2"), watching.start("w3")]
    watching.stop("w3")  # two of three are enough
    state = bench.top / "state"

    result = bench.vet()

    names = ("w1", "w2")
    data = (bench.out / "certificate.json").read_bytes()
    keys: Any = {
        "gate_keys": load_gate_keys([state / "keys" / "gate.pub"]),
        "ledger_vkeys": load_ledger_vkeys([state / "ledger.vkey"]),
    }
    certificate = verify_certificate(data, **keys, witnesses=rule_of(bench.top, *names, required=2))
    assert {one.witness for one in certificate.cosignatures} == set(names)
    assert len(certificate.cosignatures) == 4  # both algorithms of both
    require_witnesses(result.recorded.checkpoint.encode(), rule_of(bench.top, *names, required=2))
    with pytest.raises(SignatureError, match="2 are required"):
        verify_certificate(data, **keys, witnesses=rule_of(bench.top, "w1", "w3", required=2))
    assert verify_certificate(data, **keys).cosignatures == ()

    admit = ["admit", str(bench.out / "admitted"), "--state", str(state), "--unsafe-no-revocations"]
    options = [*admit, "--witness-key", str(bench.top / "w1/witness.vkey")]
    assert main([*options, "--witness-key", str(bench.top / "w2/witness.vkey"), "--witnesses-required", "2"]) == 0
    assert "cosigned by: w1, w2" in capsys.readouterr().out
    other = ["--witness-key", str(bench.top / "w3/witness.vkey")]
    assert main([*options, *other, "--witnesses-required", "2"]) == 3
    assert main([*options, "--witnesses-required", "2"]) == 2
    assert main(options) == 2
    assert main([*admit, "--witnesses-required", "1"]) == 2
    capsys.readouterr()

    sample = ["--file", "north/a.parquet", "--row", "3", "--state", str(state), "--out", str(bench.top / "shown.json")]
    assert main(["evidence", "export", *sample]) == 0
    shown = ["evidence", "verify", str(bench.top / "shown.json"), "--trust", str(state / "ledger.vkey")]
    both = ["--witness-key", str(bench.top / "w1/witness.vkey"), "--witness-key", str(bench.top / "w2/witness.vkey")]
    assert main([*shown, *both, "--witnesses-required", "2"]) == 0
    capsys.readouterr()
    assert main([*shown, *other, "--witnesses-required", "1", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["details"]["reason"] == "witnesses"
    assert main(["ledger", "export", str(bench.top / "tiles"), "--state", str(state)]) == 0
    published = TileFolder(bench.top / "tiles").checkpoint()
    require_witnesses(published, rule_of(bench.top, *names, required=2))
    policy = str(bench.top / "policy.yaml")
    capsys.readouterr()
    assert main(["ledger", "cosign", "--policy", policy, "--state", str(state), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["witnesses"] == ["w1", "w2"]
    assert main(["ledger", "cosign", "--policy", policy, "--state", str(state), "--out", str(bench.top / "kept")]) == 0
    assert (bench.top / "kept").read_bytes() == published


def test_too_few_witnesses_publish_nothing_and_a_retry_completes(
    bench: Workbench, witnesses: Callable[[Path], Witnesses]
) -> None:
    watching = witnesses(bench.top)
    bench.policy["ledger"] |= {"origin": ORIGIN, "witnesses_required": 1, "witnesses": [watching.start("w1")]}

    def dying(step: str) -> None:
        if step == "computed":
            watching.stop("w1")

    with pytest.raises(StoreError, match="w1 cannot be reached") as caught:
        bench.vet(after=dying)  # type: ignore[call-arg]
    assert caught.value.exit_code == 5
    assert not bench.out.exists()
    with pytest.raises(StoreError, match="w1 cannot be reached"):  # told before anything is computed
        bench.vet(after=pytest.fail)  # type: ignore[call-arg]

    bench.policy["ledger"]["witnesses"] = [watching.start("w2")]
    bench.vet()
    assert (bench.out / "certificate.json").is_file()


def test_each_flipped_byte_of_a_certificate_s_cosignature_is_refused(
    bench: Workbench, witnesses: Callable[[Path], Witnesses]
) -> None:
    watching = witnesses(bench.top)
    bench.policy["ledger"] |= {"origin": ORIGIN, "witnesses_required": 1, "witnesses": [watching.start("w1")]}
    bench.vet()
    parts = json.loads((bench.out / "certificate.json").read_bytes())
    keys: Any = {
        "gate_keys": load_gate_keys([bench.top / "state" / "keys" / "gate.pub"]),
        "ledger_vkeys": load_ledger_vkeys([bench.top / "state" / "ledger.vkey"]),
        "witnesses": rule_of(bench.top, "w1", required=1),
    }
    head, _, line = parts["ledger"]["proof"].partition("\u2014 w1 ")
    signature = decode_base64(line.split("\n")[0])
    assert signature is not None
    assert len(signature) == 4 + 8 + 64

    for place in range(4, len(signature)):
        forged = encode_base64(signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :])
        changed = {**parts, "ledger": {**parts["ledger"], "proof": f"{head}\u2014 w1 {forged}\n"}}
        with pytest.raises(SignatureError, match="cosignature of w1"):
            verify_certificate(json.dumps(changed).encode(), **keys)


def test_a_policy_without_witnesses_has_the_digest_that_it_always_had(bench: Workbench) -> None:
    loaded = load_policy(bench.save_policy())

    assert "witnesses" not in json.dumps(loaded.policy.to_document())
    assert loaded.policy.ledger.witnessing() is None
    assert len(bytes.fromhex(loaded.digest)) == hashlib.sha256().digest_size
