from __future__ import annotations

import re
import shlex
import typing
from pathlib import Path

import pytest

from gym_dream import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_can_be_typed(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in typing.get_args(cli.Verb):
        monkeypatch.setattr(verb, "__call__", lambda self: None)
    shell = "\n".join(blocks(page, "sh")).replace("\\\n", "")
    for command in re.findall(r"gym-dream ([^&|\n]*)", shell):
        assert cli.main(shlex.split(command, comments=True)) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


def test_readme_names_the_two_commands() -> None:
    shell = blocks(ROOT / "README.md", "sh")
    assert shell[0].split("#")[0].strip() == "pip install -c constraints.txt -e . && gym-dream demo"
    assert shell[1].split("#")[0].strip() == "pip install -c constraints.txt -e '.[dev]' && pytest"


def test_constraints_pin_what_the_package_asks_for() -> None:
    def names(text: str) -> set[str]:
        return {re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r"^\s*\"?([A-Za-z][\w.-]*)", text, re.M)}

    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.scripts]")[0]
    asked = re.findall(r"\"([A-Za-z][\w.-]*)(?:\[[\w,]*\])?>=", project.split("dependencies = [")[1])
    pinned = names((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert names("\n".join(asked)) - pinned == set()
