"""Is an exercise of docs/exercises.md done?

    python -m exercises.check 3

looks at what you changed, or at the run that you left, and says "done" or what is missing. It reads the files
as they are now: check first, then take a change back (`git checkout FILE`).
"""
import random
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from types import SimpleNamespace

import numpy as np
import torch
import tyro

import connector
import entropy_select
import grpo
from data import Processor, Prompt, read_records
from machinery.files import Refused, main, read_json, read_jsonl
from machinery.parallel import World
from machinery.rows import open_image
from machinery.signs import signs_of
from model import load
from pack import make_pack
from reward import report_unreadable
from rollout import Group, Rollout, TorchSampler, check_gap


def demand(condition, otherwise):
    if not condition:
        raise Refused(f"not yet: {otherwise}")


def run_of(number):
    """An exercise's run folder, its flags and its metrics"""
    run = Path(f"out/exercise{number}")
    rows = read_jsonl(run / "metrics.jsonl")
    demand(len(rows) >= 40, f"{run} has {len(rows)} of 40 steps; the command stands in docs/exercises.md")
    return run, read_json(run / "config.json")["config"], rows


def ends(rows, metric):
    """Means of a metric's first and last five steps"""
    values = [row[metric] for row in rows]
    return mean(values[:5]), mean(values[-5:])


def of_both(rows, *metrics):
    return ", ".join("{} {:.2f} to {:.2f}".format(metric, *ends(rows, metric)) for metric in metrics)


# --------------------------------------------------------------------- a function each, in the page's order

def read_a_pack():
    n = [random.randint(2, 4) for _ in range(5)]
    names = [name for name, length in zip("PabQc", n) for _ in range(length)]
    print("place  ", *(f"{k:2}" for k in range(len(names))))
    print("part of", *(f"{name:>2}" for name in names), "  (prompts P, Q; responses a and b to P, c to Q)")
    first, second = (Prompt(None, [0] * length, [0] * length) for length in (n[0], n[3]))
    row = [(first, [(0, [1] * n[1]), (1, [2] * n[2])]), (second, [(2, [3] * n[4])])]
    processor = SimpleNamespace(positions=lambda prompt: torch.arange(len(prompt.full)), image_id=-1)
    pack = make_pack(processor, row, images=False)
    b, c = names.index("b"), names.index("c")
    prefix, p = next(s for s in pack.layout.segments.tolist() if s[0] == b)[2:]
    source = dict(zip((k for k, name in enumerate(names) if name in "abc"), pack.source.tolist()))
    for question, truth in (
            (f"Which places does place {b + 1} see (itself, too)? ", [*range(prefix, prefix + p), b, b + 1]),
            (f"Which position has place {b + 1} in the rotary embedding? ", [int(pack.positions[b + 1])]),
            (f"The hidden state of which place predicts the token at place {b}? ", [source[b]]),
            (f"Of which place, the token at place {c}? ", [source[c]])):
        said = sorted(map(int, re.findall(r"\d+", input(question))))
        demand(said == truth, f"it is {' '.join(map(str, truth))}; see make_pack in pack.py; the next row "
                              f"is another one")
    return "four of four"


def break_the_mask():
    vlm, processor = load("out/tiny/cold_start"), Processor("out/tiny/cold_start")
    prompts = processor.prompts(read_records("data/tiny/val.jsonl")[:8])
    sampled = TorchSampler(vlm, processor).generate(prompts, 4, 160)
    groups = [Group(prompt, rollouts) for prompt, rollouts in zip(prompts, sampled)]
    gap = check_gap(groups, vlm, processor, grpo.Config(max_gap=1e9), World(0, 1, torch.device("cpu")))
    demand(gap > 0.1, f"sampler and trainer differ by {gap:.7f} nats a token: the mask is whole "
                      f"(as it should be once you have taken the change back)")
    return f"sampler and trainer differ by {gap:.2f} nats a token. Take it back, and see the mask whole again"


def no_std():
    got, equal = grpo.advantages(torch.tensor([[1, 0.2, 0, 0]])), grpo.advantages(torch.full((1, 16), 0.2))
    right = torch.allclose(got, torch.tensor([[0.7, -0.1, -0.3, -0.3]]))
    demand(right, f"rewards of 1, 0.2, 0, 0 have advantages of {got[0].tolist()}")
    demand(not equal.any(), f"sixteen rewards of 0.2 have advantages of {equal[0, 0]:.1e}: that is rounding")
    told = of_both(rows := run_of(3)[2], "accuracy", "grad_norm")
    demand(ends(rows, "grad_norm")[0] < 0.25, f"{told}: as with the division. Was the run made before the "
                                              f"edit? Another one wants another --out, or this one's removal")
    return told


def hack_the_reward():
    def paid(*pieces):
        prompt = SimpleNamespace(record=SimpleNamespace(answer="9", options=[], question=""))
        rollout = Rollout(prompt, [0] * len(pieces), None, None, "".join(pieces), pieces, "stop")
        grpo.set_rewards([rollout], grpo.Config(), None)
        return rollout.reward

    plain, wordy = paid("7.</think>\n\n\\boxed{7}"), paid("7.", " Wait,", " 7.</think>\n\n\\boxed{7}")
    demand(wordy.total > plain.total, f"a wrong response is paid {plain.total:.1f}, and {wordy.total:.1f} "
                                      f"with a Wait in it")
    demand(not wordy.accuracy, "leave Reward.accuracy as it is: it shows what the reward hides")
    rows = run_of(4)[2]
    more = [last - first for first, last in (ends(rows, "reward"), ends(rows, "accuracy"))]
    demand(more[0] > more[1] + 0.3, f"{of_both(rows, 'reward', 'accuracy')}: they go together")
    return of_both(rows, "reward", "accuracy", "length", "critical_count")


