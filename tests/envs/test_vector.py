"""Many sessions at once against Gymnasium's own vector of single ones, step for step."""

import copy
import io

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import (
    ClipReward,
    DictInfoToList,
    NormalizeReward,
    RecordEpisodeStatistics,
    TransformAction,
    TransformReward,
)
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from recmtl_lessons.envs import SURFACES, SessionEnv, SessionSettings, SessionVectorEnv, make_users

USERS = make_users(30, 3, strength=2.0)
KNOBS = {
    "as they come": SessionSettings(),
    "late and impatient": SessionSettings(clicks_needed=2, levels=3, patience=2),
    "short and patient": SessionSettings(satiation=0.3, levels=6, patience=5, time_limit=7, clicks_needed=3),
}
STEPS = 300  # a number each, and one for every new session: more than the 256 that are drawn at a time
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


def actions_for(env, steps, seed=0):
    """Actions at random, (steps, N)."""
    count = int(env.single_action_space.n)
    return torch.randint(count, (steps, env.num_envs), generator=torch.Generator().manual_seed(seed))


def one_by_one(singles):
    return SyncVectorEnv([lambda env=env: env for env in singles], autoreset_mode=AutoresetMode.SAME_STEP)


def assert_same_steps(env, sync, actions):
    """Step both; returns how many sessions ended by themselves, and how many were cut off."""
    ends = torch.zeros(2, dtype=torch.int64)
    for action in actions:
        observed, reward, terminated, truncated, info = env.step(action)
        expected = sync.step(action.numpy())
        assert np.array_equal(observed.cpu().numpy(), expected[0])
        assert reward.tolist() == expected[1].tolist()
        assert terminated.tolist() == expected[2].tolist()
        assert truncated.tolist() == expected[3].tolist()
        ended = expected[2] | expected[3]
        assert info["_final_obs"].tolist() == ended.tolist()
        for row in ended.nonzero()[0]:
            assert np.array_equal(info["final_obs"][row], expected[4]["final_obs"][row])
        assert np.array_equal(info["final_obs"][~ended], observed.cpu().numpy()[~ended])
        clicked = np.where(ended, expected[4].get("final_info", {}).get("clicked", False), expected[4].get("clicked"))
        assert info["clicked"].tolist() == clicked.tolist()
        ends += torch.tensor([int(expected[2].sum()), int((expected[3] & ~expected[2]).sum())])
    return ends.tolist()


class TestStepForStep:
    @pytest.mark.parametrize("task", SURFACES)
    @pytest.mark.parametrize("knobs", KNOBS)
    @pytest.mark.parametrize("device", ["cpu", CUDA])
    def test_from_the_same_seed(self, task, knobs, device):
        settings = KNOBS[knobs]
        env = SessionVectorEnv(USERS, task, 4, settings, device=device)
        sync = one_by_one([SessionEnv(USERS, task, settings) for _ in range(4)])
        observed, _ = env.reset(seed=17)
        assert np.array_equal(observed.cpu().numpy(), sync.reset(seed=17)[0])
        left, cut_off = assert_same_steps(env, sync, actions_for(env, STEPS))
        assert left > 20
        assert (cut_off > 100) == (knobs == "short and patient")

    def test_one_session_alone(self):
        """It draws at every step and every reset: whatever is kept ready is used up to the last number."""
        env, sync = SessionVectorEnv(USERS, "home", 1), one_by_one([SessionEnv(USERS, "home")])
        assert np.array_equal(env.reset(seed=2)[0].numpy(), sync.reset(seed=2)[0])
        assert_same_steps(env, sync, actions_for(env, 3 * STEPS))

    def test_resets_in_between(self):
        """Without a seed the generators go on where they stood, with one they begin anew."""
        env = SessionVectorEnv(USERS, "search", 3)
        sync = one_by_one([SessionEnv(USERS, "search") for _ in range(3)])
        for number, seed in enumerate((5, None, None, [8, 2, 5], None)):
            assert np.array_equal(env.reset(seed=seed)[0].numpy(), sync.reset(seed=seed)[0])
            assert_same_steps(env, sync, actions_for(env, 20, number))

    def test_users_of_ones_own(self):
        """Session i draws from a range of rows, as a single one does whose table holds those alone."""
        ranges = torch.tensor([[0, 30], [4, 5], [10, 20], [29, 30]])
        env = SessionVectorEnv(USERS, "notify", 4, user_ranges=ranges)
        sync = one_by_one([SessionEnv(USERS[low:high], "notify") for low, high in ranges.tolist()])
        assert np.array_equal(env.reset(seed=1)[0].numpy(), sync.reset(seed=1)[0])
        assert_same_steps(env, sync, actions_for(env, 100))

    def test_satiation_of_ones_own(self):
        strengths = [0.0, 0.7, 3.0]
        env = SessionVectorEnv(USERS, "home", 3, SessionSettings(satiation=9.0), satiation=torch.tensor(strengths))
        sync = one_by_one([SessionEnv(USERS, "home", SessionSettings(satiation=s)) for s in strengths])
        assert np.array_equal(env.reset(seed=1)[0].numpy(), sync.reset(seed=1)[0])
        assert_same_steps(env, sync, actions_for(env, STEPS))


