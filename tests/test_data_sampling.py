"""Segments and contexts: what is real, what is padding, and how often what is drawn.

Every frame, action and reward of the test episodes tells where it comes from, so a slow reference can rebuild a batch.
"""

import dataclasses

import numpy as np
import pytest

from gym_dream.data import (
    RECENCY,
    Contexts,
    ContextSampler,
    Emphasis,
    Episode,
    EpisodeInfo,
    Segments,
    SegmentSampler,
    eventful,
    first_steps,
    scene_changes,
    start_contexts,
)
from gym_dream.data.segments import Spans
from gym_dream.files import load_tensors, save_tensors


def make_episode(number, steps, lost=(), *, over=True, continuous=False):
    """Game `number`; lives are lost at the steps in `lost`, and the game is over at the last unless told otherwise."""
    time = np.arange(steps + 1)
    frames = np.empty((steps + 1, 3, 2, 3), np.uint8)
    frames[..., 0] = number + 1  # never 0, unlike padding
    frames[..., 1] = (time // 256)[:, None, None]
    frames[..., 2] = (time % 256)[:, None, None]
    actions = 1000 * number + time[:-1] + 1
    terminated = np.isin(time[:-1], [*lost, *([steps - 1] if over else [])])
    return Episode(
        frames=frames,
        actions=np.stack([actions, -actions], 1).astype(np.float32) if continuous else actions,
        rewards=(actions + 0.5).astype(np.float32),
        terminated=terminated,
        truncated=np.zeros(steps, np.bool_),
        lives=(terminated.sum() + (not over) - np.cumsum(terminated)).astype(np.int32),
        ram=None,
        info=EpisodeInfo({}, number, "test", in_progress=not over),
    )


def games(**kwargs):
    return [
        make_episode(0, 40, lost=(0, 9, 10, 25), **kwargs),  # lives of a single step among them
        make_episode(1, 3, **kwargs),
        make_episode(2, 300, lost=(259,), over=False, **kwargs),
    ]


def spans_of(episode, ending):
    """(first step, step after the last, ended by termination), by walking over the steps."""
    if ending == "game":
        return [(0, len(episode), not episode.info.in_progress)]
    spans, start = [], 0
    for step in range(len(episode)):
        if episode.terminated[step] or step == len(episode) - 1:
            spans.append((start, step + 1, bool(episode.terminated[step])))
            start = step + 1
    return spans


def where(frame):
    """The game and time that a real frame shows."""
    return int(frame[0, 0, 0]) - 1, int(frame[0, 0, 1]) * 256 + int(frame[0, 0, 2])


def check_segment(episodes, ending, frames, actions, rewards, terminated, mask):
    """Rebuild one segment frame by frame from the place that its first real frame shows."""
    game, time = where(frames[mask.argmax()])
    episode = episodes[game]
    first = time - int(mask.argmax())
    last_real = time + int(mask.sum()) - 1
    # A boundary frame belongs to two lives: the later one if the segment goes on, else the one it ends.
    start, stop, ended = next(s for s in spans_of(episode, ending) if s[0] <= time and last_real <= s[1])
    for i in range(len(frames)):
        real = start <= first + i <= stop
        assert mask[i] == real
        np.testing.assert_array_equal(frames[i], episode.frames[first + i] if real else 0)
    for i in range(len(frames) - 1):
        step = first + i
        real = start <= step < stop
        assert real == (mask[i] and mask[i + 1])
        np.testing.assert_array_equal(actions[i], episode.actions[step] if real else 0)
        assert rewards[i] == (episode.rewards[step] if real else 0)
        assert terminated[i] == (real and step == stop - 1 and ended)


def rows(segments):
    return zip(*(getattr(segments, field.name) for field in dataclasses.fields(segments)), strict=True)


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("ending", ["life", "game"])
@pytest.mark.parametrize(("num_frames", "beyond_end"), [(2, False), (2, True), (6, False), (6, True), (19, True)])
@pytest.mark.parametrize("recency", [None, RECENCY])
def test_segments_are_what_was_played(num_frames, beyond_end, ending, recency, continuous):
    episodes = games(continuous=continuous)
    sampler = SegmentSampler(episodes, num_frames, beyond_end=beyond_end, ending=ending, recency=recency)
    batch = sampler.sample(300, np.random.default_rng(0))
    b, n, tail = 300, num_frames, (2,) if continuous else ()
    assert (batch.frames.shape, batch.frames.dtype) == ((b, n, 3, 2, 3), np.uint8)
    assert (batch.actions.shape, batch.actions.dtype) == ((b, n - 1, *tail), np.float32 if continuous else np.int64)
    assert (batch.rewards.shape, batch.rewards.dtype) == ((b, n - 1), np.float32)
    assert (batch.terminated.shape, batch.terminated.dtype) == ((b, n - 1), np.bool_)
    assert (batch.mask.shape, batch.mask.dtype) == ((b, n), np.bool_)
    for row in rows(batch):
        check_segment(episodes, ending, *row)
    assert (batch.mask[:, :-1] & batch.mask[:, 1:]).any(1).all()  # a real step in each
    if not beyond_end:
        assert batch.mask[:, -1].all()
    elif n > 2:
        assert not batch.mask[:, -1].all()
    assert (~batch.mask[:, 0]).any() == (n > 2)


def test_lives_share_their_boundary_frame():
    episode = make_episode(0, 20, lost=(9,))
    spans = Spans([episode], ending="life")
    assert (spans.start.tolist(), spans.length.tolist()) == ([0, 10], [10, 10])
    ends = spans.gather(np.array([0, 1]), np.array([8, -2]), 5)
    np.testing.assert_array_equal(ends.mask, [[True, True, True, False, False], [False, False, True, True, True]])
    np.testing.assert_array_equal(ends.frames[0, 2], episode.frames[10])  # the last of the first life
    np.testing.assert_array_equal(ends.frames[1, 2], episode.frames[10])  # and the first of the second
    np.testing.assert_array_equal(ends.terminated, [[False, True, False, False], [False] * 4])
    assert ends.actions.tolist() == [[9, 10, 0, 0], [0, 0, 11, 12]]


def test_lost_lives_are_nothing_when_only_games_end():
    sampler = SegmentSampler([make_episode(0, 20, lost=(4, 9))], 20, beyond_end=True, ending="game")
    batch = sampler.sample(200, np.random.default_rng(0))
    steps = batch.actions[batch.terminated]
    assert set(steps.tolist()) == {20}
    goes_on = make_episode(0, 20, lost=(4, 19), over=False)
    batch = SegmentSampler([goes_on], 20, beyond_end=True, ending="game").sample(200, np.random.default_rng(0))
    assert not batch.terminated.any()  # a life was lost at the last recorded step, and the game went on


def exact_places(length, num_frames, beyond_end):
    """How often a segment of a span of `length` steps begins where: over all steps and offsets, as documented."""
    places = {}
    for step in range(length):
        for offset in range(num_frames - 1):
            last = step - offset + num_frames - 1 if beyond_end else min(step + 1 + offset, length)
            first = last - (num_frames - 1)
            places[first] = places.get(first, 0) + 1 / (length * (num_frames - 1))
    return places


@pytest.mark.parametrize("beyond_end", [False, True])
def test_places_in_a_span(beyond_end):
    episodes, num_frames, count = [make_episode(0, 8)], 5, 20_000
    batch = SegmentSampler(episodes, num_frames, beyond_end=beyond_end).sample(count, np.random.default_rng(1))
    shown = batch.frames[:, :, 0, 0, 2].astype(np.int64)  # the time, in an episode this short
    drawn = (shown.max(1) - batch.mask.cumsum(1).argmax(1)).tolist()  # from the last real frame
    expected = exact_places(8, num_frames, beyond_end)
    assert set(drawn) == set(expected)
    for first, probability in expected.items():
        assert drawn.count(first) / count == pytest.approx(probability, abs=4 * (probability / count) ** 0.5)


def test_every_step_is_equally_likely_without_recency():
    spans = Spans(games(), ending="life")
    np.testing.assert_allclose(spans.weight, spans.length / 343)
    drawn, step = spans.draw(200_000, np.random.default_rng(0))
    counts = np.bincount((spans.start + np.array([0, 40, 43])[spans.episode])[drawn] + step, minlength=343)
    expected = 200_000 / 343
    assert len(counts) == 343
    assert (np.abs(counts - expected) < 5 * expected**0.5).all()


def test_recency_cuts_the_spans_into_quarters():
    lengths = [5, 50, 7, 9, 30, 2, 11, 4, 100, 3]
    episodes = [make_episode(i, n) for i, n in enumerate(lengths)]
    spans = Spans(episodes, recency=(0.1, 0.1, 0.1, 0.7))
    np.testing.assert_allclose(spans.weight, [0.05] * 6 + [0.7 / 4] * 4)  # quarters of 2, 2, 2 and 4, by count
    drawn, step = spans.draw(50_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(drawn) / 50_000, spans.weight, atol=0.006)
    for span, length in enumerate(lengths):  # in a span, each step alike
        counts = np.bincount(step[drawn == span], minlength=length)
        assert len(counts) == length
        assert (np.abs(counts - counts.mean()) < 5 * counts.mean() ** 0.5).all()

    lives = Spans([make_episode(0, 40, lost=(9, 19, 29))], recency=(1, 1, 2, 0), ending="life")
    np.testing.assert_allclose(lives.weight, [0.25, 0.25, 0.5, 0])  # lives count, and weights need not add up to 1
    assert set(lives.draw(1000, np.random.default_rng(0))[0].tolist()) == {0, 1, 2}


def test_recency_with_fewer_spans_than_weights_goes_by_length():
    np.testing.assert_allclose(
        Spans([make_episode(0, 10), make_episode(1, 30)], recency=RECENCY, ending="game").weight, [0.25, 0.75]
    )


@pytest.mark.parametrize("kind", ["segments", "contexts"])
def test_the_generator_fixes_the_draw(kind):
    episodes = games()
    sampler = SegmentSampler(episodes, 6, beyond_end=True) if kind == "segments" else ContextSampler(episodes, 4)

    def draw(rng):
        batch = sampler.sample(64, rng)
        return [getattr(batch, field.name) for field in dataclasses.fields(batch)]

    one, again, other = (draw(np.random.default_rng(seed)) for seed in (5, 5, 6))
    rng = np.random.default_rng(5)
    first, second = draw(rng), draw(rng)
    for a, b, c, d, e in zip(one, again, first, other, second, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
        assert a.shape == d.shape == e.shape
    assert (one[0] != other[0]).any() and (first[0] != second[0]).any()


@pytest.mark.parametrize("beyond_end", [False, True])
def test_emphasised_steps_are_drawn_as_often_as_asked_and_lie_in_the_window(beyond_end):
    episodes = games()
    flags = [np.isin(np.arange(len(e)), steps) for e, steps in zip(episodes, [[20], [], [100, 250]], strict=True)]
    sampler = SegmentSampler(episodes, 7, beyond_end=beyond_end, emphasis=[Emphasis(flags, share=0.5, window=3)])
    segments = sampler.sample(4000, np.random.default_rng(0))
    wanted = {1000 * game + step + 1 for game, steps in enumerate([[20], [], [100, 250]]) for step in steps}
    inside = np.isin(segments.actions, list(wanted)) & segments.mask[:, :-1]
    near_end = inside[:, -3:].any(axis=1)
    # By chance one of three steps in 343 is among the last three of a segment in about 2.6% of the draws.
    assert near_end.mean() == pytest.approx(0.5 + 0.5 * 0.026, abs=0.03)
    last = segments.actions[near_end][:, -3:]
    counts = [np.isin(last, [action]).any(axis=1).sum() for action in sorted(wanted)]
    assert min(counts) > 0.8 * max(counts)
    places = np.flatnonzero(np.isin(last, list(wanted)).sum(axis=0))
    assert places.tolist() == [0, 1, 2]


def test_of_two_emphases_the_second_has_its_share_whole():
    flags = [[np.arange(len(e)) == step for e in games()] for step in (20, 100)]
    kinds = [Emphasis(flag, share=0.5, window=3) for flag in flags]
    segments = SegmentSampler(games(), 7, beyond_end=True, emphasis=kinds).sample(4000, np.random.default_rng(0))
    first, second = (np.isin(segments.actions[:, -3:], [step + 1, 1001 + step, 2001 + step]) for step in (20, 100))
    assert second.any(axis=1).mean() == pytest.approx(0.5, abs=0.04)
    assert first.any(axis=1).mean() == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("ending", ["life", "game"])
def test_first_steps_are_those_that_begin_a_life(ending):
    for episode in games():
        flags, frames = first_steps(episode, ending), episode.frames
        ends = episode.terminated if ending == "life" else np.zeros(len(episode), bool)
        assert flags[0] and flags.shape == (len(episode),) == (len(frames) - 1,)
        assert np.array_equal(flags[1:], ends[:-1])


def test_without_emphasis_nothing_changes():
    plain, none = (
        SegmentSampler(games(), 7, beyond_end=False, emphasis=emphasis).sample(50, np.random.default_rng(1))
        for emphasis in ([], [Emphasis([np.zeros(len(e), np.bool_) for e in games()], share=0.5, window=3)])
    )
    assert (plain.actions == none.actions).all()


def test_eventful_steps_of_any_game_are_rewards_and_endings():
    episode = make_episode(0, 40, lost=(9,))
    rewards = np.zeros(40, np.float32)
    rewards[[3, 30]] = -1
    events = eventful(dataclasses.replace(episode, rewards=rewards))
    assert np.flatnonzero(events).tolist() == [3, 9, 30, 39]


def test_scenes_change_where_a_tenth_of_the_picture_does():
    frames = np.zeros((6, 10, 10, 3), np.uint8)
    frames[1:, :1, :, 1] = 200  # a tenth of the pixels, no more
    frames[3:, 5, 5:, 0], frames[3:, 4, :6, 2] = 90, 90  # 11 of them, in some channel
    frames[4:] += 32  # all, hardly
    episode = dataclasses.replace(make_episode(0, 5), frames=frames)
    assert scene_changes(episode).tolist() == [False, False, True, False, False]


def test_batches_are_fresh_and_episodes_are_not_copied():
    episodes = [make_episode(0, 30)]
    sampler = SegmentSampler(episodes, 4, beyond_end=True)
    before = episodes[0].frames.copy()
    batch = sampler.sample(50, np.random.default_rng(0))
    batch.frames[:] = 77
    batch.actions[:] = -1
    np.testing.assert_array_equal(episodes[0].frames, before)
    assert (sampler.sample(50, np.random.default_rng(0)).actions >= 0).all()
    episodes[0].frames[:] = 99  # seen by the sampler, which holds no second copy
    batch = sampler.sample(50, np.random.default_rng(0))
    assert (batch.frames[batch.mask] == 99).all() and (batch.frames[~batch.mask] == 0).all()


def emphasised(episodes, share=0.5, window=2):
    flags = [np.ones(len(e), np.bool_) for e in games()]
    return SegmentSampler(episodes, 6, beyond_end=True, emphasis=[Emphasis(flags, share, window)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: SegmentSampler([], 6, beyond_end=True), "at least one episode"),
        (lambda e: SegmentSampler(e, 1, beyond_end=True), "at least 2 frames, got 1"),
        (lambda e: SegmentSampler(e, 6, beyond_end=True, ending="lives"), "'life' or 'game', got 'lives'"),
        (lambda e: SegmentSampler(e, 6, beyond_end=True, recency=(0.5, -0.5)), "weights >= 0"),
        (lambda e: SegmentSampler(e, 6, beyond_end=True, recency=()), "weights >= 0"),
        (lambda e: SegmentSampler(e, 6, beyond_end=True, recency=(0, 0)), "not all 0"),
        (lambda e: SegmentSampler(e, 6, beyond_end=True, recency=(float("nan"), 1)), "weights >= 0"),
        (lambda e: SegmentSampler(e, 6, beyond_end=True).sample(0, np.random.default_rng(0)), "batch_size .* got 0"),
        (
            lambda e: SegmentSampler([*e, make_episode(1, 5, continuous=True)], 6, beyond_end=True),
            r"same frames and actions; .* episode 3 has \(3, 2, 3\) and \(2,\) of float32",
        ),
        (lambda e: emphasised(e, share=1.5), "a share from 0 to 1 .* got 1.5"),
        (lambda e: emphasised(e, window=6), "a window from 1 to 5 steps, got 0.5 and 6"),
        (lambda e: emphasised(e[:2]), "a flag for each step of the 2 episodes"),
        (lambda e: ContextSampler(e, 0), "at least 1 frame, got 0"),
        (lambda e: ContextSampler([], 4), "at least one episode"),
        (lambda e: ContextSampler(e, 4, first_share=1.1), "first_share: expected a share .* got 1.1"),
        (
            lambda e: ContextSampler([begun_otherwise(e[1])], 4, first_share=0.1),
            "first_share: the beginnings of all 1",
        ),
        (lambda e: start_contexts(e, 0), "at least 1 frame, got 0"),
        (lambda e: start_contexts([], 4), "at least one episode"),
        (lambda e: start_contexts([e[1]], 4), "not one of 1 episodes begins with 4 steps"),
        (
            lambda e: start_contexts([begun_otherwise(e[0])], 4),
            r"all 1 games were changed \(last_bricks=3\)",
        ),
    ],
)
def test_arguments_that_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call(games())


# Contexts


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("ending", ["life", "game"])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_replay_contexts(length, ending, continuous):
    episodes = games(continuous=continuous)
    contexts = ContextSampler(episodes, length, ending=ending).sample(4000, np.random.default_rng(0))
    assert (len(contexts), contexts.length) == (4000, length)
    seen = set()
    for frames, actions, real in zip(contexts.frames, contexts.actions, contexts.real, strict=True):
        game, time = where(frames[-1])
        seen.add((game, time))
        start, stop, _ = next(s for s in spans_of(episodes[game], ending) if s[0] <= time < s[1])
        assert time < stop  # the game went on from here
        for i, at in enumerate(range(time - length + 1, time + 1)):
            assert real[i] == (at >= start)
            np.testing.assert_array_equal(frames[i], episodes[game].frames[at] if real[i] else 0)
            if i < length - 1:
                np.testing.assert_array_equal(actions[i], episodes[game].actions[at] if real[i] else 0)
    assert len(seen) == 343  # every step of every game


def test_replay_contexts_with_recency():
    episodes = [make_episode(i, 10) for i in range(8)]
    contexts = ContextSampler(episodes, 4, recency=(0, 0, 0, 1)).sample(200, np.random.default_rng(0))
    assert {where(frame)[0] for frame in contexts.frames[:, -1]} == {6, 7}


def test_replay_contexts_that_begin_with_a_life():
    episodes = games()
    contexts = ContextSampler(episodes, 4, first_share=0.5).sample(4000, np.random.default_rng(0))
    firsts = {(game, start) for game, episode in enumerate(episodes) for start, _, _ in spans_of(episode, "life")}
    last = [where(frame) for frame in contexts.frames[:, -1]]
    at_first = np.array([place in firsts for place in last])
    assert not contexts.real[at_first, :3].any() and contexts.real[:, 3].all()
    by_chance = len(firsts) / 343
    assert abs(at_first.mean() - (0.5 + 0.5 * by_chance)) < 0.04
    assert set(last) >= firsts


def test_a_changed_beginning_is_none():
    changed = begun_otherwise(make_episode(0, 20, lost=(7,)))
    assert np.flatnonzero(first_steps(changed, "life")).tolist() == [8] and not first_steps(changed, "game").any()
    sampler = ContextSampler([changed, make_episode(1, 9)], 4, first_share=1.0)
    last = sampler.sample(200, np.random.default_rng(0)).frames[:, -1, 0, 0]
    assert {(int(game), int(time)) for game, _, time in last} == {(1, 8), (2, 0)}


def begun_otherwise(episode):
    return dataclasses.replace(episode, info=dataclasses.replace(episode.info, start="last_bricks=3"))


def test_start_contexts():
    episodes = [make_episode(0, 10), make_episode(1, 3), make_episode(2, 30, lost=(2,)), make_episode(3, 4)]
    episodes.append(make_episode(4, 3, over=False))
    episodes.append(begun_otherwise(make_episode(5, 10)))
    contexts = start_contexts(episodes, 4)
    # Two games are too short, one loses a life in its first frames, one does not begin as games do.
    assert len(contexts) == 2
    for row, game in enumerate((0, 3)):
        np.testing.assert_array_equal(contexts.frames[row], episodes[game].frames[:4])
        np.testing.assert_array_equal(contexts.actions[row], episodes[game].actions[:3])
    assert contexts.real.all()
    assert not np.shares_memory(contexts.frames, episodes[0].frames)


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in ("frames", "actions", "real")
    )


