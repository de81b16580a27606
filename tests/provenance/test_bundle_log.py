"""The rules about a log's proof that need no signature: each one alone."""

import base64
from dataclasses import replace

import pytest

from millcert.errors import SignatureError
from millcert.provenance.bundle_log import LogProof, check_log_proof, log_name

ROOT = bytes(range(32))
SIGNATURE = "\N{EM DASH} log.example c2lnbmF0dXJl\n"


def note(
    origin: str = "log.example", size: str = "8", root: str = base64.b64encode(ROOT).decode(), rest: str = ""
) -> str:
    return f"{origin}\n{size}\n{root}\n{rest}\n{SIGNATURE}"


GOOD = LogProof(
    log_index=5,
    is_index_signed=False,
    is_index_global=False,
    proof_index=5,
    tree_size=8,
    root_hash=ROOT,
    checkpoint=note(),
)


def test_a_whole_proof_gives_the_index_of_the_proof() -> None:
    assert check_log_proof(GOOD, log_url="https://log.example") == 5


def test_a_signed_index_is_the_global_one() -> None:
    assert check_log_proof(replace(GOOD, log_index=900, is_index_signed=True), log_url="https://log.example") == 900


def test_a_global_index_that_nothing_signed_is_not_told() -> None:
    assert check_log_proof(replace(GOOD, log_index=900, is_index_global=True), log_url="https://log.example") == 5


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://log.example/", "log.example"),
        ("https://log.example", "log.example - 2605736670972794746"),
        ("http://localhost:8000", "localhost:8000 - 124190645164477"),
        ("https://host.example/2026/log/", "host.example/2026/log"),
    ],
)
def test_the_origin_is_the_url_without_scheme_or_with_a_tree_number(url: str, origin: str) -> None:
    assert check_log_proof(replace(GOOD, checkpoint=note(origin)), log_url=url) == 5
    assert origin.startswith(log_name(url))


def test_extension_lines_and_more_signatures_are_let_be() -> None:
    text = note(rest="Timestamp: 1\nanother line\n") + "\N{EM DASH} witness.example/w1 c2lnbmF0dXJlMg==\n"
    assert check_log_proof(replace(GOOD, checkpoint=text), log_url="https://log.example") == 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "log.example\n8\n",
        note().removesuffix("\n"),
        note().replace(SIGNATURE, ""),
        note().replace("\N{EM DASH}", "-"),
        note() + "junk\n",
        note(origin=""),
        note(size="08"),
        note(size="-8"),
        note(size="8 "),
        note(size="\u0668"),
        note(size="1" * 30),
        note(root="AAAA"),
        note(root="not base64"),
        note(root="\u00e9" * 44),
        note(root=base64.b64encode(ROOT).decode() + "\nx").replace("\nx\n", ""),
        note(rest="x" * 70000 + "\n"),
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    """Rule 1."""
    with pytest.raises(SignatureError) as caught:
        check_log_proof(replace(GOOD, checkpoint=text), log_url="https://log.example")
    assert caught.value.reason == "checkpoint_malformed"


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        (replace(GOOD, checkpoint=note("log.example.evil")), "checkpoint_origin"),
        (replace(GOOD, checkpoint=note("log.example - ")), "checkpoint_origin"),
        (replace(GOOD, checkpoint=note("log.example - 1 ")), "checkpoint_origin"),
        (replace(GOOD, checkpoint=note("LOG.example")), "checkpoint_origin"),
        (replace(GOOD, checkpoint=note(size="9")), "checkpoint_size"),
        (replace(GOOD, tree_size=9), "checkpoint_size"),
        (replace(GOOD, tree_size=0, checkpoint=note(size="0")), "checkpoint_size"),
        (replace(GOOD, root_hash=bytes(32)), "checkpoint_root"),
        (replace(GOOD, log_index=8, proof_index=8), "log_index"),
        (replace(GOOD, log_index=-1, proof_index=-1), "log_index"),
        (replace(GOOD, log_index=4), "log_index"),
        (replace(GOOD, proof_index=8, is_index_signed=True), "log_index"),
    ],
    ids=repr,
)
def test_each_rule_refuses_what_breaks_it(proof: LogProof, reason: str) -> None:
    """Rules 2 to 5."""
    with pytest.raises(SignatureError) as caught:
        check_log_proof(proof, log_url="https://log.example")
    assert caught.value.reason == reason
