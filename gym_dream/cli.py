"""The command line: `gym-dream VERB …`. Heavy modules are imported by the verb that needs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from gymnasium.error import Error as GymnasiumError

from gym_dream import pretrained
from gym_dream.games import GAMES

if TYPE_CHECKING:
    from gym_dream.benchmark.agents import TimedDream
    from gym_dream.policy import Policy
    from gym_dream.world_model import WorldModel

Precision = Literal["auto", "float32", "bfloat16", "float16"]
DreamPrecision = Precision | Literal["int8"]
# Errors whose message tells what to do; of any other, users should see where it came from.
EXPLAINED = (ValueError, OSError, ImportError, FloatingPointError, GymnasiumError)

DESCRIPTION = """Trained world models as Gymnasium environments. `gym-dream VERB --help` explains a verb.

A policy given as sb3:FILE.zip is loaded by Stable-Baselines3, which unpickles it: a file from a stranger can run any
program on your machine. Nothing else is ever unpickled."""


@dataclass(frozen=True)
class Demo:
    """Play a dream and the real game side by side, write them as a video and compare them in a small table."""

    model: str = "breakout"
    """The world model: one that ships (see `gym-dream list`), a folder, or hub:organisation/name[@revision]."""
    policy: str | None = None
    """What plays in both: agent:FOLDER, an agent that learnt, or agent(greedy):FOLDER; scripted or
    scripted(noise=0.1,lag=2), for Breakout only; random; persistent(repeat=0.9), random actions held for a while; or
    sb3:FILE.zip (unpickled: trust it). Each may end in +epsilon=0.1 for a share of random actions. By default the agent
    that ships for the environment, agent:breakout; random where none does."""
    steps: int = 300
    """How many, in each world; 15 are a second of the game."""
    out: Path = Path("demo.gif")
    """The video, .gif or .mp4; the dream is on the left."""
    seed: int = 0
    """Of the dream, the game and the policy."""
    device: str = "auto"
    """Where the dream runs, e.g. cpu or cuda."""
    precision: Precision = "auto"
    """Of the dream's networks; auto: bfloat16 where the hardware has it."""

    def __call__(self) -> None:
        from gym_dream.demo import demo
        from gym_dream.world_model import WorldModel

        world_model = WorldModel.load(self.model)
        played = demo(
            world_model,
            _player(self.policy, world_model.config.env),
            self.out,
            steps=self.steps,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
        )
        _print_table(
            ("", "steps/s", "return", "lives ended"),
            [(n, f"{p.steps_per_second:.1f}", f"{p.total_return:g}", str(p.lives)) for n, p in played.items()],
        )
        print(f"\nThe return is the sum of the rewards' signs. Wrote {self.out}.")


