"""The 26 games of the Atari 100k benchmark."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Game:
    """One Atari game.

    Attributes:
        name: as in ALE's ids, e.g. ``"Breakout"`` for ``"ALE/Breakout-v5"``.
        actions: size of the game's minimal action set.
    """

    name: str
    actions: int


GAMES: tuple[Game, ...] = (
    Game("Alien", 18),
    Game("Amidar", 10),
    Game("Assault", 7),
    Game("Asterix", 9),
    Game("BankHeist", 18),
    Game("BattleZone", 18),
    Game("Boxing", 18),
    Game("Breakout", 4),
    Game("ChopperCommand", 18),
    Game("CrazyClimber", 9),
    Game("DemonAttack", 6),
    Game("Freeway", 3),
    Game("Frostbite", 18),
    Game("Gopher", 8),
    Game("Hero", 18),
    Game("Jamesbond", 18),
    Game("Kangaroo", 18),
    Game("Krull", 18),
    Game("KungFuMaster", 14),
    Game("MsPacman", 9),
    Game("Pong", 6),
    Game("PrivateEye", 18),
    Game("Qbert", 6),
    Game("RoadRunner", 18),
    Game("Seaquest", 18),
    Game("UpNDown", 6),
)


def find_game(name: str) -> Game:
    """The game of that name, whatever its case and separators: ``"MsPacman"``, ``"ms_pacman"``, ``"ms-pacman"``.

    Raises:
        ValueError: no game of the benchmark has that name; the message lists close names.
    """
    games = {_key(game.name): game for game in GAMES}
    key = _key(name)
    if key in games:
        return games[key]
    close = [games[match].name for match in difflib.get_close_matches(key, games, n=3, cutoff=0.5)]
    hint = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(game.name for game in GAMES)}."
    raise ValueError(f"Unknown game {name!r}: expected one of the 26 Atari 100k games. {hint}")


def _key(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