def some_contexts(**kwargs):
    return ContextSampler(games(**kwargs), 4).sample(30, np.random.default_rng(0))


def test_contexts_by_index():
    contexts = some_contexts()
    picked = contexts[[4, 4, -1]]
    assert same(picked, Contexts(*(array[[4, 4, 29]] for array in (contexts.frames, contexts.actions, contexts.real))))
    assert same(contexts[4], contexts[[4]]) and len(contexts[4]) == 1
    assert same(contexts[np.int64(4)], contexts[4])
    assert same(contexts[2:5], contexts[[2, 3, 4]])
    assert same(contexts[np.arange(30) < 2], contexts[:2])
    assert len(contexts[[]]) == 0
    assert [same(context, contexts[i]) for i, context in enumerate(contexts)] == [True] * 30
    with pytest.raises(IndexError):
        _ = contexts[30]


def test_drawing_from_contexts():
    contexts = some_contexts()
    drawn = contexts.sample(500, np.random.default_rng(3))
    assert len(drawn) == 500
    assert same(drawn, contexts.sample(500, np.random.default_rng(3)))
    assert {row.tobytes() for row in drawn.frames} == {row.tobytes() for row in contexts.frames}
    with pytest.raises(ValueError, match="empty"):
        contexts[[]].sample(1, np.random.default_rng(0))