def freeze_a_part():
    run, flags, rows = run_of(5)
    before, after = (load(str(folder)).parts() for folder in (flags["model"], run))
    moved = {part: max(float((after[part][name] - p).detach().abs().max()) for name, p in of.items())
             for part, of in before.items()}
    told = "largest change of a weight: " + ", ".join(f"{part} {most:.1e}" for part, most in moved.items())
    demand(0 < sum(most > 0 for most in moved.values()) < 3, told)
    return f"{told}; {of_both(rows, 'accuracy')}"


def learning_rate():
    _, flags, rows = run_of(6)
    signs = [f"step {step}: {name}" for step, name, _ in signs_of(rows)]
    demand(signs, f"nothing is wrong with this run (its --lr was {flags['lr']:g})")
    return f"{'; '.join(signs)}; {of_both(rows, 'accuracy')}"


def blind():
    _, flags, rows = run_of(7)
    records = read_records(flags["data"], image_root=flags["image_root"])
    seen = {name for record in records for name in record.images if np.ptp(open_image(name), (0, 1)).any()}
    demand(not seen, f"{len(seen)} of the pictures show something, as {next(iter(seen), '')}")
    return of_both(rows, "accuracy", "groups_mixed", "entropy")


def choose_a_checkpoint():
    right = [1.0] * 30 + [0.0] * 10
    lost = [0.0] * 30 + [1.0] * 5 + [0.0] * 5
    table = [{"step": 5 * k, "count": 99, "critical_entropy": entropy, "low": 0, "high": 1,
              "question_accuracy": answers, "accuracy": mean(answers)}
             for k, entropy, answers in ((1, 0.9, right), (2, 0.3, right), (3, 0.5, lost))]
    chosen, rule, _ = entropy_select.choose(table)
    demand(chosen["step"] == 10, f"of steps 5 and 10, which answer equally well, and 15, which has lost "
                                 f"much, step {chosen['step']} is chosen by {rule}")
    return "of the check's own table step 10 is chosen, the last of those that have lost nothing"


def another_connector():
    mine = {name: of for name, of in connector.CONNECTORS.items() if name not in ("mlp", "qformer")}
    demand(mine, "CONNECTORS in connector.py has no new line")
    demand(Path("out/exercise9/metrics.jsonl").exists(), "out/exercise9 has no run of sft.py")
    kind = connector.chosen(Processor("out/exercise9").config)
    demand(kind in mine, f"out/exercise9 has the connector {kind or 'mlp'}, none of {', '.join(mine)}")
    size = sum(p.numel() for p in load("out/exercise9").parts()["connector"].values())
    losses = [row["loss"] for row in read_jsonl("out/exercise9/metrics.jsonl")]
    demand(len(losses) >= 40 and losses[-1] < 0.7 * losses[0], f"{len(losses)} steps, the loss {losses[:1]} "
                                                              f"became {losses[-1:]}")
    return f"{mine[kind].__name__}, {size:,} weights, loss {losses[0]:.2f} to {mean(losses[-5:]):.2f}"


def weigh_by_entropy():
    logp, entropy = torch.full((10,), -1.0, requires_grad=True), torch.tensor(
        [.1, .9, .2, .3, .0, .1, .8, .2, .1, .3], requires_grad=True)
    ten, pack = torch.full((10,), 10.0), SimpleNamespace(owner=torch.zeros(10, dtype=torch.long))
    micro = grpo.MicroBatch(pack, 1.0, [], adv=ten / 5, length=ten, sampled_logp=ten * 0 - 1,
                            old_logp=ten * 0 - 1, ref_logp=None, responses=1, tokens=10)
    grpo.grpo_loss(logp, entropy, micro, grpo.Config())[0].backward()
    learned = logp.grad.nonzero()[:, 0].tolist()
    demand(learned == [1, 6], f"of ten tokens the ones at 1 and 6 are the least sure; {learned} are learned")
    demand(entropy.grad is None or not entropy.grad.any(), "the choice is no goal: detach the entropy")
    return of_both(run_of(10)[2], "accuracy", "entropy")


def distil():
    _, flags, rows = run_of(11)
    demand(flags.get("teacher"), "the run has no --teacher")
    before, after = ends(rows, "accuracy")
    demand(after > before + 0.05, of_both(rows, "accuracy"))
    return f"{of_both(rows, 'accuracy', 'entropy')}; {sum(row['tokens'] for row in rows):,.0f} tokens taught"


def your_own_data():
    path = "data/mine.jsonl"
    demand(Path(path).exists(), f"{path} is not there")
    records = read_records(path, limit_bad=0)
    demand(len(records) >= 3 and all(r.images for r in records), "three rows, each with a picture")
    unread = report_unreadable(path, records, 0, None)
    prompts = Processor("out/tiny/cold_start").prompts(records)
    asked = {row["id"] for row in read_jsonl("out/exercise12/rollouts.jsonl")}
    demand(not unread and asked & {r.id for r in records}, f"out/exercise12 has no response to a row of "
                                                           f"{path}: run the command")
    return f"{len(records)} rows, the longest prompt has {max(len(p.full) for p in prompts)} tokens"


CHECKS = (read_a_pack, break_the_mask, no_std, hack_the_reward, freeze_a_part, learning_rate, blind,
          choose_a_checkpoint, another_connector, weigh_by_entropy, distil, your_own_data)


@dataclass
class Config:
    number: tyro.conf.Positional[int]  # of the exercise, 1 to 12


def check(cfg):
    if not 1 <= cfg.number <= len(CHECKS):
        raise Refused(f"there are exercises 1 to {len(CHECKS)}")
    print(f"exercise {cfg.number}: done ({CHECKS[cfg.number - 1]()})")


if __name__ == "__main__":
    main(check, Config)
