"""A program that draws from the mapped play of a folder and prints what that took.

It is a process of its own because memory is measured: where other tests ran before, what is read may go where the
allocator still holds memory that they gave back, and the process does not grow.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import safetensors.torch  # noqa: F401 - mapping imports it, which takes more memory than is measured

from gym_dream.data import Episode, EpisodeStore, SegmentSampler


def private_memory() -> int:
    """Bytes of this process that no file on disk stands for."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def drawn_from(episodes: list[Episode]) -> SegmentSampler:
    """A sampler that has drawn about everything, a little at a time."""
    sampler, rng = SegmentSampler(episodes, 6, beyond_end=False), np.random.default_rng(0)
    for _ in range(sum(map(len, episodes)) // 16):
        sampler.sample(16, rng)
    return sampler


def main(folder: Path) -> dict[str, int]:
    store = EpisodeStore(folder)
    memory, files = private_memory(), open_files()
    episodes = store.load_all(mapped=True)
    sampler = drawn_from(episodes)  # with all that it keeps
    drawn = private_memory() - memory
    maps = Path("/proc/self/maps").read_text()
    found = {
        "frames": sum(episode.frames.nbytes for episode in episodes),
        "drawn": drawn,
        "mapped": sum(str(path) in maps for path in store.paths),
        "opened": open_files() - files,
    }
    del sampler
    whole = [episode.frames.copy() for episode in episodes]
    return found | {"read": private_memory() - memory - drawn, "copies": sum(frames.nbytes for frames in whole)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
