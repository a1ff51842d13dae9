"""An agent that comes with gym_dream, trained in a dream or in the real game and then judged in the real one.

    python examples/dream_agent.py                                  # trains in the Breakout dream that ships
    python examples/dream_agent.py --world real                     # the control: the same in the game itself
    python examples/dream_agent.py --minutes 120 --resume           # goes on with the run, up to two hours in all
    python examples/dream_agent.py --agent recurrent                # DIAMOND's agent and its way of learning
    python examples/dream_agent.py --init breakout                  # goes on from the agent that ships

An actor-critic learns by policy gradient from dreams that begin with a game. The run folder gets the
agent, which `gym-dream demo --policy agent:FOLDER` then plays, and the learning curve, curve.json and curve.png.
Printed is the return of a life in dream and real game beside that of random play.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from gym_dream import Dream, WorldModel, real
from gym_dream.agents import ActorCriticConfig, AgentConfig, AgentPolicy, StackedConfig, load_agent
from gym_dream.configuration import from_json, to_json
from gym_dream.data import ContextSampler, EpisodeStore, start_contexts
from gym_dream.dream import ContextSource
from gym_dream.evaluation import evaluate_policy, score_lines
from gym_dream.evaluation.statistics import Estimate
from gym_dream.files import atomic_write, digest
from gym_dream.policy import Policy, RandomPolicy
from gym_dream.settings import context_source
from gym_dream.trainers.agent_run import train_agent
from gym_dream.trainers.imagination import ImaginationConfig, World
from gym_dream.trainers.schedules import PPO
from gym_dream.trainers.vector_world import VectorEnvWorld
from gym_dream.world_model import resolve, resolve_device

REINFORCE = ImaginationConfig(learning_rate=3e-4, entropy_weight=0.003)
AGENTS = {
    "stacked": (StackedConfig, replace(PPO, rollout=32, minibatches=8)),
    "recurrent": (ActorCriticConfig, REINFORCE),
}


@dataclass(frozen=True)
class Args:
    """The command line."""

    world: Literal["dream", "real"] = "dream"
    """where to train"""
    model: str = "breakout"
    """the world model: one that ships, a folder, or hub:organisation/name; with --world real, of the game to play"""
    out: Path = Path("runs/dream_agent")
    """the run folder"""
    minutes: float = 60.0
    """to train for, the time before a resume included"""
    updates: int | None = None
    """train until so many updates are done instead, those before a resume included"""
    resume: bool = False
    """go on with the run in OUT, with the same settings"""
    num_envs: int = 32
    """dreams or games at a time"""
    reset_from: Literal["start", "replay"] = "start"
    """where dreams begin: with a game, or anywhere in recorded play"""
    data: Path | None = None
    """recorded play to begin in, as `gym-dream collect` writes it, instead of the few games and moments that the model
    brings"""
    first_share: float = 0.1
    """with --data, of --reset-from replay: share of dreams that begin with a life, not anywhere in it"""
    horizon: int = 200
    """steps after which a dream is cut off; games last as long as a life"""
    denoising_steps: int | None = None
    """passes of the denoiser a frame, if not the model's own setting"""
    sampler: dict[str, int | float] = field(default_factory=dict)
    """other settings of the sampler that are not the model's own, e.g. --sampler s_churn 3; they are the fields of
    gym_dream.models.sampler.SamplerConfig"""
    agent: Literal["stacked", "recurrent"] = "stacked"
    """a CNN that sees the last four frames and learns by PPO, or DIAMOND's, which sees one frame, has an LSTM and
    learns by REINFORCE"""
    init: str | None = None
    """begin with this agent instead of random weights: the name of one that ships, or a folder"""
    learning: dict[str, int | float] = field(default_factory=dict)
    """settings of its learning that differ from PPO or REINFORCE above, e.g. --learning rollout 64 learning_rate 1e-4;
    they are the fields of gym_dream.trainers.imagination.ImaginationConfig"""
    lives: int = 200
    """to judge by at the end, in the real game"""
    dream_lives: int = 24
    """to judge by at the end, in dreams that begin with a game"""
    curve_lives: int = 16
    """to judge by for each point of the learning curve"""
    curve_every: int = 100
    """updates between two points of the learning curve"""
    checkpoint_minutes: float = 5.0
    """between two checkpoints, the most that a crash can cost"""
    max_life: int = 1000
    """steps after which a life that is judged is cut off"""
    seed: int = 0
    """of everything random"""
    device: str = "auto"
    """where dreams and agent run"""
    compile: bool = False
    """compile the world model: takes a minute or so at first, then dreams go faster"""