@dataclass(frozen=True)
class Play:
    """Play a dream and the real game in a window, yourself or by a policy; switch between them at any time.

    The window shows its keys. By key are recorded: films of both worlds, episodes of the real game. It needs pygame:
    pip install 'gym-dream[play]'.
    """

    env: tyro.conf.Positional[str] = "Dream/Breakout-v0"
    """The id of the dream."""
    model: str | None = None
    """A world model in place of the id's own: a folder, a name that ships, or hub:organisation/name[@revision]."""
    policy: str | None = None
    """What plays when you do not: agent:FOLDER, an agent that learnt, or agent(greedy):FOLDER; scripted or
    scripted(noise=0.1,lag=2), for Breakout only; random; persistent(repeat=0.9), random actions held for a while; or
    sb3:FILE.zip (unpickled: trust it). Each may end in +epsilon=0.1 for a share of random actions. By default the agent
    that ships for the environment, agent:breakout; random where none does."""
    world: Literal["dream", "real"] = "dream"
    """The one to begin in."""
    horizon: int = 1000
    """Steps until a dream is cut off; -1 for never."""
    denoising_steps: int | None = None
    """Passes of the denoiser a frame; by default the model's own setting."""
    fps: int = 15
    """Steps a second; 15 are the game's own pace."""
    video: Path = Path("play.mp4")
    """Where the films go that are recorded by key, .gif or .mp4; a number is added where a file is."""
    episodes: Path = Path("episodes")
    """The folder of the episodes of the real game that are recorded by key, for `gym-dream fit`."""
    record: Path | None = None
    """Open no window: let the policy play and write this film, .gif or .mp4."""
    steps: int = 300
    """How many to record without a window."""
    seed: int = 0
    """Of games and policy; game i is played with seed + i."""
    device: str = "auto"
    """Where the dream runs, e.g. cpu or cuda."""
    precision: DreamPrecision = "auto"
    """Of the dream's networks; auto: bfloat16 where the hardware has it. int8: for some CPUs, compiled."""
    compile: bool = False
    """Compile the networks: a slow first minute, faster ever after."""

    def __call__(self) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        if self.record is not None:
            self._film(self.record)
            return
        from gym_dream.play.screen import Screen

        with Screen("gym-dream play") as screen:  # the model is loaded only if there is a window
            from gym_dream.play.loop import play

            world_model, policy, settings = self._opened()
            out = {"video": self.video, "episodes": self.episodes}
            written = play(screen, world_model, policy, fps=self.fps, **out, **settings)
        if written:
            print(f"Wrote {', '.join(map(str, written))}.")

    def _film(self, out: Path) -> None:
        from gym_dream.play.loop import record

        world_model, policy, settings = self._opened()
        played = record(world_model, policy, out, steps=self.steps, **settings)
        _print_table(
            ("", "steps/s", "return", "episodes ended"),
            [(self.world, f"{played.steps_per_second:.1f}", f"{played.total_return:g}", str(played.lives))],
        )
        print(f"\nThe return is the sum of the rewards' signs. Wrote {out}.")

    def _opened(self) -> tuple[WorldModel, Policy, dict[str, Any]]:
        """The model, the policy, and the settings with and without a window."""
        from gym_dream.registration import model_of
        from gym_dream.world_model import WorldModel

        world_model = WorldModel.load(self.model or model_of(self.env))
        env = world_model.config.env
        names = ("world", "horizon", "seed", "device", "precision", "compile")
        settings = {name: getattr(self, name) for name in names}
        if self.denoising_steps is not None:
            settings["model_kwargs"] = {"num_denoising_steps": self.denoising_steps}
        return world_model, _player(self.policy, env), settings


@dataclass(frozen=True)
class List:
    """List the games, which of them ship with a trained world model, and how to make the others."""

    def __call__(self) -> None:
        shipped = {path.parent.name for path in Path(pretrained.__path__[0]).glob("*/config.json")}
        rows = [
            (f"Dream/{game.name}-v0", str(game.actions), "ships" if game.name.lower() in shipped else "-")
            for game in GAMES
        ]
        _print_table(("id", "actions", "model"), rows)
        print(
            "\nWhat ships is ready for gymnasium.make(id). For another game:\n"
            "  gym-dream collect --game GAME --policy random --steps 60000 --out DATA\n"
            "  gym-dream fit --data DATA --out RUN --minutes 600\n"
            '  gymnasium.make("DreamEnv-v0", model="RUN/world_model")'
        )


