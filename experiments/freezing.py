"""a. What happens when a part is frozen during RL?

Paper (section 5.2): with the connector frozen the reward falls sharply, the gradient norm becomes
unstable and the text repetitive; with the encoder frozen the reward is the same and the evaluation gains
a little less. Ours: the GRPO run of `make tiny` with one part frozen, from the same cold start. Then from
a cold start whose connector was disturbed (noise of half its weights' size), with and without the
connector: there it has something to learn.
"""
import torch

from experiments.lab import ROOT, Config, compared, logged, recipe, report, rl_arms
from machinery.files import main
from model import load

EXPECTED = "without the connector RL collapses; without the encoder it gains a little less."
WHY = ("the tiny connector is well aligned before RL and RL's pictures hardly differ from those it knows, "
       "so there is little that it alone could learn; and 40 steps are few.")
FREEZE = {"nothing frozen": {}, "connector frozen": {"train": ("encoder", "llm")},
          "encoder frozen": {"train": ("connector", "llm")},
          "LLM frozen": {"train": ("encoder", "connector")}}


def disturbed(cfg, seed):
    """The cold start with noise on the matrices of its connector, as a model folder"""
    folder = ROOT / cfg.out / f"seed{seed}" / "disturbed"
    if not folder.exists():
        vlm, g = load(str(ROOT / recipe(seed, "cold_start.done") / "cold_start")), torch.Generator()
        with torch.no_grad():
            for p in vlm.parts()["connector"].values():
                if p.ndim == 2:
                    p += 0.5 * p.std() * torch.randn(p.shape, generator=g.manual_seed(seed))
        part = folder.with_name("disturbed.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        vlm.save(part)
        part.rename(folder)
    return str(folder.relative_to(ROOT))


def run(cfg):
    arms = dict(FREEZE)
    arms["disturbed, nothing frozen"] = lambda seed: {"model": disturbed(cfg, seed)}
    arms["disturbed, connector frozen"] = lambda seed: {"model": disturbed(cfg, seed),
                                                        **FREEZE["connector frozen"]}
    runs, scores = rl_arms(cfg, arms)
    rows = compared(scores, "encoder frozen", "nothing frozen", "a little less", "lower")
    rows += compared(scores, "LLM frozen", "nothing frozen", "", "")
    for arm, against in (("connector frozen", "nothing frozen"),
                         ("disturbed, connector frozen", "disturbed, nothing frozen")):
        rows += compared(scores, arm, against, "collapse", "lower")
        rows += [logged(runs, arm, against, metric, paper, expected)
                 for metric, paper, expected in (("reward", "falls sharply", "lower"),
                                                 ("grad_norm", "unstable", "higher"),
                                                 ("repetition", "rises", "higher"))]
    report("freezing", cfg, rows, EXPECTED, WHY, runs)


if __name__ == "__main__":
    main(run, Config)
