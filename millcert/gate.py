"""The gate as one call: what `millcert vet` does, for a notebook or another program."""

from pathlib import Path

from millcert.pipelines.driver import Published, VetOptions, VetResult, Watcher, vet_dataset
from millcert.policy import LoadedPolicy, load_policy


def vet(policy: Path | LoadedPolicy, options: VetOptions, *, watcher: Watcher | None = None) -> VetResult:
    """Run the gate over a data set: verify, record, expect, detect, decide, certify, report, publish.

    Args:
        policy: a policy file, or one that is loaded already.
        options: the data, where to publish, and how to run.
        watcher: is told how the run goes.

    Raises:
        MillcertError: by its class (design: verdict and exit codes); nothing is published then. A rejection is a
        verdict.
    """
    loaded = load_policy(policy) if isinstance(policy, Path) else policy

    def report(published: Published) -> str:
        from millcert.report.build import build_report  # loads templates only when there is something to report

        return build_report(published, loaded.policy.dataset.images)

    return vet_dataset(loaded, options, render_report=report, watcher=watcher)
