"""Having a ledger's newest checkpoint cosigned: all witnesses are asked at once, and enough of them must answer.

The cosigned checkpoint is kept in one file beside the ledger (`ledger.cosigned`), so that proofs, exports and evidence
made later carry it. Losing that file loses no fact: the witnesses cosign the newest checkpoint again.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from millcert.errors import ConsistencyError, SignatureError, StoreError
from millcert.provenance.bounded_post import DEFAULT_TIMEOUT_SECONDS
from millcert.provenance.checkpoint import MAX_NOTE_BYTES, parse_checkpoint, parse_note, verify_checkpoint
from millcert.provenance.cosignature import WitnessRule, merge_signatures, require_witnesses, signature_lines
from millcert.provenance.last_seen import LastSeen
from millcert.provenance.ledger_log import Ledger
from millcert.provenance.witness_client import WitnessRefusedError, WitnessSite, ask_witness

#: Another process may append, and have its checkpoint cosigned, between our reading and our asking.
_ROUNDS = 3


@dataclass(frozen=True)
class Witnessing:
    """Whom to ask for cosignatures, and how many must give one.

    sites: the witnesses, at least one.
    required: how many, 1 to their number.
    timeout_seconds: for each request.
    """

    sites: tuple[WitnessSite, ...]
    required: int
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS

    @property
    def rule(self) -> WitnessRule:
        """What a verifier with the same configuration asks for."""
        return WitnessRule(tuple(key for site in self.sites for key in site.keys), self.required)


def cosigned_path(ledger: Path) -> Path:
    """Return where the newest cosigned checkpoint of the ledger at `ledger` is kept."""
    return ledger.with_suffix(".cosigned")


def cosigned_checkpoint(ledger: Ledger, witnessing: Witnessing, kept: Path) -> bytes:
    """Return the ledger's newest checkpoint with the cosignatures that the rule asks for, and keep it at `kept`.

    What was cosigned already, and is the newest, is returned without asking anybody.

    Raises:
        StoreError: fewer witnesses than required could be reached, or the file cannot be kept; a retry is safe.
        ConsistencyError: a witness has another history of this ledger, or a larger one than the ledger itself.
        UsageError: a key is there twice, or more witnesses are required than there are.
    """
    rule = witnessing.rule
    for _ in range(_ROUNDS):
        note, seen = ledger.checkpoint(), _kept(ledger, kept)
        if seen is not None and parse_note(seen).text == parse_note(note).text:
            note = merge_signatures(note, signature_lines(seen))
        if _is_enough(note, rule):
            return note
        lines, refusals = _ask_all(ledger, witnessing, note)
        note = merge_signatures(note, lines)
        if _is_enough(note, rule):
            LastSeen(kept).supersede(note)
            return note
        if ledger.size == _size(note):  # else another process appended: ask for the newest one
            break
    told = "; ".join(f"{name} {refusal}" for name, refusal in sorted(refusals.items()))
    if any(one.is_fork or (one.known_size or 0) > ledger.size for one in refusals.values()):
        raise ConsistencyError(
            f"A witness has another history of the ledger {ledger.origin}: {told}.",
            hint="The ledger was rolled back or forked. Restore its newest copy; keep this one as evidence.",
            witnesses=sorted(refusals),
        )
    raise StoreError(
        f"{rule.required} witnesses must cosign the checkpoint of {ledger.origin}, and too few did: {told}.",
        hint="Nothing was published. Check the witnesses under `ledger.witnesses`, then run again.",
        witnesses=sorted(refusals),
    )


def kept_checkpoint(ledger: Ledger, kept: Path, *, at_least: int) -> bytes | None:
    """Return the cosigned checkpoint that is kept, if it covers `at_least` entries and is one of this ledger.

    Raises:
        LedgerError, SignatureError: the file holds something else.
        StoreError: it cannot be read.
    """
    note = _kept(ledger, kept)
    return note if note is not None and _size(note) >= at_least else None


def _ask_all(ledger: Ledger, witnessing: Witnessing, note: bytes) -> tuple[list[str], dict[str, WitnessRefusedError]]:
    """Ask every witness at once; return the lines that some gave, and by name why the others did not."""
    refusals: dict[str, WitnessRefusedError] = {}
    lines: list[str] = []

    def ask(site: WitnessSite) -> list[str] | WitnessRefusedError:
        try:
            return ask_witness(site, note, ledger.prove_consistency, timeout_seconds=witnessing.timeout_seconds)
        except WitnessRefusedError as error:
            return error

    with ThreadPoolExecutor(max_workers=min(16, len(witnessing.sites))) as pool:
        for site, answer in zip(witnessing.sites, pool.map(ask, witnessing.sites), strict=True):
            if isinstance(answer, WitnessRefusedError):
                refusals[site.name] = answer
            else:
                lines += answer
    return lines, refusals


def _is_enough(note: bytes, rule: WitnessRule) -> bool:
    try:
        require_witnesses(note, rule)
    except SignatureError:
        return False
    return True


def _size(note: bytes) -> int:
    return parse_checkpoint(parse_note(note).text).size


def _kept(ledger: Ledger, path: Path) -> bytes | None:
    """Return what is kept, if the ledger signed it; None if nothing is."""
    note = LastSeen(path).read()
    if note is not None:
        verify_checkpoint(note[: MAX_NOTE_BYTES + 1], ledger.vkeys)
    return note