def course(env, actions, seed=0):
    """Everything that a tensor environment answers, one row a session: (N, ...)."""
    answers = [env.reset(seed=seed)[0].flatten()]
    for action in actions:
        answers += [tensor.float().flatten() for tensor in env.advance(action)]
    rows = [answer.view(env.num_envs, -1) for answer in answers]
    return torch.cat(rows, dim=1)


class TestSessions:
    def test_the_same_satiation_for_all_is_that_of_the_settings(self):
        of_each = SessionVectorEnv(USERS, "home", 5, satiation=torch.full((5,), 0.7))
        of_all = SessionVectorEnv(USERS, "home", 5, SessionSettings(satiation=0.7))
        none = SessionVectorEnv(USERS, "home", 5, SessionSettings(satiation=0.0))
        actions = actions_for(of_all, 60)
        assert torch.equal(course(of_each, actions), course(of_all, actions))
        assert not torch.equal(course(of_each, actions), course(none, actions))

    @given(st.permutations(range(5)), st.sampled_from(SURFACES))
    @examples(max_examples=15)
    def test_do_not_meet(self, order, task):
        """A session's course depends on its own seed and actions, wherever it stands and whoever stands beside it."""
        env = SessionVectorEnv(USERS, task, 5)
        actions, order = actions_for(env, 30), list(order)
        whole = course(env, actions, seed=[11, 12, 13, 14, 15])
        moved = course(env, actions[:, order], seed=[11 + k for k in order])
        assert torch.equal(moved, whole[order])
        alone = course(SessionVectorEnv(USERS, task, 1), actions[:, 2:3], seed=[13])
        assert torch.equal(alone, whole[2:3])

    def test_of_one_seed_are_the_same(self):
        env = SessionVectorEnv(USERS, "home", 3)
        found = course(env, actions_for(env, 40)[:, :1].expand(-1, 3), seed=[4, 4, 5])
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])

    def test_without_a_seed_they_begin_anywhere(self):
        one, other = (SessionVectorEnv(USERS, "home", 8).reset()[0] for _ in range(2))
        assert not torch.equal(one, other)
        assert len(one.unique(dim=0)) > 1

    def test_every_user_of_a_range_comes_and_no_other(self):
        env = SessionVectorEnv(USERS, "home", 200, user_ranges=torch.tensor([[3, 7]]).expand(200, 2))
        env.reset(seed=0)
        seen = set(env.state.user.tolist())
        for action in actions_for(env, 10):
            env.step(action)
            seen |= set(env.state.user.tolist())
        assert seen == {3, 4, 5, 6}

    def test_the_state_is_where_they_stand(self):
        env = SessionVectorEnv(USERS, "home", 4)
        assert env.state is None
        env.reset(seed=0)
        before = env.state
        env.step(torch.tensor([0, 1, 2, 0]))
        assert before.satiation.tolist() == [[0, 0, 0]] * 4, "a step makes a new state"
        assert env.state.satiation.tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 2], [2, 0, 0]]
        assert env.state.elapsed.tolist() == [1] * 4


