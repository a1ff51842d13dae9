import dataclasses
import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch

import gym_dream.files
import gym_dream.world_model
from gym_dream.data import Contexts
from gym_dream.dynamics import ContextTensors
from gym_dream.files import load_tensors
from gym_dream.models.diamond import DiamondDynamics, DiamondState
from gym_dream.noise import RowNoise
from gym_dream.world_model import WorldModel, resolve, resolve_dtype


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return tiny.world_model()


@pytest.fixture
def folder(model: WorldModel, tmp_path: Path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuses(action: Callable[[], object], kind: type[Exception], *words: object) -> None:
    with pytest.raises(kind) as error:
        action()
    for word in words:
        assert str(word) in str(error.value)


# Save and load


def test_what_is_saved_is_loaded_with_weights_in_half_precision(model, folder):
    loaded = WorldModel.load(folder)
    assert loaded.config == model.config
    assert set(contents(folder)) == {
        "config.json",
        "denoiser.safetensors",
        "reward_termination.safetensors",
        "starts.safetensors",
        "README.md",
    }
    for network, original in (
        (loaded.denoiser, model.denoiser),
        (loaded.reward_termination, model.reward_termination),
    ):
        for name, tensor in network.state_dict().items():
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor, original.state_dict()[name], rtol=2**-11, atol=2**-24)
    assert torch.equal(loaded.denoiser.inner_model.noise_emb.weight, model.denoiser.inner_model.noise_emb.weight)
    for name in ("frames", "actions", "real"):
        assert np.array_equal(getattr(loaded.starts, name), getattr(model.starts, name))
    assert loaded.replay is None and loaded.card == ""


def test_card_and_replay_contexts_come_along(model, tmp_path):
    replay = dataclasses.replace(model.starts, real=model.starts.real & (np.arange(4) > 1))
    dataclasses.replace(model, card="# A card — with ünicode\n", replay=replay).save(tmp_path / "new" / "model")
    loaded = WorldModel.load(str(tmp_path / "new" / "model"))
    assert loaded.card == "# A card — with ünicode\n"
    assert np.array_equal(loaded.replay.real, replay.real)


def test_loading_and_saving_again_changes_nothing(folder, tmp_path):
    WorldModel.load(folder).save(tmp_path / "again")
    before, after = contents(folder), contents(tmp_path / "again")
    assert before.keys() == after.keys()
    for name in before:
        if not name.endswith(".safetensors"):
            assert after[name] == before[name]
            continue
        old, new = (load_tensors(path / name) for path in (folder, tmp_path / "again"))
        assert old[1] == new[1] and old[0].keys() == new[0].keys()
        for key, array in old[0].items():
            assert array.dtype == new[0][key].dtype and np.array_equal(array, new[0][key])


def test_loading_leaves_the_global_random_numbers_in_peace(folder):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    WorldModel.load(folder).dynamics("cpu")
    assert torch.equal(torch.rand(4), expected)


# Strict loading