@pytest.mark.parametrize("continuous", [False, True])
def test_contexts_come_back_as_they_were(tmp_path, continuous):
    contexts = some_contexts(continuous=continuous)
    contexts.save(tmp_path / "starts.safetensors")
    assert same(Contexts.load(tmp_path / "starts.safetensors"), contexts)


PADDED_INSIDE = np.array([[True, False, True, True]] * 30)
NOTHING_REAL = np.zeros((30, 4), np.bool_)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"frames": np.zeros((30, 4, 3, 2, 3), np.float32)},
            r"frames must be uint8 of shape \(N, L, H, W, C\), got float",
        ),
        ({"frames": np.zeros((4, 3, 2, 3), np.uint8)}, r"got uint8 of shape \(4, 3, 2, 3\)"),
        ({"actions": np.zeros((30, 4), np.int64)}, r"int64 of shape \(30, 3\) or .*, got int64 of shape \(30, 4\)"),
        ({"actions": np.zeros((30, 3), np.int32)}, "got int32"),
        ({"actions": np.zeros((30, 3, 2), np.int64)}, r"got int64 of shape \(30, 3, 2\)"),
        ({"real": np.ones((30, 4), np.uint8)}, r"real must be bool of shape \(30, 4\), got uint8"),
        ({"real": np.ones((30, 3), np.bool_)}, r"got bool of shape \(30, 3\)"),
        ({"real": PADDED_INSIDE}, "padded only before its real frames"),
        ({"real": NOTHING_REAL}, "its last frame is real"),
    ],
)
def test_unsound_contexts(tmp_path, changes, message):
    contexts = some_contexts()
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(contexts, **changes)
    path = tmp_path / "x.safetensors"
    contexts.save(path)
    tensors, metadata = load_tensors(path)
    save_tensors(path, {**tensors, **changes}, metadata)
    with pytest.raises(ValueError, match=r"x\.safetensors does not hold sound contexts: .*" + message):
        Contexts.load(path)


def test_unsound_context_files(tmp_path):
    path = tmp_path / "x.safetensors"
    some_contexts().save(path)
    tensors, metadata = load_tensors(path)
    missing = {name: tensors[name] for name in ("frames", "real")}
    for unsound, strings, message in (
        (missing, metadata, "misses 'actions'"),
        ({**tensors, "more": np.zeros(2)}, metadata, "'more' that should not be there"),
        (tensors, {}, "expected a file of format 'gym_dream.contexts'"),
        (tensors, {**metadata, "version": "9"}, "the file says '9'. Update gym_dream"),
        (tensors, {**metadata, "more": ""}, r"unknown \['more'\]"),
    ):
        save_tensors(path, unsound, strings)
        with pytest.raises(ValueError, match=rf"x\.safetensors.*{message}"):
            Contexts.load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut short"):
        Contexts.load(path)


def test_segments_are_frozen():
    batch = SegmentSampler(games(), 3, beyond_end=False).sample(2, np.random.default_rng(0))
    assert isinstance(batch, Segments)
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.mask = None
