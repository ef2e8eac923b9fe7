"""forks/: every diff applies to this tree, changes little, and computes what its table promises."""
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import grpo
from conftest import ROOT
from patched import FORKS, TABLE, changes, patched
from reward import Reward
from stages import Given, all_get, metrics, micro_batch, reward_of

pytestmark = pytest.mark.usefixtures("no_trainer")
LONG = {"two_layer": 20, "llava": 25, "distillation": 17}                       # a connector, a family
OF_GRPO = [fork for fork in FORKS if [*changes(fork)] == ["grpo.py"]]
E = 2.718281828459045


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """{fork: its changed Python file as a module}, made when asked for: one that drifted is red alone."""
    folder = tmp_path_factory.mktemp("forks")

    class Modules(dict):
        def __missing__(self, fork):
            self[fork] = patched(fork, folder)
            return self[fork]

    return Modules()


def test_there_are_ten_and_the_table_names_them():
    assert all(name == link for name, link in TABLE) and len(FORKS) == len(TABLE) == 10
    known = subprocess.check_output(["git", "ls-files", "forks/*.diff"], cwd=ROOT, text=True)
    assert {Path(line).stem for line in known.splitlines()} == set(FORKS)
    check = ["git", "apply", "--check"]
    broken = [fork for fork in FORKS if subprocess.run([*check, FORKS[fork]], cwd=ROOT).returncode]
    assert len(broken) <= 2, f"{broken} do not apply any more: make them again"  # a change that hits few may


@pytest.mark.parametrize("fork", FORKS)
def test_a_fork_is_small(fork):
    of_python = [sum(n) for file, n in changes(fork).items() if file.endswith(".py")]
    assert len(of_python) == 1 and sum(sum(n) for n in changes(fork).values()) <= LONG.get(fork, 15)


# --------------------------------------------------------------- by hand: two responses, of 3 tokens and of 1

OWNER, LENGTH = torch.tensor([0, 0, 0, 1]), torch.tensor([3, 3, 3, 1])
ADV, OLD = torch.tensor([2.0, 2.0, 2.0, -1.0]), torch.tensor([-1.0, -2.0, -3.0, -4.0])


def loss_of(module, gap=(0.0, 0.0, 0.0, 0.0), entropy=(0.0, 0.0, 0.0, 0.0), **flags):
    """(loss, its gradient) when the log-probs have moved by gap"""
    logp = (OLD + torch.tensor(gap)).requires_grad_()
    micro = micro_batch(ADV, LENGTH, OLD, pack=SimpleNamespace(owner=OWNER))
    loss, *_ = module.grpo_loss(logp, torch.tensor(entropy), micro, module.Config(**flags))
    loss.backward()
    return loss.item(), logp.grad.tolist()


def test_dr_grpo(forks):
    reward = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.2] * 4])
    assert forks["dr_grpo"].advantages(reward).tolist() == [[0.5, -0.5, -0.5, 0.5], [0.0] * 4]
    loss, grad = loss_of(forks["dr_grpo"], max_new_tokens=10)
    assert loss == pytest.approx(-(3 * 2 - 1) / (10 * 2))  # the longer response weighs three times as much
    assert grad == pytest.approx([-2 / 20, -2 / 20, -2 / 20, 1 / 20])


def test_gspo(forks):
    """Ratios of the responses: e to the mean of .3, 0, -.15, which is .05, and e to the -.1."""
    gap, wide = (0.3, 0.0, -0.15, -0.1), dict(clip_low=0.2, clip_high=0.2)
    loss, grad = loss_of(forks["gspo"], gap, **wide)
    assert loss == pytest.approx(-(2 * E ** 0.05 - E ** -0.1) / 2)
    assert grad == pytest.approx([-E ** 0.05 / 3] * 3 + [E ** -0.1 / 2])
    assert abs(loss - loss_of(grpo, gap, **wide)[0]) > 0.01
    loss, grad = loss_of(forks["gspo"], gap)  # the paper's limits: both responses are outside
    assert loss == pytest.approx(-(2 * 1.0004 - 0.9997) / 2) and grad == [0.0] * 4
    assert loss_of(forks["gspo"])[1] == pytest.approx(loss_of(grpo)[1])  # a ratio of 1: nothing changes
    assert forks["gspo"].Config().minibatches == 2


def test_entropy_bonus(forks):
    """Entropies of the responses: 2 (the mean of 1, 2, 3) and 4; together 3."""
    fork, entropy = forks["entropy_bonus"], (1.0, 2.0, 3.0, 4.0)
    assert loss_of(fork, entropy=entropy)[0] == pytest.approx(loss_of(grpo)[0] - 0.01 * 3)