@dataclass(frozen=True)
class Collect:
    """Record play of a real game. Appends to what is there; Ctrl-C ends it early and keeps every finished step."""

    game: str
    """One of the 26 games of `gym-dream list`, e.g. Breakout."""
    steps: int
    """How many to add."""
    out: Path
    """The folder of episodes."""
    policy: str = "random"
    """What plays: random; persistent(repeat=0.9), random actions held for a while; scripted or
    scripted(noise=0.1,lag=2), for Breakout only; agent:FOLDER or agent(greedy):FOLDER; or sb3:FILE.zip (unpickled:
    trust it)."""
    epsilon: tuple[float, ...] = (0.0,)
    """Probability of a random action at each step; several levels share the steps equally."""
    seed: int = 0
    """Game i of the folder is played with seed + i."""
    max_game_steps: int | None = None
    """Cut off a game after so many recorded steps; -1 for no limit."""
    last_bricks: int | None = None
    """Breakout only: begin each game with at most this many bricks left of the first wall, so that second walls are
    recorded. Record ordinary games into the same folder, too: dreams start as those do."""

    def __call__(self) -> None:
        from gym_dream import real
        from gym_dream.data.collect import collect
        from gym_dream.data.last_bricks import LastBricks

        done = collect(
            self.game,
            _load_policy(self.policy, real.env_spec(self.game), source="ram"),
            self.steps,
            self.out,
            epsilon=self.epsilon,
            seed=self.seed,
            max_game_steps=self.max_game_steps,
            wrapper=None if self.last_bricks is None else partial(LastBricks, most=self.last_bricks),
        )
        print(f"Added {done.steps} steps to {self.out}, in games: {done.games}.")
        if done.interrupted:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Fit:
    """Train a world model on recorded play. Ctrl-C saves and stops; --resume goes on as if it had never stopped.

    On N GPUs (or processes), each with its share of every batch:
    torchrun --nproc-per-node N -m gym_dream.cli fit …
    On several machines add torchrun's --nnodes and --rdzv-endpoint; OUT must lie in a folder that all of them share.
    After Ctrl-C, torchrun leaves half a minute to save.
    """

    out: Path
    """The run folder: checkpoint, logs for TensorBoard, and the world model in OUT/world_model."""
    data: Path | None = None
    """The folder that `gym-dream collect` wrote; needed unless the run is resumed."""
    preset: Literal["small", "diamond-atari"] = "small"
    """small: hours on two CPU cores. diamond-atari: the paper's networks and schedule, for a GPU."""
    steps: int | None = None
    """Train until so many updates are done, those before a resume included; give either steps or minutes."""
    minutes: float | None = None
    """Train for so long, the time before a resume included."""
    init: str | None = None
    """Begin with the weights of this world model: a name that ships, a folder, or hub:organisation/name[@revision]."""
    teacher: str | None = None
    """Distil this world model to one denoising step a frame: begin with its weights (or those of --init) and learn
    to draw in a single pass what it draws in several, or what really came as long as that can be foreseen."""
    resume: bool = False
    """Go on with the run in OUT, with the settings it was begun with."""
    training: dict[str, int | float] = field(default_factory=dict)
    """Settings that differ from the preset's, e.g. --training batch_size 16 weight_decay 0.1; they are the fields of
    gym_dream.trainers.presets.TrainingConfig."""
    held_out_fraction: float = 0.06
    """Share of the games that is kept for measuring and for the dreams' starts; training never sees them."""
    seed: int = 0
    """Of networks, held-out games, batches and noise."""
    device: str = "auto"
    """Where to train, e.g. cpu or cuda."""
    precision: Precision = "auto"
    """Of the networks' arithmetic; auto: bfloat16 where the hardware has it."""
    compile: bool = False
    """Compile the networks: a slow first minute, faster ever after."""
    checkpoint_minutes: float = 5.0
    """Time between checkpoints, the most that a crash can cost."""
    accumulate: int = 1
    """Pieces to work through a batch in, if the device has no room for all of it at once; the result is the same."""

    def __call__(self) -> None:
        from gym_dream.trainers.processes import is_first
        from gym_dream.trainers.run import fit

        folder = fit(**vars(self))
        if is_first():
            print(f'Wrote {folder}: gymnasium.make("DreamEnv-v0", model="{folder}").')


