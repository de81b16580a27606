"""millcert: a gate in front of training that issues a signed certificate for each data set.

The names in `__all__` are the public API; each is imported when it is first used (PEP 562), so `import millcert` costs
nothing and `verify_certificate` never loads the engine that runs the checks.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from millcert.checks.base import Check as Check
    from millcert.errors import MillcertError as MillcertError
    from millcert.gate import vet as vet
    from millcert.pipelines.driver import VetOptions as VetOptions
    from millcert.policy import LoadedPolicy as LoadedPolicy
    from millcert.policy import Policy as Policy
    from millcert.policy import load_policy as load_policy
    from millcert.provenance.certificate import verify_certificate as verify_certificate
    from millcert.provenance.evidence_verify import verify_evidence as verify_evidence
    from millcert.verdict import Verdict as Verdict

__version__ = "0.1.0"

__all__ = [
    "Check",
    "LoadedPolicy",
    "MillcertError",
    "Policy",
    "Verdict",
    "VetOptions",
    "__version__",
    "load_policy",
    "verify_certificate",
    "verify_evidence",
    "vet",
]

_HOMES = {
    "Check": "millcert.checks.base:Check",
    "LoadedPolicy": "millcert.policy:LoadedPolicy",
    "MillcertError": "millcert.errors:MillcertError",
    "Policy": "millcert.policy:Policy",
    "VetOptions": "millcert.pipelines.driver:VetOptions",
    "Verdict": "millcert.verdict:Verdict",
    "load_policy": "millcert.policy:load_policy",
    "verify_certificate": "millcert.provenance.certificate:verify_certificate",
    "verify_evidence": "millcert.provenance.evidence_verify:verify_evidence",
    "vet": "millcert.gate:vet",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'millcert' has no attribute {name!r}")
    module, _, attribute = home.partition(":")
    value: object = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
