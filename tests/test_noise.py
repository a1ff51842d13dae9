from __future__ import annotations

import numpy as np
import pytest
import torch

from gym_dream.noise import WORD, RowNoise, box_muller, philox

# Random123's tests/kat_vectors, the lines of philox4x32 with 10 rounds: counter, key, expected output.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def noise(keys: list[int], counters: list[int]) -> RowNoise:
    return RowNoise(torch.tensor(keys), torch.tensor(counters))


def test_philox_gives_the_known_answers() -> None:
    counter, key, expected = (
        torch.tensor([words(line[column]) for line in KNOWN_ANSWERS]) for column in range(3)
    )  # (3, 4), (3, 2), (3, 4)
    even, odd = philox(counter[:, 0::2, None], counter[:, 1::2, None], key[..., None])
    assert torch.equal(torch.stack((even, odd), dim=2).flatten(1), expected)


def test_the_whole_key_and_counter_matter() -> None:
    base = noise([7], [9]).words(8)
    for bit in (0, 31, 32, 62):
        assert not torch.equal(base, noise([7 ^ 1 << bit], [9]).words(8))
        assert not torch.equal(base, noise([7], [9 ^ 1 << bit]).words(8))
    assert not torch.equal(base, noise([-7], [9]).words(8))


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_a_row_depends_on_its_own_stream_alone(draw: str) -> None:
    keys, counters = list(range(100, 133)), list(range(33))
    batch = getattr(noise(keys, counters), draw)((3, 37, 5))
    for row in (0, 13, 32):
        alone = getattr(noise([keys[row]], [counters[row]]), draw)((3, 37, 5))
        assert torch.equal(batch[row], alone[0])


def test_draws_rows_and_steps_do_not_repeat() -> None:
    streams = noise([1, 2, 1, 1], [5, 5, 6, 1 << 32])
    drawn = torch.cat([streams.words(1000) for _ in range(3)], dim=1)
    assert len(drawn.unique()) > 0.999 * drawn.numel()


def test_the_same_streams_draw_the_same() -> None:
    first, second = noise([3, 4], [1, 1]), noise([3, 4], [1, 1])
    for _ in range(2):
        assert torch.equal(first.normal((5,)), second.normal((5,)))
        assert torch.equal(first.uniform(()), second.uniform(()))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3)])
def test_shapes_and_types(shape: tuple[int, ...]) -> None:
    streams = noise([1, 2, 3], [0, 0, 0])
    for numbers in (streams.normal(shape), streams.uniform(shape)):
        assert numbers.shape == (3, *shape)
        assert numbers.dtype == torch.float32


def test_normals_are_standard_normal() -> None:
    normals = noise(list(range(64)), [1] * 64).normal((3, 64, 64)).double()
    count = normals.numel()
    assert normals.isfinite().all()
    # Standard errors of the first four moments: 1, sqrt 2, sqrt 15, sqrt 96 over sqrt(count).
    for power, (expected, deviation) in enumerate([(0, 1), (1, 2**0.5), (0, 15**0.5), (3, 96**0.5)], start=1):
        assert abs((normals**power).mean() - expected) < 5 * deviation / count**0.5
    within = [(normals.abs() < limit).double().mean().item() for limit in (0.6745, 1.96, 3.0)]
    assert within == pytest.approx([0.5, 0.95, 0.9973], abs=2e-3)
    # Neither neighbouring numbers nor neighbouring rows hang together, the two of a Box-Muller pair included.
    flat = normals.flatten(1)
    half = flat.shape[1] // 2
    for a, b in ((flat[:, 1:], flat[:, :-1]), (flat[1:], flat[:-1]), (flat[:, half:], flat[:, :half])):
        assert abs((a * b).mean()) < 5 / a.numel() ** 0.5


def test_normals_are_finite_for_every_word() -> None:
    words = torch.tensor([0, 1, 1 << 31, WORD - 1, WORD])
    normals = torch.stack(box_muller(*torch.cartesian_prod(words, words).unbind(dim=1)))
    assert normals.isfinite().all()
    assert 6 < normals.abs().max() < 7


def test_uniforms_are_uniform_below_one() -> None:
    uniforms = noise(list(range(64)), [1] * 64).uniform((4096,))
    assert uniforms.min() >= 0 and uniforms.max() < 1
    counts = np.histogram(uniforms.numpy(), bins=32, range=(0, 1))[0]
    expected = uniforms.numel() / 32
    assert ((counts - expected) ** 2 / expected).sum() < 31 + 5 * (2 * 31) ** 0.5  # chi-squared, 31 degrees of freedom


def test_streams_must_be_int64_of_one_shape() -> None:
    with pytest.raises(ValueError, match=r"int64 of one shape \(B,\).*float32 \(2,\)"):
        RowNoise(torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"int64 \(2,\) and torch.int64 \(3,\)"):
        noise([1, 2], [1, 2, 3])