def make_world(args: Args, model: WorldModel, sampler: dict[str, Any]) -> World:
    if args.world == "real":
        games = real.make_vec(model.config.env["game"], args.num_envs, autoreset_mode="Disabled")
        return VectorEnvWorld(games, seed=args.seed, device=resolve_device(args.device))
    dynamics = model.dynamics(args.device, compile=args.compile, **sampler)
    return Dream(dynamics, args.num_envs, beginnings(args, model), horizon=args.horizon, seed=args.seed)


def sampling(args: Args) -> dict[str, Any]:
    if args.denoising_steps is not None and "num_denoising_steps" in args.sampler:
        raise SystemExit("Say once how many denoising steps: --denoising-steps, or --sampler num_denoising_steps.")
    return {"num_denoising_steps": args.denoising_steps} | args.sampler


def beginnings(args: Args, model: WorldModel) -> ContextSource:
    if args.data is None:
        return context_source(model, args.reset_from)
    store, env, length = EpisodeStore(args.data), model.config.env, model.config.denoiser.context_length
    if store.env is None or any(store.env[name] != env[name] for name in ("game", "frame_shape", "action_meanings")):
        raise SystemExit(f"--data {args.data}: expected play of {env['game']} of the model's kind, got other or none.")
    games = store.load_all(mapped=True)
    if args.reset_from == "start":
        return start_contexts(games, length)
    return ContextSampler(games, length, ending=env["ending"], first_share=args.first_share)


def draw_curve(points: Sequence[dict[str, Any]], random: Estimate, args: Args) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    steps = [p["steps"] for p in points]
    axes.plot(steps, [p["real/return"] for p in points], "o-", label="a life of the real game")
    axes.fill_between(steps, [p["real/low"] for p in points], [p["real/high"] for p in points], alpha=0.2)
    trained = [p for p in points if "world/return" in p]
    label = f"a dream of at most {args.horizon} steps" if args.world == "dream" else "a life while training"
    axes.plot([p["steps"] for p in trained], [p["world/return"] for p in trained], ".-", label=label)
    axes.axhline(random.mean, color="grey", linestyle="--", label="random play, a life of the real game")
    axes.set(xlabel=f"steps in the {'dream' if args.world == 'dream' else 'game'}", ylabel="return (sum of signs)")
    axes.legend()
    with atomic_write(args.out / "curve.png") as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)


def main(args: Args) -> None:
    sampler = sampling(args)
    folder = resolve(args.model)
    model = WorldModel.load(folder)
    env, world = model.config.env, make_world(args, model, sampler)
    height, width, channels = env["frame_shape"]
    architecture, learning = AGENTS[args.agent]
    sizes = architecture(len(env["action_meanings"]), (height, width), channels)
    policy = AgentPolicy.create(AgentConfig(env, sizes), args.seed)
    if args.init is not None and not args.resume:
        policy = load_agent(args.init, env)
        if policy.config.actor_critic != sizes:
            found = policy.config.actor_critic
            raise SystemExit(f"--init {args.init}: expected {sizes}, as --agent {args.agent} has it, got {found}.")
    policy.network.to(resolve_device(args.device))

    def evaluate() -> dict[str, float]:
        found = evaluate_policy(policy, model, episodes=args.curve_lives, horizon=args.max_life, seed=args.seed).returns
        return {"real/return": found.mean, "real/low": found.low, "real/high": found.high}

    told = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(args).items()}
    # A run is of the games and of the world model that there were.
    told["games"] = 0 if args.data is None else len(EpisodeStore(args.data))
    if args.world == "dream":
        told["digest"] = digest([*folder.glob("*.safetensors"), folder / "config.json"])
    # A run may go on with other of these, but for "learning", which train_agent compares by itself.
    apart = {"out", "minutes", "updates", "resume", "checkpoint_minutes", "lives", "dream_lives", "device", "compile"}
    apart |= {"learning"}
    trained = train_agent(
        policy.network,
        world,
        args.out,
        save=policy.save,
        setup={name: value for name, value in told.items() if name not in apart},
        settings=from_json(ImaginationConfig, to_json(learning) | args.learning, "--learning"),
        updates=args.updates,
        minutes=args.minutes if args.updates is None else None,
        seed=args.seed,
        resume=args.resume,
        evaluate=evaluate,
        evaluate_every=args.curve_every,
        checkpoint_minutes=args.checkpoint_minutes,
    )
    random = RandomPolicy(sizes.num_actions)
    level = evaluate_policy(random, model, episodes=args.lives, horizon=args.max_life, seed=args.seed).returns
    draw_curve(json.loads((args.out / "curve.json").read_text()), level, args)
    print(f"Wrote {trained} and {args.out}/curve.png. A life, on average:\n")
    players: dict[str, Policy] = {"random": random, "agent": policy}
    unseen = args.seed + 1_000_000  # games that the curve was not made of
    settings = {"horizon": args.max_life, "seed": unseen, "device": args.device} | sampler
    for line in score_lines(players, model, args.dream_lives, args.lives, **settings):
        print(line, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