@pytest.mark.parametrize(
    "name", ["denoiser.safetensors", "reward_termination.safetensors", "starts.safetensors", "config.json"]
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    refuses(lambda: WorldModel.load(folder), FileNotFoundError, folder, "config.json" if "config" in name else name)


@pytest.mark.parametrize("name", ["denoiser", "reward_termination"])
@pytest.mark.parametrize("case", ["missing", "extra", "misshapen", "integer", "bfloat16"])
def test_a_tensor_that_does_not_belong_is_named(folder, name, case):
    path = folder / f"{name}.safetensors"
    tensors = safetensors.torch.load_file(path)
    victim = sorted(tensors)[3]
    if case == "missing":
        del tensors[victim]
    elif case == "extra":
        tensors[victim := "stowaway"] = torch.zeros(2)
    elif case == "misshapen":
        tensors[victim] = tensors[victim][..., :-1].contiguous()
    elif case == "integer":
        tensors[victim] = tensors[victim].to(torch.int16)
    else:
        tensors[victim], victim = tensors[victim].bfloat16(), "BF16"
    safetensors.torch.save_file(tensors, path)
    refuses(lambda: WorldModel.load(folder), ValueError, path, victim)


def test_weights_in_full_precision_are_as_good(model, folder):
    safetensors.torch.save_file(model.denoiser.state_dict(), folder / "denoiser.safetensors")
    for name, tensor in WorldModel.load(folder).denoiser.state_dict().items():
        assert torch.equal(tensor, model.denoiser.state_dict()[name])


@pytest.mark.parametrize(
    "name", ["denoiser.safetensors", "reward_termination.safetensors", "starts.safetensors", "config.json"]
)
@pytest.mark.parametrize("case", ["truncated", "foreign", "empty", "folder"])
def test_a_damaged_or_foreign_file_is_named(folder, name, case):
    path = folder / name
    whole = path.read_bytes()
    path.unlink()
    if case == "folder":
        path.mkdir()
        refuses(lambda: WorldModel.load(folder), OSError, folder)
        return
    path.write_bytes({"truncated": whole[: len(whole) // 2], "foreign": b"\x80\x04\x95 a pickle?", "empty": b""}[case])
    refuses(lambda: WorldModel.load(folder), ValueError, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, ["unknown 'colour'"]),
        ({"denoiser": {"witdh": 3}}, ["denoiser", "unknown 'witdh'"]),
        ({"sampler": {"order": 3}}, ["sampler", "order", "3"]),
        ({"sampler": {"num_denoising_steps": 0}}, ["sampler", "num_denoising_steps", "at least 1", "0"]),
        ({"denoiser": {"channels": [8]}}, ["denoiser", "channels", "2, 1 and 2"]),
        ({"format_version": 2}, ["version 2 is newer than the 1", "Upgrade"]),
        ({"format_version": "one"}, ["format_version", "'one'"]),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_by_field(folder, change, words):
    values = json.loads((folder / "config.json").read_text())
    for key, value in change.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(values))
    refuses(lambda: WorldModel.load(folder), ValueError, folder / "config.json", *words)


def test_a_newer_version_is_told_even_if_it_has_fields_of_its_own(folder):
    (folder / "config.json").write_text(json.dumps({"format_version": 7, "memory": {}}))
    refuses(lambda: WorldModel.load(folder), ValueError, "version 7 is newer")


def test_weights_of_another_size_are_refused(folder):
    values = json.loads((folder / "config.json").read_text())
    values["reward_termination"]["lstm_size"] = 16
    (folder / "config.json").write_text(json.dumps(values))
    refuses(lambda: WorldModel.load(folder), ValueError, "reward_termination.safetensors", "'head.0.bias'", "(8,)")


@pytest.mark.parametrize("name", ["starts", "replay"])
def test_contexts_of_another_shape_are_refused(model, folder, name):
    short = Contexts(model.starts.frames[:, 1:], model.starts.actions[:, 1:], model.starts.real[:, 1:])
    short.save(folder / f"{name}.safetensors")
    refuses(lambda: WorldModel.load(folder), ValueError, f"{name}.safetensors", "(3, 16, 16, 3)", "(4, 16, 16, 3)")


# Saving loses nothing


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let the disk fill up while the file of that name is written."""
    sync = gym_dream.files._sync

    def full(path: Path) -> None:
        if name in path.name:
            raise OSError(number, "No space left on device" if number == errno.ENOSPC else "Input/output error")
        sync(path)

    monkeypatch.setattr(gym_dream.files, "_sync", full)


@pytest.mark.parametrize("name", ["config.json", "denoiser", "reward_termination", "starts", "README.md"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failing_write_leaves_the_old_folder_whole(model, folder, monkeypatch, name, number):
    before = contents(folder.parent)
    with monkeypatch.context() as patch:
        fail_at(patch, name, number)
        refuses(
            lambda: dataclasses.replace(model, card="new").save(folder),
            OSError,
            name,
            "untouched",
            *(["disk or quota is full"] if number == errno.ENOSPC else []),
        )
    assert contents(folder.parent) == before
    dataclasses.replace(model, card="new").save(folder)
    assert WorldModel.load(folder).card == "new"


@pytest.mark.parametrize("which", [1, 2])
def test_a_failing_swap_puts_the_old_folder_back(model, folder, monkeypatch, which):
    before, calls, rename = contents(folder.parent), [], Path.rename

    def fail(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == which:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        refuses(lambda: dataclasses.replace(model, card="new").save(folder), OSError, "Input/output error")
    assert contents(folder.parent) == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_an_interrupt_leaves_no_litter(model, tmp_path, monkeypatch):
    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gym_dream.files, "_sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_named(model, tmp_path, monkeypatch, number):
    def forbidden(*args: object, **settings: object) -> str:
        raise OSError(number, "Permission denied")

    monkeypatch.setattr(gym_dream.files.tempfile, "mkdtemp", forbidden)
    refuses(lambda: model.save(tmp_path / "model"), OSError, tmp_path / "model", "Choose another folder", "untouched")


def test_what_is_no_world_model_is_never_replaced(model, tmp_path):
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter1.txt").write_text("years of work")
    refuses(lambda: model.save(mine), FileExistsError, mine, "no world model")
    assert contents(tmp_path) == {"thesis/chapter1.txt": b"years of work"}
    (mine / "config.json").write_text("{}")  # a training run has one, too
    refuses(lambda: model.save(mine), FileExistsError, mine, "chapter1.txt")
    refuses(lambda: WorldModel.load(mine), ValueError, "format_version", "subfolder world_model")
    assert (mine / "chapter1.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("text")
    refuses(lambda: model.save(tmp_path / "file"), OSError, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "text"


def test_networks_that_do_not_fit_together_are_refused(model):
    judge = model.config.reward_termination
    with pytest.raises(ValueError, match="num_actions"):
        dataclasses.replace(
            model.config, reward_termination=dataclasses.replace(judge, num_actions=judge.num_actions + 1)
        )
    with pytest.raises(ValueError, match="frame_shape"):
        dataclasses.replace(model.config, env={**model.config.env, "frame_shape": [1, 2, 3]})
    with pytest.raises(ValueError, match="action_meanings"):
        dataclasses.replace(model.config, env={**model.config.env, "action_meanings": ["NOOP"]})


def test_contexts_with_actions_that_do_not_exist_are_refused(model, folder):
    starts = model.starts
    wrong = Contexts(starts.frames, starts.actions + 100, starts.real)
    wrong.save(folder / "starts.safetensors")
    refuses(lambda: WorldModel.load(folder), ValueError, "starts.safetensors", "actions")


def test_an_empty_folder_is_as_good_as_none(model, tmp_path):
    (tmp_path / "model").mkdir()
    model.save(tmp_path / "model")
    WorldModel.load(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# Names


def test_a_shipped_name_is_found_whatever_its_case(model, tmp_path, monkeypatch):
    monkeypatch.setattr(gym_dream.world_model, "PRETRAINED", tmp_path)
    model.save(tmp_path / "breakout")
    assert resolve("breakout") == resolve("Breakout") == tmp_path / "breakout"
    refuses(lambda: resolve("pong"), FileNotFoundError, "'pong'", "(breakout)", "--game Pong", "gym-dream fit")


def test_a_shipped_name_means_the_shipped_model_wherever_one_works(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(gym_dream.world_model, "PRETRAINED", tmp_path / "shipped")
    model.save(tmp_path / "shipped" / "model")
    monkeypatch.chdir(folder.parent)
    assert resolve("model") == tmp_path / "shipped" / "model"
    assert resolve("./model").resolve() == folder.resolve()


def test_what_is_not_there_says_how_to_make_it(tmp_path):
    refuses(lambda: resolve(tmp_path / "nothing"), FileNotFoundError, "nothing", "gym-dream collect", "hub:org/name")
    refuses(lambda: resolve(tmp_path), FileNotFoundError, tmp_path, "no config.json", "gym-dream collect")


class FakeHub:
    """huggingface_hub with one repository, which lies in a local folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.asked.append((repo_id, revision, allow_patterns))
        return str(self.folder)


def test_a_model_on_the_hub(folder, monkeypatch):
    hub = FakeHub(folder)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=hub.snapshot_download))
    assert len(WorldModel.load("hub:org/name").starts) == 3
    assert resolve("hub:org/name@v1.2") == folder
    assert [asked[:2] for asked in hub.asked] == [("org/name", None), ("org/name", "v1.2")]
    for _, _, patterns in hub.asked:
        assert all(pattern.endswith((".json", ".safetensors", "README.md")) for pattern in patterns)


def test_the_hub_needs_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refuses(lambda: resolve("hub:org/name"), ImportError, "gym-dream[hub]")


# Dynamics


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_steps": 3}, ["unknown ['num_steps']", "num_denoising_steps"]),
        ({"num_denoising_steps": 0}, ["num_denoising_steps", "at least 1", "0"]),
        ({"num_denoising_steps": 2.5}, ["num_denoising_steps", "int", "2.5"]),
        ({"num_denoising_steps": "3"}, ["num_denoising_steps", "int", "'3'"]),
        ({"order": 4}, ["order", "1, 2", "4"]),
        ({"sigma_max": -1.0}, ["sigma_max", "-1.0"]),
        ({"s_churn": None}, ["s_churn", "float", "None"]),
        ({"precision": "half"}, ["precision", "'bfloat16'", "'half'"]),
        ({"precision": 16}, ["precision", "'bfloat16'", "16"]),
    ],
)
def test_dynamics_refuses_what_cannot_be(model, settings, words):
    refuses(lambda: model.dynamics("cpu", **settings), ValueError, *words)


