"""Played episodes on disk, so that an interrupted comparison goes on where it was."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gym_dream.evaluation.play import EpisodeResult
from gym_dream.files import digest, read_json, write_json


class KeptEpisodes:
    """A folder of played episodes, a file for each policy and world, all played with the same settings."""

    def __init__(self, out: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Open the folder.

        Args:
            out: the folder of the evaluation; the episodes go into its subfolder ``episodes``.
            settings: JSON-able; all that the episodes depend on beside the policy.
            resume: go on in a folder that holds some.

        Raises:
            FileExistsError: the folder holds an evaluation or another report, and ``resume`` is not set.
            ValueError: what it holds was played with other settings.
        """
        self._folder = out / "episodes"
        path = self._folder / "settings.json"
        if not path.exists():
            if (out / "report.json").exists():
                raise FileExistsError(f"{out} holds a report of something else: choose another folder (--out).")
            write_json(path, dict(settings))
            return
        if not resume:
            raise FileExistsError(f"{out} already holds an evaluation. Go on with it by --resume, or choose another.")
        there = read_json(path)
        if not isinstance(there, dict):
            raise ValueError(f"{path} does not hold the settings of an evaluation: choose another folder.")
        if there != settings:
            other = [f"{name} {there.get(name)!r}" for name in settings if there.get(name) != settings[name]]
            raise ValueError(f"{out} was begun with other settings ({', '.join(other)}): choose another folder.")

    def read(self, policy: str, world: str, episodes: int) -> list[EpisodeResult] | None:
        """The episodes of a policy in a world; None if they were not played yet.

        Raises:
            ValueError: the file holds something else, or the policy's own file has changed since.
        """
        path = self._path(policy, world)
        if not path.exists():
            return None
        advice = "remove it, and they are played again"
        try:
            stored = read_json(path)
            if stored["policy"] != policy or stored["digest"] != _digest_of(policy):
                raise ValueError(f"{path} holds episodes of {stored['policy']} as it was then: {advice}.")
            results = [
                EpisodeResult(**e | {"rewards": tuple((int(s), float(r)) for s, r in e["rewards"])})
                for e in stored["episodes"]
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} does not hold played episodes: {advice}.") from error
        if len(results) != episodes:
            raise ValueError(f"{path} holds {len(results)} episodes, expected {episodes}: {advice}.")
        return results

    def write(self, policy: str, world: str, results: Sequence[EpisodeResult]) -> None:
        """Keep the episodes of a policy in a world."""
        played = [asdict(result) for result in results]
        content = {"policy": policy, "digest": _digest_of(policy), "episodes": played}
        write_json(self._path(policy, world), content)

    def _path(self, policy: str, world: str) -> Path:
        name = hashlib.sha256(policy.encode()).hexdigest()[:8]  # names of files may differ in what is replaced here
        return self._folder / f"{re.sub(r'[^A-Za-z0-9.=,+-]', '_', policy)}-{name}-{world}.json"


def _digest_of(policy: str) -> str:
    """Of the files that the policy is made of, if there are some; an agent that ships is known by its name."""
    base = policy.partition("+epsilon=")[0]
    if agent := re.fullmatch(r"agent(?:\(greedy\))?:(.*)", base):
        return digest([*Path(agent[1]).glob("*.safetensors"), *Path(agent[1]).glob("config.json")])
    return digest([Path(base.removeprefix("sb3:"))]) if base.startswith("sb3:") else ""
