"""How many distinct values: HyperLogLog over keyed hashes, mergeable in any order to the bit.

4096 registers of one byte; standard error 1.04 / sqrt(4096) = 1.6 %.
Source: Flajolet, Fusy, Gandouet, Meunier, AofA 2007 (the registers); Ertl, arXiv:1702.01284, section 4, algorithm 6
(the estimate, which needs no table of biases and no change of method between small and large counts).
"""

import math

import numpy as np

PRECISION = 12
REGISTERS = 1 << PRECISION
#: Bits of a hash behind those that choose the register; a register holds at most one more.
_TAIL = 64 - PRECISION
MAX_RANK = _TAIL + 1


def registers_of(hashes: np.ndarray) -> np.ndarray:
    """Return the registers of some hashes, uint8 (4096,); 0 where no hash fell.

    Args:
        hashes: uint64 (n,).
    """
    registers = np.zeros(REGISTERS, dtype=np.uint8)
    if len(hashes):
        np.maximum.at(registers, (hashes >> np.uint64(_TAIL)).astype(np.int64), _ranks(hashes))
    return registers


def merge_registers(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the registers of both."""
    return np.maximum(left, right)


def estimate_distinct(registers: np.ndarray) -> float:
    """Return about how many distinct hashes there were; 0.0 of none."""
    counts = np.bincount(registers, minlength=MAX_RANK + 1)
    if counts[0] == REGISTERS:
        return 0.0
    total = REGISTERS * _tau(1 - counts[MAX_RANK] / REGISTERS)
    for rank in range(_TAIL, 0, -1):
        total = (total + float(counts[rank])) / 2
    total += REGISTERS * _sigma(counts[0] / REGISTERS)
    if not total:  # every register is full
        return 2.0**64
    return REGISTERS * REGISTERS / (2 * math.log(2) * total)


def _ranks(hashes: np.ndarray) -> np.ndarray:
    """Return the position of the first set bit of each tail, 1 to 53."""
    tail = hashes & np.uint64((1 << _TAIL) - 1)
    # Whole numbers below 2^52 are exact in float64; frexp of 0 gives 0, so an empty tail has the highest rank.
    return (MAX_RANK - np.frexp(tail.astype(np.float64))[1]).astype(np.uint8)


def _sigma(x: float) -> float:
    power, factor, total = x, 1.0, x
    while True:
        power *= power
        before = total
        total += power * factor
        factor += factor
        if total == before:
            return total


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    factor, total = 1.0, 1 - x
    while True:
        x = math.sqrt(x)
        before = total
        factor /= 2
        total -= (1 - x) ** 2 * factor
        if total == before:
            return total / 3