def test_dynamics_takes_the_models_own_settings_unless_told(model):
    own = dataclasses.replace(model.config.sampler, num_denoising_steps=2, s_churn=0.5)
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, sampler=own))
    assert model.dynamics("cpu").sampler == own
    told = model.dynamics("cpu", num_denoising_steps=7, order=2).sampler
    assert told == dataclasses.replace(own, num_denoising_steps=7, order=2)


def test_precision_auto_is_what_the_processor_has():
    fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert resolve_dtype("auto", torch.device("cpu")) == (torch.bfloat16 if fast else torch.float32)
    assert resolve_dtype("float16", torch.device("cpu")) == torch.float16


def test_dreams_do_not_share_weights_with_their_model(model):
    dynamics = model.dynamics("cpu")
    theirs = {parameter.data_ptr() for parameter in model.denoiser.parameters()}
    assert not theirs & {parameter.data_ptr() for parameter in dynamics.denoiser.parameters()}
    assert not any(parameter.requires_grad for parameter in dynamics.reward_termination.parameters())


def contexts(count: int, padded: int = 1) -> Contexts:
    """Real frames of the dot; the first of odd contexts are padding, which holds zeros."""
    episodes = [tiny.episode(seed) for seed in range(count)]
    frames = np.stack([e.frames[3:7] for e in episodes])
    actions = np.stack([e.actions[3:6] for e in episodes])
    real = np.ones((count, 4), np.bool_)
    real[1::2, :padded] = False
    frames[~real] = 0
    actions[~(real[:, :-1] & real[:, 1:])] = 0
    return Contexts(frames, actions, real)


