"""Independent random streams: one master seed, one stream for each purpose.

Arms that share a seed share the streams named ``"order"`` and ``"initialization"``,
so that comparisons between arms are paired.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream_seed(seed: int, purpose: str, *parts: int | str) -> int:
    """Return a 63-bit seed that depends on the master seed, the purpose and any further parts.

    Args:
        seed: Master seed, any non-negative integer.
        purpose: What the numbers are for, such as ``"order"`` or ``"calibration"``.
        parts: Further distinctions inside one purpose, such as an epoch or a draw.
    """
    text = "\x1f".join([str(int(seed)), purpose, *(str(part) for part in parts)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stream(seed: int, purpose: str, *parts: int | str) -> np.random.Generator:
    """Return an independent NumPy generator for one purpose; see :func:`stream_seed`."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, purpose, *parts)))