def test_length_penalty(forks, monkeypatch):
    right, wrong = Reward(1.0, 1.0, 1.0, "3", "rule"), Reward(0.0, 1.0, 0.2, "4", "no")
    prompt = SimpleNamespace(record=SimpleNamespace(answer="3", options=[], question="?"))
    rollouts = [SimpleNamespace(prompt=prompt, text="", ids=[5] * n) for n in (20, 100, 20, 100)]
    monkeypatch.setattr(forks["length_penalty"], "score_batch", lambda *_: [right, right, wrong, wrong])
    forks["length_penalty"].set_rewards(rollouts, grpo.Config(max_new_tokens=100), None)
    assert [r.reward.total for r in rollouts] == pytest.approx([0.96, 0.8, 0.2, 0.2])
    assert [r.reward.accuracy for r in rollouts] == [1.0, 1.0, 0.0, 0.0]


def test_token_mean(forks):
    loss, grad = loss_of(forks["token_mean"])
    assert loss == pytest.approx(-(3 * 2 - 1) / 4) and grad == pytest.approx([-0.5, -0.5, -0.5, 0.25])


def test_rloo(forks):
    """1 less the mean of the others, 1/3, is 2/3."""
    adv = forks["rloo"].advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.2] * 4]))
    assert adv[0].tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3]) and adv[1].tolist() == [0.0] * 4


def test_distillation(forks, monkeypatch):
    """Of a token that the teacher finds likelier than the student did, more is wanted."""
    fork, teacher = forks["distillation"], torch.tensor([-0.5, -4.0, -2.0])
    rollouts = [SimpleNamespace(ids=[5] * len(x), logp=torch.tensor(x)) for x in ([-1.0, -3.0], [-2.0])]
    monkeypatch.setattr(fork, "computed", lambda *_: (teacher, None))
    s = SimpleNamespace(teacher=None, processor=None, world=None)
    fork.distill(s, fork.Config(), [SimpleNamespace(rollouts=[r]) for r in rollouts])
    assert [r.advantage.tolist() for r in rollouts] == [[0.5, -1.0], [0.0]]


def test_response_mean(forks):
    """Two words of 1.0 and 0.5 in one response count as much as one of 0.3 in another; a third has none."""
    def row(tokens, entropy):
        return {"question": 0, "tokens": tokens, "entropy": entropy, "accuracy": 1.0, "format": 1.0,
                "finish": "stop"}
    m = forks["response_mean"].measure(
        [row(["Wait", ",", " wait"], [1.0, 0.0, 0.5]), row([" but"], [0.3]), row([" 4"], [2.0])])
    assert m["critical_entropy"] == pytest.approx((0.75 + 0.3) / 2) and m["count"] == 2
    assert (m["low"], m["high"]) == (pytest.approx(0.3), pytest.approx(0.75))


# --------------------------------------------------------------------------------------- three steps of each

def steps(module, tiny, processor, out, reward=reward_of, **flags):
    """Metrics of three steps on given responses of 1 to 11 tokens."""
    given = dict(model=str(tiny / "model"), data=str(tiny / "rl.jsonl"), prompts=4, samples=4, steps=3,
                 lr=1e-3, max_new_tokens=20, dtype="fp32", max_gap=9.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "score_batch", reward)
        patch.setattr(module, "make_sampler", lambda *_: Given(processor))
        module.train(module.Config(out=str(out), **{**given, **flags}))
    return metrics(out)


@pytest.fixture(scope="session")
def plain_steps(tiny, processor, tmp_path_factory):
    return steps(grpo, tiny, processor, tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize("fork", OF_GRPO)
def test_three_steps_of_grpo(fork, forks, tiny, processor, plain_steps, tmp_path):
    """They run, and differ from plain GRPO in what they promise. The responses are the same."""
    more = {"teacher": str(tiny / "model")} if fork == "distillation" else {}
    rows = steps(forks[fork], tiny, processor, tmp_path / "run", **more)
    assert [row["step"] for row in rows] == [1, 2, 3] and all(row["grad_norm"] > 0 for row in rows)
    first, plain = rows[0], plain_steps[0]
    assert all(first[name] == plain[name] for name in ("accuracy", "length", "format", "gap"))
    assert first["grad_norm"] != pytest.approx(plain["grad_norm"], rel=1e-4)
    assert (first["ratio_max"] == 1) == (fork != "gspo")
    assert (first["reward"] < plain["reward"]) == (fork == "length_penalty")
    if fork == "entropy_bonus":
        assert first["loss"] == pytest.approx(-0.01 * first["entropy"], rel=0.1)


def test_the_bonus_reaches_groups_without_spread(forks, tiny, processor, tmp_path):
    same = all_get(Reward(1.0, 1.0, 1.0, "3", "rule"))
    row, = steps(forks["entropy_bonus"], tiny, processor, tmp_path / "run", same, steps=1)
    assert row["grad_norm"] > 0 and row["tokens"] == pytest.approx(16 * row["length"])
    row, = steps(grpo, tiny, processor, tmp_path / "plain", same, steps=1)
    assert row["grad_norm"] == 0