class Rollout:
    """Frames, rewards, endings and last state of some steps of all or some dreams."""

    def __init__(self, dynamics: DiamondDynamics, rows: list[int], steps: int = 4, seed: int = 0) -> None:
        drawn = contexts(6)[rows]
        keys = torch.tensor(rows) * 977 + seed
        context = ContextTensors(*(torch.from_numpy(a) for a in (drawn.frames, drawn.actions, drawn.real)))
        self.state: DiamondState = dynamics.begin(context, RowNoise(keys, torch.zeros_like(keys)))
        frames, rewards, ends = [], [], []
        for step in range(1, steps + 1):
            action = (torch.tensor(rows) + step) % 4
            self.state, frame, reward, end = dynamics.step(
                self.state, action, RowNoise(keys, torch.full_like(keys, step))
            )
            frames.append(frame)
            rewards.append(reward)
            ends.append(end)
        self.frames, self.rewards, self.ends = (torch.stack(x, dim=1) for x in (frames, rewards, ends))


def levels_apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.int() - b.int()).abs()


def test_frames_rewards_and_endings_have_the_promised_types(model):
    dynamics = model.dynamics("cpu")
    rollout = Rollout(dynamics, [0, 1, 2, 3, 4, 5], steps=30)
    assert rollout.frames.shape == (6, 30, 16, 16, 3) and rollout.frames.dtype == torch.uint8
    assert rollout.rewards.dtype == torch.float32 and set(rollout.rewards.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert rollout.ends.dtype == torch.bool and 0 < rollout.ends.float().mean() < 1
    state = rollout.state
    assert torch.equal(state.frames[:, -1], rollout.frames[:, -1]) and state.real.all()
    assert state.frames.shape == (6, 4, 16, 16, 3) and state.actions.shape == (6, 3)
    assert dynamics.frame_shape == (16, 16, 3) and dynamics.context_length == 4 and dynamics.action_space.n == 4


def test_the_same_noise_gives_the_same_dream_and_other_noise_another(model):
    dynamics = model.dynamics("cpu", precision="float32")
    first, second, other = (Rollout(dynamics, [0, 1, 2], seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.frames, second.frames) and torch.equal(first.rewards, second.rewards)
    assert not torch.equal(first.frames, other.frames)


def test_another_copy_of_the_model_dreams_the_same(model, folder):
    loaded = WorldModel.load(folder)
    one, two = (Rollout(m.dynamics("cpu"), [0, 1]) for m in (loaded, WorldModel.load(folder)))
    assert torch.equal(one.frames, two.frames)


@pytest.mark.parametrize("settings", [{}, {"s_churn": 3.0}, {"num_denoising_steps": 1}, {"order": 2}])
def test_a_dream_does_not_feel_its_neighbours(model, settings):
    """Sums are reordered with the batch size, which may move a value across the edge between two grey levels."""
    dynamics = model.dynamics("cpu", precision="float32", **settings)
    whole = Rollout(dynamics, [0, 1, 2, 3, 4, 5], steps=1)
    for rows in ([3], [1, 3], [5, 4, 3, 2, 1, 0]):
        part = Rollout(dynamics, rows, steps=1)
        apart = levels_apart(part.frames, whole.frames[rows])
        assert apart.max() <= 1 and (apart > 0).float().mean() < 0.01
        torch.testing.assert_close(part.state.hidden, whole.state.hidden[rows], atol=1e-2, rtol=0)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_gives_nearly_the_same_frames(model, precision):
    exact = Rollout(model.dynamics("cpu", precision="float32"), [0, 1, 2, 3], steps=1)
    rough = Rollout(model.dynamics("cpu", precision=precision), [0, 1, 2, 3], steps=1)
    assert rough.state.hidden.dtype == torch.float32
    apart = levels_apart(exact.frames, rough.frames)
    assert 0 < apart.float().mean() < 2 and apart.max() <= 16


def test_padding_is_told_from_black_frames(model):
    dynamics = model.dynamics("cpu", precision="float32")
    padded = contexts(2)[[1]]
    black = dataclasses.replace(padded, real=np.ones_like(padded.real))
    keys = torch.zeros(1, dtype=torch.int64)
    frames = []
    for context in (padded, black):
        tensors = ContextTensors(*(torch.from_numpy(a) for a in (context.frames, context.actions, context.real)))
        state = dynamics.begin(tensors, RowNoise(keys, keys))
        frames.append(dynamics.step(state, torch.tensor([1]), RowNoise(keys, keys + 1))[1])
        hidden = state.hidden
        frames.append(hidden)
    assert not torch.equal(frames[0], frames[2]) and not torch.allclose(frames[1], frames[3])


def test_saved_tensors_are_float16_save_the_fixed_features(folder):
    tensors, _ = load_tensors(folder / "denoiser.safetensors")
    assert {name for name, array in tensors.items() if array.dtype != np.float16} == {"inner_model.noise_emb.weight"}
