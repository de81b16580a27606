"""How many worker processes the local runner starts: none while they would cost more than they save.

A worker process is a Python of its own that loads Beam: 4 to 6 CPU-seconds before it reads anything (docs/runners.md).
So the rule counts the bytes that all passes will read, which is known before anything starts:

  1. Up to `BYTES_A_WORKER` of reads the work is done in this process, and no other is started.
  2. Above that, one process for each `BYTES_A_WORKER`, but not more than there are cores, and files or spans of
     large ones, nor than memory has room for at `MEMORY_A_WORKER` each.

The number of workers changes no verdict, so the rule may depend on the machine.
"""

import os
from pathlib import Path

#: Reads that take one core about 30 seconds: 295 MB of rows six times over take 12 to 15 (bench/scale.py, 1e6 rows).
BYTES_A_WORKER = 4 << 30
#: What docs/scale.md allows a worker.
MEMORY_A_WORKER = 2 << 30

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def worker_count(read_bytes: int, units: int, *, cores: int | None = None, memory_bytes: int | None = None) -> int:
    """Return how many local worker processes suit the work; 1 means this process alone.

    Args:
        read_bytes: bytes of all files times the number of reads.
        units: files, and spans of large ones (splitting.py).
        cores: that this process may use; found out where None.
        memory_bytes: of the machine; found out where None.
    """
    wanted = -(-read_bytes // BYTES_A_WORKER) if read_bytes > BYTES_A_WORKER else 1
    room = (_memory_bytes() if memory_bytes is None else memory_bytes) // MEMORY_A_WORKER
    return max(1, min(wanted, _cores() if cores is None else cores, units, room))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_bytes() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such limit here, or it says "max"
        return physical