@dataclass(frozen=True)
class Train:
    """Learn a game in dreams: play a little, fit the world model, train the agent in its dreams, and again.

    Ctrl-C saves and stops (a second one just stops); --resume goes on as if it had never stopped, also after a crash.
    At the end the agent plays the real game beside random play; see OUT/report.md.

    Presets:
    diamond-100k: DIAMOND's networks (4.4M + 5.9M + 3.2M parameters) and schedule: 5,000 to 10,000 real steps, then 100
    an epoch up to 100,000, 400 updates of each network an epoch (10,000 and 5,000 in the first), 32 dreams; days on a
    GPU.
    laptop: 2.3M + 1.2M + 0.6M parameters; 20,000 to 30,000 real steps, then 5,000 an epoch up to 100,000; 300 updates
    of the world model and 120 of the agent, by PPO, an epoch (1,500 and 120 in the first), 16 dreams of up to 200
    steps, half of them from a life's start; hours on two CPU cores.
    smoke: tiny networks that learn next to nothing, 600 real steps: to see that everything runs, in minutes.

    On N GPUs (or processes): torchrun --nproc-per-node N -m gym_dream.cli train …
    """

    out: Path
    """The run folder: episodes, world_model, agent, checkpoint, learning curve, logs for TensorBoard, report."""
    game: str | None = None
    """One of the 26 games of `gym-dream list`, e.g. Breakout; needed unless the run is resumed."""
    preset: Literal["diamond-100k", "laptop", "smoke"] = "laptop"
    """Networks and schedule, see above."""
    resume: bool = False
    """Go on with the run in OUT, with the settings it was begun with."""
    seed: int = 0
    """Of everything random."""
    device: str = "auto"
    """Where networks train and dream, e.g. cpu or cuda."""
    precision: Precision = "auto"
    """Of the networks' arithmetic; auto: bfloat16 where the hardware has it."""
    compile: bool = False
    """Compile the networks: a slow first minute, faster ever after."""
    schedule: dict[str, int | float] = field(default_factory=dict)
    """Settings of a new run that differ from the preset's, e.g. --schedule total_steps 50000 test_every 5; they are the
    fields of gym_dream.trainers.schedules.Schedule."""
    checkpoint_minutes: float = 5.0
    """Time between checkpoints, the most that a crash can cost."""

    def __call__(self) -> None:
        from gym_dream import real
        from gym_dream.agents import AgentPolicy
        from gym_dream.configuration import from_json, to_json
        from gym_dream.trainers.outer_loop import is_final, stored_config, train
        from gym_dream.trainers.processes import is_first
        from gym_dream.trainers.schedules import LOOPS, Schedule

        if self.resume:
            if self.schedule:
                raise ValueError("--schedule is for a new run; --resume goes on with the schedule that the run has.")
            config = stored_config(self.out)
            there = config.world_model.env["game"]
            if self.game is not None and real.ale_id(self.game) != real.ale_id(there):
                raise ValueError(f"{self.out} learns {there}, not {self.game}. Choose another --out for {self.game}.")
        elif self.game is None:
            raise ValueError("Say which game to learn (--game Breakout), or --resume a run.")
        else:
            config = LOOPS[self.preset].config(self.preset, real.env_spec(self.game), self.seed)
            schedule = from_json(Schedule, to_json(config.schedule) | self.schedule, "--schedule")
            config = replace(config, schedule=schedule)
        env = config.world_model.env
        sticky = env["repeat_action_probability"]
        curve = train(
            self.out,
            config,
            AgentPolicy.of_size(env, config.agent, config.seed),
            partial(real.make, env["game"], ending="game", repeat_action_probability=sticky),
            resume=self.resume,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            checkpoint_minutes=self.checkpoint_minutes,
        )
        if not is_first():
            return
        if is_final(curve):
            print((self.out / "report.md").read_text(encoding="utf-8"))
            print(f"Wrote {self.out}/report.md.")
        else:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Card:
    """Measure a world model on held-out real games; write its model card and the contact sheet of real above dream."""

    model: str
    """The world model: a folder, a name that ships, or hub:organisation/name[@revision]."""
    data: Path
    """The episodes that it was trained on; measured are those that the training held out."""
    out: Path
    """The folder that gets README.md and contact_sheet.png; may be the model's own."""
    runs: tuple[Path, ...] = ()
    """The run folders that led to the model, in their order; by default the one that the model lies in."""
    held_out: Path | None = None
    """Episodes that no training has ever seen, to measure on instead."""
    hardware_text: str = ""
    """What the model was trained on; by default this machine."""
    evaluation: Path | None = None
    """The folder that `gym-dream evaluate` wrote for the model, to be quoted."""
    commands: Path | None = None
    """A file with the shell commands that made the model, to be quoted."""
    windows: int = 48
    """Dreams to compare with what really happened."""
    denoising_steps: tuple[int, ...] = (1, 3)
    """Passes of the denoiser a frame to compare; the model's own setting is added."""
    seed: int = 0
    """Of the choice of windows and of the dreams."""
    device: str = "auto"
    """Where the dreams run, e.g. cpu or cuda."""
    compile: bool = False
    """Compile the networks: worth a minute's wait for many windows."""

    def __call__(self) -> None:
        from gym_dream.evaluation.card import write_card

        print(f"Wrote {write_card(**vars(self))}.")