class TestVectorApi:
    @pytest.mark.parametrize("task", SURFACES)
    @pytest.mark.parametrize("device", ["cpu", CUDA])
    def test_spaces_shapes_and_kinds(self, task, device):
        env, single = SessionVectorEnv(USERS, task, 6, device=device), SessionEnv(USERS, task)
        assert isinstance(env, VectorEnv)
        assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        assert env.single_observation_space == single.observation_space
        assert env.single_action_space == single.action_space
        assert (env.observation_space.shape, env.action_space.shape) == ((6, 15), (6,))
        observed, info = env.reset(seed=0)
        assert info == {}
        for action in actions_for(env, 25):
            assert env.observation_space.contains(observed.cpu().numpy())
            assert env.action_space.contains(action.numpy())
            observed, reward, terminated, truncated, info = env.step(action.to(device))
            assert observed.shape == info["final_obs"].shape == (6, 15)
            assert env.observation_space.contains(info["final_obs"])
            for value, dtype in ((reward, torch.float32), (terminated, torch.bool), (truncated, torch.bool)):
                assert (value.shape, value.dtype, value.device.type) == ((6,), dtype, device)
            for key in ("_final_obs", "clicked", "_clicked"):
                assert (info[key].shape, info[key].dtype) == ((6,), bool)
            assert (observed.dtype, observed.device.type) == (torch.float32, device)

    @pytest.mark.parametrize("device", ["cpu", CUDA])
    def test_all_that_came_of_a_step_as_tensors(self, device):
        env, other = (SessionVectorEnv(USERS, "search", 6, device=device) for _ in range(2))
        env.reset(seed=0)
        other.reset(seed=0)
        for action in actions_for(env, 40):
            taken, (*tensors, info) = env.advance(action), other.step(action)
            assert {part.device.type for part in taken} == {device}
            assert all(map(torch.equal, taken[:4], tensors))
            assert np.array_equal(taken.reached.cpu().numpy(), info["final_obs"])
            assert taken.clicked.tolist() == info["clicked"].tolist()

    @pytest.mark.parametrize("kind", [list, np.array, lambda a: np.array(a, np.uint8), lambda a: torch.tensor(a).int()])
    def test_actions_in_other_forms(self, kind):
        actions = [[0, 1, 2], [2, 2, 0]]
        one, other = (SessionVectorEnv(USERS, "home", 3) for _ in range(2))
        assert torch.equal(course(one, [torch.tensor(a) for a in actions]), course(other, [kind(a) for a in actions]))

    def test_its_own_samples_are_actions(self):
        env = SessionVectorEnv(USERS, "notify", 7)
        env.reset(seed=np.int64(3))
        env.step(env.action_space.sample())


def wrapped(wrap, task="home", sessions=5):
    """The same wrapper over both kinds of vectors, begun from one seed."""
    make = [lambda: SessionEnv(USERS, task)] * sessions
    both = SessionVectorEnv(USERS, task, sessions), SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP)
    envs = [wrap(env) for env in both]
    for env in envs:
        env.reset(seed=6)
    return envs


