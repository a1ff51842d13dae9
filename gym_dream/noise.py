"""Random numbers of which every row of a batch has its own: the Philox4x32-10 generator in tensor operations.

A counter-based generator is a keyed bijection: key and counter in, four random words out, nothing remembered (Salmon et
al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A row's numbers depend on its own key and counter alone,
not on its neighbours, their number or the device; and a whole batch costs no more kernel launches than one row.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)  # golden ratio, sqrt(3) - 1


def philox(even: Tensor, odd: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Philox4x32-10 on a batch of counters; each argument broadcasts to the shape of the result.

    The two halves of a round are the same computation on two lanes, so the lanes lie side by side in one tensor: half
    the kernel launches.

    Args:
        even: words 0 and 2 of the counter, int64 (B, 2, n), each in [0, 2^32).
        odd: words 1 and 3 of the counter, int64 (B, 2, n).
        key: the two words of the key, int64 (B, 2, 1).

    Returns:
        Words 0 and 2, and words 1 and 3, of the random output: int64 (B, 2, n), each in [0, 2^32).
    """
    multipliers, increments, rounds = _constants(even.device)
    for round_key in ((key + increments * rounds) & WORD).unbind():
        # The lane that multiplies word 0 feeds word 2, and the other way round: hence the flip. A product exceeds the
        # signed range, but wraps to the right 64 bits. Its low half may keep the high half above it until the mask.
        product = (even * multipliers).flip(-2)
        even = (product >> 32).bitwise_xor_(odd).bitwise_xor_(round_key).bitwise_and_(WORD)
        odd = product
    return even, odd & WORD


def box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normals, float32, from two random words, int64 in [0, 2^32)."""
    radius = ((a.float() + 0.5) * 2.0**-32).log_().mul_(-2.0).sqrt_()  # half a step above zero, for the logarithm
    angle = b.float() * (2.0**-32 * math.tau)
    return radius * angle.cos(), radius * angle.sin()


class RowNoise:
    """The random numbers of one step: row i draws from a stream fixed by its own key and counter.

    Every call is a new draw, so no number is given twice; the order of the calls decides who gets which.

    Attributes:
        keys: as given.
        counters: as given.
    """

    def __init__(self, keys: Tensor, counters: Tensor) -> None:
        """Open the streams.

        Args:
            keys: int64 (B,), one a stream; any 64 bits.
            counters: int64 (B,), non-negative; the step within the stream. No stream may use a value twice.

        Raises:
            ValueError: keys and counters are not int64 of one shape (B,).
        """
        if not (keys.dtype == counters.dtype == torch.int64 and keys.ndim == 1 and keys.shape == counters.shape):
            raise ValueError(
                f"keys and counters must both be int64 of one shape (B,), got {keys.dtype} {tuple(keys.shape)} "
                f"and {counters.dtype} {tuple(counters.shape)}."
            )
        self.keys, self.counters = keys, counters
        self._key = _words(keys)
        self._low, self._high = _words(counters).unbind(dim=1)
        self._draws = 0

    def words(self, count: int) -> Tensor:
        """Random integers in [0, 2^32): int64 (B, count)."""
        return torch.cat(self._blocks(math.ceil(count / 4)), dim=1).flatten(1)[:, :count]

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Uniform in [0, 1), multiples of 2^-24: float32 (B, *shape)."""
        bits = self.words(math.prod(shape)) >> 8
        return (bits.float() * 2.0**-24).reshape(len(bits), *shape)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal: float32 (B, *shape)."""
        size = math.prod(shape)
        normals = torch.cat(box_muller(*self._blocks(math.ceil(size / 4))), dim=1)
        return normals.flatten(1)[:, :size].reshape(len(normals), *shape)

    def _blocks(self, count: int) -> tuple[Tensor, Tensor]:
        """Four words for each of `count` blocks: two tensors (B, 2, count)."""
        block = torch.arange(count, device=self._low.device).expand(len(self._low), -1)
        even = torch.stack((block, self._low.expand_as(block)), dim=1)
        odd = torch.stack((torch.full_like(self._high, self._draws), self._high), dim=1)
        self._draws += 1
        return philox(even, odd, self._key)


def _words(values: Tensor) -> Tensor:
    """The low and the high 32 bits of int64 (B,): int64 (B, 2, 1)."""
    return torch.stack((values & WORD, (values >> 32) & WORD), dim=1)[..., None]


@functools.cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Multipliers (2, 1), key increments (2, 1) and the round numbers (10, 1, 1, 1)."""
    multipliers = torch.tensor(MULTIPLIERS, device=device)[:, None]
    increments = torch.tensor(KEY_INCREMENTS, device=device)[:, None]
    return multipliers, increments, torch.arange(ROUNDS, device=device)[:, None, None, None]
