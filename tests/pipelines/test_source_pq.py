"""A whole run under a policy that asks for a post-quantum signature beside the classical one."""

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa

from millcert.errors import MillcertError
from millcert.provenance.pq_signature import PqKey

KEY, OTHER = PqKey(mldsa.MLDSA65PrivateKey.generate()), PqKey(mldsa.MLDSA65PrivateKey.generate())
LIST, SIGNED = "north/millcert-manifest.json", "north/millcert-manifest.json.pq.json"


def test_a_run_is_admitted_with_it_and_refused_without_or_with_another_keys(bench: Any) -> None:
    bench.policy["sources"][0]["require_pq"] = base64.b64encode(KEY.public.spki).decode()
    with pytest.raises(MillcertError, match="asks for a post-quantum signature"):
        bench.vet()
    content = (bench.data / LIST).read_bytes()
    (bench.data / SIGNED).write_bytes(OTHER.sign(content))
    with pytest.raises(MillcertError, match="names the key"):
        bench.vet()
    (bench.data / SIGNED).write_bytes(KEY.sign(content))
    assert bench.vet().verdict.decision == "admitted"


def test_one_that_nobody_asks_for_is_no_data_and_does_no_harm(bench: Any) -> None:
    (bench.data / SIGNED).write_bytes(KEY.sign((bench.data / LIST).read_bytes()))
    assert bench.vet().verdict.decision == "admitted"