@dataclass(frozen=True)
class Evaluate:
    """Play policies in a dream and in the real game and compare their returns; write report.json and a page of plots.

    Ctrl-C keeps what is played; --resume goes on. With --suite atari100k instead: the report on a folder of scores.
    """

    env: str = "Dream/Breakout-v0"
    """The id of the dream."""
    out: Path = Path("evaluation")
    """The folder of the report, and of the episodes played."""
    policies: tuple[str, ...] | None = None
    """What plays in both worlds; by default random, persistent and, for Breakout, scripted players. random;
    persistent(repeat=0.9), random actions held for a while; scripted or scripted(noise=0.1,lag=2), for Breakout only;
    agent:FOLDER or agent(greedy):FOLDER; or sb3:FILE.zip (unpickled: trust it)."""
    epsilon: tuple[float, ...] = (0.0, 0.1, 0.3, 0.6)
    """Each policy plays once with each share of random actions; random and persistent play once."""
    model: str | None = None
    """A world model in place of the id's own: a folder, a name that ships, or hub:organisation/name[@revision]."""
    episodes: int = 24
    """Of each policy, in the dream."""
    real_episodes: int = 100
    """Of each policy, in the game."""
    horizon: int = 200
    """Steps after which an episode is cut off, in either world."""
    num_envs: int = 8
    """Games at a time."""
    starts: str | None = None
    """A folder of recorded games that were held out from training, to begin from; by default the model's own starts."""
    model_kwargs: dict[str, int | float] = field(default_factory=dict)
    """The model's own settings, e.g. --model-kwargs num_denoising_steps 1."""
    seed: int = 0
    """Of the worlds (episode i draws from seed + i) and of the policies."""
    device: str = "auto"
    """Where the dreams run, e.g. cpu or cuda."""
    precision: Precision = "auto"
    """Of the dream's networks; auto: bfloat16 where the hardware has it."""
    resume: bool = False
    """Go on with the evaluation in OUT."""
    suite: Literal["atari100k"] | None = None
    """Report on the scores of a benchmark instead."""
    results: Path | None = None
    """For a suite: the folder of scores; by default the published ones."""

    def __call__(self) -> None:
        if self.suite is not None:
            from gym_dream.evaluation import atari100k

            print(atari100k.write_report(self.results, self.out).text())
            return
        if self.results is not None:
            raise ValueError("--results is the folder of a suite's scores: name the suite, too (--suite atari100k).")
        from gym_dream.evaluation.report import text, write_report
        from gym_dream.evaluation.returns import compare, default_policies, with_epsilons
        from gym_dream.registration import model_of
        from gym_dream.world_model import WorldModel

        model = self.model or model_of(self.env)
        policies = default_policies(WorldModel.load(model).config.env) if self.policies is None else self.policies
        comparison = compare(
            with_epsilons(policies, self.epsilon),
            self.env,
            out=self.out,
            resume=self.resume,
            progress=True,
            model=self.model,
            episodes=self.episodes,
            real_episodes=self.real_episodes,
            horizon=self.horizon,
            num_envs=self.num_envs,
            seed=self.seed,
            starts=self.starts,
            device=self.device,
            precision=self.precision,
            model_kwargs=self.model_kwargs or None,
            load=_load_policy,
        )
        write_report(comparison, self.out)
        print(text(comparison))
        print(f"Wrote {self.out}/report.json, report.md and report.png.")
        if comparison.failed:
            raise ValueError(f"Not every policy could be played: see above for {', '.join(comparison.failed)}.")


