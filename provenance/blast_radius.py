"""Blast radius: what a suspect thing reached. Runs, data sets, certificates, and the models that declared their use."""

from collections.abc import Sequence
from dataclasses import dataclass

from millcert.provenance.declared_use import DeclaredUse, declared_uses
from millcert.provenance.ledger import Ledger
from millcert.provenance.questions import RunRecord, Suspect, runs_touched
from millcert.provenance.standing import JudgedAct, Standing
from millcert.provenance.state import StateFolder


@dataclass(frozen=True)
class BlastRadius:
    """Everything that a suspect reached, oldest first.

    runs: it had a part in them, whatever was decided. models: (use, act, index of the certificate) for each model that
    declared to be trained on the output of one of them.
    """

    runs: tuple[RunRecord, ...]
    models: tuple[tuple[DeclaredUse, JudgedAct, int], ...]

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets."""
        return tuple(sorted({run.roots.dataset for run in self.runs}))

    @property
    def certificates(self) -> tuple[int, ...]:
        """Ledger indexes of the certificates."""
        return tuple(sorted({one.index for run in self.runs for one in run.certificates}))

    @property
    def input_roots(self) -> tuple[str, ...]:
        """Manifest roots of the runs' inputs, hex."""
        return tuple(sorted({run.roots.input_root for run in self.runs}))


def blast_radius(ledger: Ledger, state: StateFolder, suspect: Suspect, standing: Standing) -> BlastRadius:
    """Return what a source, signer, file or check reached.

    Raises:
        StoreError: a file was named, and a run's shard list is not in the state folder.
        LedgerError, IntegrityError: an entry, a list or a declared use is not what the ledger says.

    Cost: reads every run of the ledger; with a file also every run's shard list.
    """
    return radius_of(runs_touched(ledger, state, suspect), standing)


def radius_of(runs: Sequence[RunRecord], standing: Standing) -> BlastRadius:
    """Return what some runs reached."""
    leaves = {one.leaf_hash.hex(): one.index for run in runs for one in run.certificates}
    models = tuple(
        (use, act, leaves[use.certificate]) for use, act in declared_uses(standing) if use.certificate in leaves
    )
    return BlastRadius(tuple(runs), models)