class TestWrappers:
    """What Gymnasium's wrappers make of it, against what they make of Gymnasium's own vector."""

    @pytest.mark.parametrize("task", SURFACES)
    def test_statistics_of_episodes(self, task):
        env, sync = wrapped(RecordEpisodeStatistics, task)
        for action in actions_for(env, 100):
            info, expected = (e.step(a)[-1] for e, a in ((env, action), (sync, action.numpy())))
            assert ("episode" in info) == ("episode" in expected)
            if "episode" in info:
                assert np.array_equal(info["_episode"], expected["_episode"])
                for key in ("r", "l"):
                    found = info["episode"][key]
                    assert (found.dtype, found.tolist()) == (
                        expected["episode"][key].dtype,
                        expected["episode"][key].tolist(),
                    )
        assert env.episode_count == sync.episode_count > 30
        assert env.return_queue == sync.return_queue
        assert env.length_queue == sync.length_queue

    def test_a_list_of_infos(self):
        env, sync = wrapped(lambda env: DictInfoToList(RecordEpisodeStatistics(env)))
        episodes = 0
        for action in actions_for(env, 100):
            infos, expected = (e.step(a)[-1] for e, a in ((env, action), (sync, action.numpy())))
            for info, one in zip(infos, expected, strict=True):
                ended = "final_obs" in one
                assert info.keys() == {"clicked", "final_obs", "episode"} if ended else {"clicked"}
                assert info["clicked"] == (one["final_info"] if ended else one)["clicked"]
                if ended:
                    assert np.array_equal(info["final_obs"], one["final_obs"])
                    assert [info["episode"][k] for k in "rl"] == [one["episode"][k] for k in "rl"]
                    episodes += 1
        assert episodes > 30

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda env: ClipReward(env, 0.0, 0.5),
            lambda env: TransformReward(env, lambda reward: 3 * reward - 1),
            lambda env: RecordEpisodeStatistics(TransformAction(env, lambda action: 2 - action)),
        ],
    )
    @pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")  # of a plain tensor, which torch has to mend
    def test_other_rewards_and_actions(self, wrap):
        env, sync = wrapped(wrap)
        rewards = set()
        for action in actions_for(env, 60):
            found, expected = env.step(action)[1].tolist(), sync.step(action.numpy())[1].tolist()
            assert found == expected
            rewards |= set(found)
        assert len(rewards) == 2

    def test_those_that_need_arrays(self):
        pytest.importorskip("array_api_compat", reason="conversion needs array-api-compat")
        from gymnasium.wrappers.vector import ArrayConversion

        def arrays(env):
            return ArrayConversion(env, env_xp=torch, target_xp=np) if isinstance(env, SessionVectorEnv) else env

        env, sync = wrapped(lambda env: NormalizeReward(RecordEpisodeStatistics(arrays(env))))
        for action in actions_for(env, 60):
            np.testing.assert_allclose(env.step(action.numpy())[1], sync.step(action.numpy())[1], rtol=1e-6)

    def test_what_numpy_computes_with_is_a_tensor_all_the_same(self):
        env = SessionVectorEnv(USERS, "home", 5)
        env.reset(seed=0)
        _, rewards, terminated, truncated, _ = env.step([0, 1, 2, 0, 1])
        plain = torch.tensor(rewards.tolist())
        assert isinstance(rewards, torch.Tensor)
        assert repr(rewards) == repr(plain)
        assert type(np.logical_or(terminated, truncated)) is np.ndarray
        file = io.BytesIO()
        torch.save(rewards, file)
        file.seek(0)
        for same in (
            rewards + 0,
            rewards.clone(),
            torch.load(file),
            copy.deepcopy(rewards),
            torch.vmap(lambda reward: reward + 0)(rewards),
        ):
            assert type(same) is torch.Tensor
            assert torch.equal(same, plain)
        assert type(torch.stack([terminated, truncated])) is torch.Tensor


class TestActions:
    def test_they_can_go_by_another_name(self):
        env = SessionVectorEnv(USERS, num_envs=3)
        assert torch.equal(env.check_actions(np.array([2, 0, 1], np.uint8)), torch.tensor([2, 0, 1]))
        with pytest.raises(ValueError, match=r"^acted\['home'\]: got numbers from 0 to 3, expected 0 to 2"):
            env.check_actions([0, 3, 1], "acted['home']")

    @pytest.mark.parametrize("way", ["step", "advance"])
    def test_none_before_the_beginning(self, way):
        with pytest.raises(RuntimeError, match="have not begun, call reset"):
            getattr(SessionVectorEnv(USERS, num_envs=3), way)(torch.zeros(3, dtype=torch.int64))