@dataclass(frozen=True)
class Score:
    """Play whole real games, all lives and nothing clipped, and print the mean score beside random and human play."""

    game: str
    """One of the 26 games of `gym-dream list`, e.g. Breakout."""
    policy: str
    """What plays: agent:FOLDER or agent(greedy):FOLDER, random, scripted, … as in `gym-dream evaluate`."""
    games: int = 100
    """How many."""
    repeat_action_probability: float = 0.0
    """Chance that the console repeats the previous action; 0.25 is ALE's "sticky actions"."""
    max_steps: int = 27_000
    """After which a game is cut off; 15 are a second of play."""
    seed: int = 5_000_000
    """Of the policy; game i is begun with seed + i. An agent should not have been trained or chosen by these games."""
    out: Path | None = None
    """A file for the list of the games' scores, such as scores/Breakout/0.json, from which
    `gym-dream evaluate --suite atari100k --results scores` makes its report."""

    def __call__(self) -> None:
        from tqdm import tqdm

        from gym_dream import real
        from gym_dream.evaluation.atari100k import published
        from gym_dream.evaluation.returns import world_figures
        from gym_dream.evaluation.whole_games import play_whole_games
        from gym_dream.files import write_json
        from gym_dream.games import find_game

        game, sticky = find_game(self.game).name, self.repeat_action_probability
        policy = _load_policy(self.policy, real.env_spec(game))
        make = partial(real.make, game, ending="game", repeat_action_probability=sticky)
        with tqdm(total=self.games, unit="game", disable=not sys.stderr.isatty()) as bar:
            played = play_whole_games(make, policy, self.games, self.seed, self.max_steps, bar.update)
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.out, [one.points for one in played])
        found, reference = world_figures(played, (self.max_steps,)), published().games[game]
        assert found.points is not None  # a real game has its own
        normalised = reference.normalise([found.points.mean])[0]
        figures = {
            "policy": policy.name,
            "sticky": f"{sticky:g}",
            "games": f"{len(played)}",
            "cut off": f"{sum(not one.terminated for one in played)}",
            "steps": f"{found.length.mean:.0f}",
            "score [95% interval]": f"{found.points}",
            "random": f"{reference.random:g}",
            "human": f"{reference.human:g}",
            "human-normalised": f"{normalised:.2f}",
        }
        _print_table(tuple(figures), (tuple(figures.values()),))


@dataclass(frozen=True)
class Fidelity:
    """Let models dream on from real moments under the real actions; measure how far they drift from what happened.

    Writes tables, fidelity.json, curves, a contact sheet and a film.
    """

    model: tuple[str, ...]
    """The world models to compare: names that ship, folders, or hub:organisation/name[@revision]."""
    data: Path
    """Episodes that no model was trained on."""
    out: Path
    """The folder of the report."""
    windows: int = 24
    """Dreams to compare with what really happened, from each model with each setting."""
    steps: tuple[int, ...] = (1, 5, 15, 50, 100)
    """After how many steps to look; an ending of the real episode interrupts a dream."""
    denoising_steps: tuple[int, ...] = ()
    """Passes of the denoiser a frame, one or several to compare; by default the model's own setting."""
    model_kwargs: dict[str, int | float] = field(default_factory=dict)
    """Other settings of the sampler, e.g. --model-kwargs sigma_max 10 sigma_start 10."""
    seed: int = 0
    """Of the choice of windows and of the dreams."""
    device: str = "auto"
    """Where the dreams run, e.g. cpu or cuda."""
    precision: DreamPrecision = "auto"
    """Of the dreams' networks; auto: bfloat16 where the hardware has it. int8: for some CPUs, compiled."""
    compile: bool = False
    """Compile the networks: worth a minute's wait for many windows."""

    def __call__(self) -> None:
        from gym_dream.evaluation.fidelity_report import files, text
        from gym_dream.evaluation.open_loop import fidelity

        found = fidelity(**vars(self))
        print(text(found))
        print(f"Wrote {self.out}: {', '.join(files(found))}.")


