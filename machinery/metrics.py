"""What grpo.py logs of a step, and --logger."""
import importlib
import inspect

from machinery.parallel import total

# means over what: over responses, over groups, over response tokens, over critical words
MEANS = {"count": ("reward", "accuracy", "format", "length", "truncated", "denial", "repetition"),
         "groups": ("reward_std", "groups_mixed"),
         "tokens": ("entropy", "entropy_high", "gap", "clip_fraction"),
         "critical_count": ("critical_entropy",)}


def add_up(m, loss, ratio, kl, entropy, micro, cfg):
    """Add what a forward shows to the sums m over tokens. loss and kl are means over a gradient step; here
    over all of them. entropy (R,) is the trainer's, of the distribution that produced each token. So the
    indicator of section 5.1 costs nothing here; entropy_select.py measures it on a fixed probe set."""
    critical, at = [], 0
    for r in micro.rollouts:
        critical += [at + k for k in r.critical(cfg.words)]
        if r.entropy is None:  # vLLM gives none
            r.entropy = entropy[at:at + len(r.ids)]
        at += len(r.ids)
    m["tokens"] += len(entropy)
    m["entropy"] += entropy.sum().item()
    m["entropy_high"] += (entropy > cfg.high_entropy).sum().item()
    m["critical_entropy"] += entropy[critical].sum().item()
    m["critical_count"] += len(critical)
    m["loss"] += loss.item() / cfg.minibatches
    if kl is not None:
        m["kl"] += kl.item() / cfg.minibatches
    m["gap"] += (micro.old_logp - micro.sampled_logp).abs().sum().item()
    m["clip_fraction"] += ((ratio < 1 - cfg.clip_low) | (ratio > 1 + cfg.clip_high)).sum().item()
    m["ratio_max"] = max(m["ratio_max"], ratio.detach().max().item())


def summary(m, groups, reward, world):
    """The step's metrics over all ranks. m: this rank's sums over the tokens it trained; groups: what it
    sampled, with reward (P, n). Where there is nothing to take a mean of, the metric is None."""
    rollouts = [r for group in groups for r in group.rollouts]
    peaks = {"ratio_max": m.pop("ratio_max"), "grad_norm": m.pop("grad_norm"),
             "length_max": max(len(r.ids) for r in rollouts)}
    sums = {**m, "count": len(rollouts), "groups": len(groups), "reward": reward.sum().item(),
            "reward_std": reward.std(1).sum().item(), "groups_mixed": sum(group.mixed() for group in groups)}
    seen = [r.seen() for r in rollouts]
    sums |= {name: sum(row[name] for row in seen) for name in seen[0]}
    sums = dict(zip(sums, total(sums.values(), world)))
    for count, names in MEANS.items():
        for name in names:
            sums[name] = sums[name] / sums[count] if sums[count] else None
    return {**sums, **dict(zip(peaks, total(peaks.values(), world, "max")))}


def rollout_rows(step, group, trained, most=4):
    """Rows of rollouts.jsonl: up to `most` responses of one group, from the highest advantage to the lowest.
    They are spread evenly over the group's order of advantages, so they differ in reward if the group does.

    group: rollouts of the step's first prompt, which was drawn like any other. trained: some of this rank's.
    vLLM gives no entropies, so only trained responses have them: then the first group of those is taken."""
    if group[0].entropy is None:
        group = [r for r in trained if r.prompt is trained[0].prompt]
    order = sorted(group, key=lambda r: -r.advantage.double().mean())
    numbers = {round(k * (len(order) - 1) / (most - 1)) for k in range(most)}  # 0, 10, 21, 31 of 32
    right = sum(r.reward.accuracy > 0 for r in group)
    return [{"step": step, "group": len(group), "group_right": right, **sample_row(order[i])}
            for i in sorted(numbers)]


def sample_row(rollout):
    """One response, with everything that report.py shows of it."""
    record, reward = rollout.prompt.record, rollout.reward
    return {"id": record.id, "question": record.text(),
            "images": [image for image in record.images if isinstance(image, str)],
            "gold": record.answer, "text": rollout.text, "reward": reward.total, "accuracy": reward.accuracy,
            "format": reward.format, "extracted": reward.extracted, "finish": rollout.finish,
            "advantage": float(rollout.advantage.double().mean()), "tokens": rollout.pieces,
            "entropy": [round(e, 3) for e in rollout.entropy.tolist()]}  # short: responses have thousands


def open_logger(module, folder, about):
    """--logger MODULE, which has wandb's `init` and `log` (wandb, trackio, swanlab): its `log`. A run that
    goes on writes where it wrote before: its id stays the same. metrics.jsonl has the same numbers."""
    logger = importlib.import_module(module)
    config = {**about, **about["config"]}
    # one knows a run again by its id (wandb, swanlab), another by its name (trackio)
    given = {"project": "nanoR1V", "name": f"{folder.name}-{about['id']}", "id": about["id"],
             "resume": "allow", "config": config}
    known = inspect.signature(logger.init).parameters
    logger.init(**{name: value for name, value in given.items() if name in known})
    return logger.log
