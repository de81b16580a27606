"""Fuzz all that verifies, and all that only reads; prints what came of 100,000 mutants.

Claim: none leaks an exception that is not ours, and none is accepted unless it says the same as the good document. Of
what is read and never believed (`source inspect`, lists of addresses) only the first is claimed.

    python bench/fuzz_provenance.py [--mutants 100000] [--seed 1]
"""

import argparse
import sys
import time
from collections import Counter

from millcert.testing.sigstore_fuzz import fuzz, read_documents, read_targets, targets


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    attacked = [*targets(), *read_targets({f"read: {name}": data for name, data in read_documents().items()})]
    refused: Counter[str] = Counter()
    finds = 0
    start = time.process_time()
    for target in attacked:
        tally = fuzz(target, seed=options.seed, count=options.mutants // len(attacked))
        refused += tally.refused
        finds += len(tally.finds)
        counts = f"refused {sum(tally.refused.values()):>7,}  the same {tally.same:>6,}  finds {len(tally.finds)}"
        print(f"{target.name:<34} {counts}", flush=True)
        for what, mutant in tally.finds[:5]:
            print(f"    {what[:200]}\n    {mutant[:2000]!r}")
    print(f"refused as: {', '.join(f'{code} {count:,}' for code, count in refused.most_common())}")
    print(f"{finds} finds in {options.mutants:,} mutants, {time.process_time() - start:.0f} CPU-s")
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