@dataclass(frozen=True)
class Bench:
    """Measure how fast this machine dreams and trains, beside what it could do at most; writes bench.json.

    The reference of all ratios is DIAMOND's own architecture in plain float32; its weights are random.
    """

    model: str = "breakout"
    """The world model: one that ships, a folder, or hub:organisation/name[@revision]."""
    out: Path = Path("bench.json")
    """Where the figures go: a file that ends in .json, or a folder for bench.json."""
    batch_sizes: tuple[int, ...] = (1, 8, 32, 128)
    """Numbers of dreams at a time; what would take too long is left out."""
    denoising_steps: tuple[int, ...] = (1, 3)
    """Passes of the denoiser a frame; each network's own setting is added."""
    measure: tuple[Literal["ceilings", "start", "dreams", "parts", "training", "agents"], ...] = (
        "ceilings",
        "start",
        "dreams",
        "parts",
        "training",
        "agents",
    )
    """What: the machine's ceilings, a fresh process's first frame, dreams, the parts of a step, updates in training, an
    agent's updates in dreams."""
    presets: tuple[Literal["small", "diamond-atari"], ...] = ("small", "diamond-atari")
    """Whose updates in training are measured."""
    minutes: float = 5.0
    """About how long; every case is measured once at least."""
    repeats: int = 5
    """Samples of each case, in turn; fewer where time is short."""
    threads: int | None = None
    """Of PyTorch; by default as many as there are cores."""
    device: str = "auto"
    """Where, e.g. cpu or cuda."""
    compile: bool = False
    """Measure compiled networks, too; compiling takes minutes of its own."""
    precisions: tuple[Literal["float32", "bfloat16", "float16", "int8"], ...] = ()
    """Which to compare with plain float32; none: all that the hardware has."""
    clock: Literal["wall", "cpu"] = "wall"
    """cpu: processor time, for a machine that others use, too; with --threads 1 only."""

    def __call__(self) -> None:
        from gym_dream.benchmark.report import text
        from gym_dream.benchmark.run import bench
        from gym_dream.trainers.bench import updates
        from gym_dream.trainers.presets import PRESETS

        settings = vars(self) | {"original": PRESETS["diamond-atari"].world_model, "update_agent": _agent_update}
        made = {name: partial(updates, PRESETS[name]) for name in settings.pop("presets")}
        found = bench(**settings, updates=made)
        print(text(found))
        print(f"\nWrote {self.out if self.out.suffix == '.json' else self.out / 'bench.json'}.")


Verb = Demo | Play | List | Collect | Fit | Train | Evaluate | Score | Fidelity | Card | Bench


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command line; None: the process's own.

    Returns:
        The exit status: 0, 2 after an error that its message explains, 130 after Ctrl-C.
    """
    command = tyro.cli(
        Verb,
        prog="gym-dream",
        description=DESCRIPTION,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        command()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except EXPLAINED as error:
        if os.environ.get("GYM_DREAM_DEBUG"):
            raise
        print(f"gym-dream: {error}", file=sys.stderr)
        return 2
    return 0


def _load_policy(spec: str, env: Mapping[str, Any], source: Literal["pixels", "ram"] = "pixels") -> Policy:
    """As `gym_dream.policy.load_policy`, agents included, which nothing else in this package may name."""
    from gym_dream.agents import load_agent
    from gym_dream.policy import load_policy

    return load_policy(spec, env, source=source, load_agent=load_agent)


def _player(spec: str | None, env: Mapping[str, Any]) -> Policy:
    """What plays where nothing was asked for: the agent that ships for the environment, else chance."""
    from gym_dream.agents import shipped_agent

    return _load_policy(spec or shipped_agent(env) or "random", env)


def _agent_update(env: Mapping[str, Any], world: TimedDream) -> Callable[[], object]:
    """What makes one update of DIAMOND's agent, fresh, in some dreams."""
    import torch

    from gym_dream.agents import ActorCritic, ActorCriticConfig
    from gym_dream.trainers.imagination import Imagination, ImaginationConfig

    height, width, channels = env["frame_shape"]
    with torch.random.fork_rng(devices=[]):
        agent = ActorCritic(ActorCriticConfig(len(env["action_meanings"]), (height, width), channels))
    return Imagination(agent.to(world.dynamics.device), world, ImaginationConfig(), seed=0).update


def _print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print columns, the first aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for first, *others in (head, *rows):
        print("  ".join([first.ljust(widths[0]), *(text.rjust(w) for text, w in zip(others, widths[1:], strict=True))]))


if __name__ == "__main__":
    sys.exit(main())
