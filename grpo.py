"""Stage 2, reinforcement finetuning: GRPO on maths alone with every part trainable (paper sections 3.1 and 3.3).

One step: sample 32 prompts x 32 responses, reward each with 0.8 * right + 0.2 * format, compare it with its group, and
take one gradient step. So the policy that learns is the policy that sampled (the ratio is exactly 1, the clip never
bites), there is no KL term and no reference model, and the loss is a mean over each response's own tokens, then over
responses. That is all of it; the rest of the file is looking at what happens. What the paper varies is a flag: parts
trained, learning rate, clip-higher, minibatches, dynamic sampling, KL, a harder data file later on, length limits, and
no thinking prompt. To change the algorithm, edit `advantages` or `grpo_loss`.

    laptop:  python grpo.py --model out/tiny/cold_start --lr 1e-4 --samples 16 --steps 40
    8 GPUs:  torchrun --nproc_per_node 8 grpo.py --model out/cold_start --data MM-K12.parquet --checkpointing

The loss it prints is near 0 by construction: advantages of a group sum to 0 and the ratio is 1. Its gradient is not 0.
Look at the reward.
"""
import statistics
import time
from dataclasses import dataclass

import torch
from tqdm import tqdm

from common import Refused, Run, batch_indices, gather, learning_rate, main, resume, save, say, seed_of, start, total
from data import Chat, read_records
from model import PARTS, even_out, load, make_optimizer, shard, update
from reward import Verifier, VerifierDown, rates, score_batch, unreadable_golds
from rollout import make_sampler
from signals import CRITICAL_WORDS, denies_image, repetition


@dataclass
class Config:
    model: str = "out/tiny/cold_start"            # where to start: model folder, run folder or hub name
    data: str = "data/tiny/rl.jsonl"              # rows with question, images, answer (maths only in the paper)
    out: str = "out/grpo"                         # run folder; the same command again goes on where it stopped
    train: tuple[str, ...] = PARTS                # parts that train: encoder connector llm
    steps: int = 528                              # gradient batches; the released evaluation hints at step 528
    prompts: int = 32                             # prompts of a step, over all processes [3.3]
    samples: int = 32                             # responses to each prompt: the group [3.3]
    lr: float = 1e-5                              # actor learning rate [3.3]; 1e-6 learns slower and lasts longer [5.3]
    schedule: str = "constant"                    # constant, linear or cosine
    warmup: int = 0                               # steps of linear warm-up
    temperature: float = 1.0                      # of sampling; the trainer divides its logits by it too
    max_new_tokens: int = 8192                    # length limit of a response; the paper raises it from 4096 on the way
    max_prompt: int = 8192                        # longer prompts (images expanded) are left out, never cut
    max_tiles: int = 12                           # tiles of an image, and a thumbnail when there are several
    thinking: bool = True                         # the prompt ends with <think>
    clip_low: float = 0.2                         # the ratio is clipped to [1 - clip_low, 1 + clip_high]
    clip_high: float = 0.2                        # larger: "clip-higher"; matters only with several minibatches
    minibatches: int = 1                          # gradient steps a batch; 1 is on-policy
    dynamic_sampling: bool = False                # replace groups that are all right or all wrong by new prompts
    kl: float = 0.0                               # weight of KL(policy || starting model); 0 loads no second model
    is_clip: float = 0.0                          # truncate sampler/trainer importance weights here; 0 = sampler is exact
    curriculum: str = ""                          # a second data file (harder problems) ...
    curriculum_at: int = 0                        # ... that replaces the first from this step on
    verifier: str = ""                            # OpenAI-compatible server asked when the rule says no, e.g. http://host:8000/v1
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the model that it serves
    rollout: str = "torch"                        # the sampler
    rollout_batch: int = 512                      # responses that the torch sampler decodes at a time
    max_tokens: int = 16384                       # tokens of one pack: what a forward holds at a time
    max_gap: float = 0.1                          # stop when sampler and trainer disagree by more at the first step (nats a token)
    weight_decay: float = 0.0                     # of AdamW
    clip: float = 1.0                             # gradient norm at most
    dtype: str = "auto"                           # bf16: computing in bf16 over fp32 weights; fp32; auto: bf16 where the processor has it
    checkpointing: bool = False                   # recompute activations in the backward: less memory, a third more time
    words: tuple[str, ...] = CRITICAL_WORDS       # critical words whose entropy is logged [5.1]
    high_entropy: float = 6.8                     # entropies above this are counted [6.5]; too high for a tiny vocabulary
    limit_bad: float = 0.01                       # share of unusable rows that is skipped; more is refused
    save_every: int = 50                          # steps between checkpoints; the last step is always saved
    seed: int = 0                                 # of the order of prompts and of sampling


# -------------------------------------------------------------------------------------------------------- the algorithm

def advantages(reward):
    """reward (P, n), a row a group -> (P, n): (r - mean of the group) / std of the group [3.3].

    Groups without spread get 0: they say nothing about which response was better.
    """
    centred = reward - reward.mean(1, keepdim=True)
    return centred / (reward.std(1, keepdim=True) + 1e-6)


def grpo_loss(logp, old_logp, adv, weight, clip_low=0.2, clip_high=0.2):
    """The clipped policy-gradient loss [3.3], a sum over response tokens. CHANGE THE ALGORITHM HERE.

    All arguments have the shape (R,), one entry a response token of a pack. adv is the advantage of its response, and
    weight is 1 / (tokens of its response * responses of the whole batch on all ranks): mean over a response's tokens,
    then over responses, however the batch was cut into packs. Returns the loss and the ratio.
    """
    ratio = (logp - old_logp).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -(weight * torch.minimum(ratio * adv, clipped * adv)).sum(), ratio


def kl_penalty(logp, ref_logp):
    """Per-token estimate of KL(policy || reference) that is never negative (Schulman's k3)."""
    return (ref_logp - logp).exp() - (ref_logp - logp) - 1


# ------------------------------------------------------------------------------------------------------------- watching

def warning_signs(m):
    """The paper's failure signatures in a step's metrics, each in one sentence (sections 5.3 to 5.6, 6.5)."""
    start = m["first"]
    signs = {
        "reward collapse": (m["reward"] < 0.5 * m["best_reward"], f"reward {m['reward']:.2f} fell below half of its best {m['best_reward']:.2f}: a lower --lr?"),
        "repetition": (m["repetition"] > 0.3, f"{m['repetition']:.0%} of the text repeats itself"),
        "entropy shooting up": (m["entropy"] > 3 * start["entropy"] + 0.5, f"entropy {m['entropy']:.2f}, at the start {start['entropy']:.2f}: unlearning; a lower --lr?"),
        "entropy vanishing": (m["entropy"] < 0.05 * start["entropy"], f"entropy {m['entropy']:.4f}, at the start {start['entropy']:.2f}: nothing is explored any more"),
        "length limit": (m["truncated"] > 0.2, f"{m['truncated']:.0%} of the responses end at the length limit: raise --max_new_tokens, or it rambles"),
        "image denial": (m["denial"] > 0.05, f"{m['denial']:.0%} of the responses claim not to see the image"),
        "sampler/trainer gap": (m["gap"] > 0.05, f"sampler and trainer differ by {m['gap']:.3f} nats a token: stale weights, other pixels or temperature?"),
        "no signal": (m["groups_mixed"] < 0.05, f"only {m['groups_mixed']:.0%} of the groups have both right and wrong answers"),
    }
    return {name: text for name, (seen, text) in signs.items() if seen}


def token_signals(rollouts, entropy, owner, words, high):
    """Sums over this rank's tokens: entropy, number, high ones, and entropy and number of critical tokens.

    entropy (R,) is the trainer's, of the distribution that produced each token, so the indicator of section 5.1 costs
    nothing here; entropy_select.py measures it on a fixed probe set.
    """
    offsets, critical = torch.searchsorted(owner, torch.arange(len(rollouts))), []
    for i, r in enumerate(rollouts):
        critical += [int(offsets[i]) + k for k in r.critical(words)]
    picked = entropy[critical]
    return [entropy.sum().item(), len(entropy), (entropy > high).sum().item(), picked.sum().item(), len(picked)]


# ------------------------------------------------------------------------------------------------------------- training

def train(cfg):
    if cfg.samples < 2 or cfg.prompts % cfg.minibatches:
        raise Refused("--samples must be at least 2 (a group is compared with itself), --prompts a multiple of --minibatches")
    world = start(cfg.seed)
    if cfg.prompts % (world.size * cfg.minibatches):
        raise Refused(f"--prompts {cfg.prompts} must be a multiple of {world.size} processes x {cfg.minibatches} minibatches")
    run = Run(cfg.out, cfg, world, may_change=("steps", "save_every", "max_tokens", "max_new_tokens", "checkpointing", "rollout_batch"))
    chat = Chat(cfg.model, cfg.max_tiles)
    pool = load_prompts(cfg, cfg.data, chat)
    hard = load_prompts(cfg, cfg.curriculum, chat) if cfg.curriculum else pool
    vlm = shard(load(cfg.model, world.device, cfg.dtype, cfg.train, checkpointing=cfg.checkpointing), world)
    reference = shard(load(cfg.model, world.device, cfg.dtype, cfg.train).requires_grad_(False), world) if cfg.kl else None
    optimizer = make_optimizer(vlm, cfg.weight_decay)
    first = resume(run, vlm, optimizer, world)
    sampler = make_sampler(cfg.rollout, vlm, chat, world, cfg.rollout_batch)
    verifier = Verifier(cfg.verifier, cfg.verifier_model) if cfg.verifier else None
    say(f"{vlm.table()}\n{len(pool)} prompts, {cfg.steps} steps of {cfg.prompts} x {cfg.samples} responses, "
        f"{world.size} process(es) on {world.device}")

    bar = tqdm(total=cfg.steps, initial=first, desc=cfg.out, disable=world.rank > 0, unit="step", dynamic_ncols=True)
    memory, times = {"best_reward": 0.0, "first": None, "said": set()}, []
    for step in range(first, cfg.steps):
        t0 = time.time()
        source = hard if cfg.curriculum and step >= cfg.curriculum_at else pool
        n = cfg.samples

        # ------------------------------------------------------------------ sample: n responses to each of this rank's prompts
        def draw(round):
            order = batch_indices(len(source), cfg.prompts, step, seed_of(cfg.seed, 0, what=round))
            prompts = [source[i] for i in order[world.rank::world.size]]
            groups = sampler.generate(prompts, n, cfg.max_new_tokens, cfg.temperature, seed_of(cfg.seed, step, world.rank, round))
            t = time.time()
            flat = [r for g in groups for r in g]
            rows = [r.prompt.record for r in flat]
            rewards = score_batch([r.text for r in flat], [r.answer for r in rows], cfg.thinking, [r.options or None for r in rows],
                                  verifier, [r.question for r in rows])
            return list(zip(groups, (rewards[i:i + n] for i in range(0, len(rewards), n)))), time.time() - t

        try:
            groups, time_reward = draw(0)
            if cfg.dynamic_sampling:  # judged by accuracy alone: a spread of format would let empty groups pass
                mixed = lambda g: len({r.accuracy for r in g[1]}) > 1  # noqa: E731
                drawn = groups
                for round in range(1, 5):
                    if sum(map(mixed, drawn)) >= len(groups):
                        break
                    more, t = draw(round)
                    drawn, time_reward = drawn + more, time_reward + t
                groups = sorted(drawn, key=mixed, reverse=True)[:len(groups)]  # stable: mixed ones first, in the order drawn
            down = ""
        except VerifierDown as error:
            down = f"The verifier does not answer: {error}"
        if verifier and (down := next(filter(None, gather(down, world)), "")):  # on one rank is on all
            if step > run.step:
                save(run, step, vlm, optimizer, world)
            raise Refused(f"{down}\nEverything up to step {step} is saved. Start the server and run the same command again.")
        t1 = time.time()

        # ------------------------------------------------------------------ reward and advantage
        rollouts, rewards = [r for g, _ in groups for r in g], [r for _, rs in groups for r in rs]
        reward = torch.tensor([r.total for r in rewards]).view(-1, n)                      # (P, n)
        adv = advantages(reward).flatten().to(world.device)                                # (P * n,)

        # ------------------------------------------------------------------ loss and step
        stats = dict.fromkeys(("loss", "gap", "clipped", "kl"), 0.0)
        ratio_max, signals, norms = 0.0, [0.0] * 5, []
        share = len(groups) // cfg.minibatches
        batches = []
        for m in range(cfg.minibatches):
            part = slice(m * share * n, (m + 1) * share * n)
            packs = even_out(chat.packs([(g[0].prompt, [r.ids for r in g]) for g, _ in groups[m * share:(m + 1) * share]],
                                        cfg.max_tokens, cfg.temperature), world)
            packs = [(p.to(world.device), w) for p, w in packs]
            with torch.no_grad():  # one gradient step: the old log-prob is the new one, detached; no second forward
                old = [vlm(p)[0] for p, _ in packs] if cfg.minibatches > 1 else [None] * len(packs)
                ref = [reference(p)[0] for p, _ in packs] if cfg.kl else [None] * len(packs)
            batches.append((part, packs, old, ref))
        for part, packs, olds, refs in batches:
            own, own_adv = rollouts[part], adv[part]
            lengths = torch.tensor([len(r.ids) for r in own], device=world.device)
            sampled = torch.cat([r.logp for r in own]).to(world.device)                    # the sampler's log-probs
            entropies, at = [], 0
            for (pack, real), old, ref in zip(packs, olds, refs):
                logp, entropy = vlm(pack)                                                  # (R,), (R,)
                old = logp.detach() if old is None else old
                here = sampled[at:at + len(logp)] if real else old
                weight = real / (lengths[pack.owner] * len(own) * world.size)              # 1/|y|, then the mean over the batch
                if cfg.is_clip:
                    weight = weight * (old - here).exp().clamp(max=cfg.is_clip)
                loss, ratio = grpo_loss(logp, old, own_adv[pack.owner], weight, cfg.clip_low, cfg.clip_high)
                if cfg.kl:
                    penalty = (weight * kl_penalty(logp, ref)).sum()
                    loss, stats["kl"] = loss + cfg.kl * penalty, stats["kl"] + penalty.item()
                loss.backward()
                if real:
                    at += len(logp)
                    entropies.append(entropy.detach())
                    stats["loss"] += loss.item()
                    stats["gap"] += (old - here).abs().sum().item()
                    stats["clipped"] += ((ratio < 1 - cfg.clip_low) | (ratio > 1 + cfg.clip_high)).sum().item()
                    ratio_max = max(ratio_max, ratio.detach().max().item())
            owner = torch.repeat_interleave(torch.arange(len(own)), lengths.cpu())
            entropies = torch.cat(entropies).cpu()
            signals = [a + b for a, b in zip(signals, token_signals(own, entropies, owner, cfg.words, cfg.high_entropy))]
            lr = learning_rate(step, cfg.steps, cfg.lr, cfg.warmup, cfg.schedule)
            norms.append(update(vlm, optimizer, lr, cfg.clip, run, [g[0].prompt.record.id for g, _ in groups]))

        # ------------------------------------------------------------------ sync: the sampler follows the trainer
        sampler.sync(vlm)
        t2 = time.time()

        # ------------------------------------------------------------------ log
        correct = torch.tensor([r.accuracy for r in rewards]).view(-1, n)
        sums = total([reward.sum().item(), correct.sum().item(), sum(r.format for r in rewards), reward.std(1).sum().item(),
                      ((correct.mean(1) > 0) & (correct.mean(1) < 1)).sum().item(), sum(len(r.ids) for r in rollouts),
                      sum(r.finish == "length" for r in rollouts), sum(denies_image(r.text) for r in rollouts),
                      sum(repetition(r.text) for r in rollouts), len(rollouts), len(groups), stats["loss"], stats["gap"],
                      stats["clipped"], stats["kl"], *signals], world)
        (r, a, f, std, mix, tokens, cut, deny, repeat, count, groups_n, loss, gap, clipped, kl, ent, ent_n, high, crit, crit_n) = sums
        peak = total([ratio_max, max(len(r.ids) for r in rollouts)], world, "max")
        metrics = {"reward": r / count, "accuracy": a / count, "format": f / count, "reward_std": std / groups_n, "groups_mixed": mix / groups_n,
                   "length": tokens / count, "length_max": peak[1], "truncated": cut / count, "denial": deny / count,
                   "repetition": repeat / count, "entropy": ent / ent_n, "entropy_high": high / ent_n,
                   "critical_entropy": crit / crit_n if crit_n else None, "critical_count": crit_n, "grad_norm": max(norms),
                   "loss": loss, "lr": optimizer.param_groups[0]["lr"], "ratio_max": peak[0], "clip_fraction": clipped / ent_n, "kl": kl,
                   "gap": gap / ent_n, "tokens": tokens, "time_sample": t1 - t0 - time_reward, "time_reward": time_reward, "time_update": t2 - t1,
                   "time_step": time.time() - t0}
        if step == 0 and metrics["gap"] > cfg.max_gap:
            raise Refused(f"sampler and trainer disagree by {metrics['gap']:.3f} nats a token at the first step (--max_gap {cfg.max_gap}). "
                          f"Likely causes: other weights, other pixels or tile limits, another temperature, bf16 on one side only.")
        if verifier:
            metrics.update({f"{name}_rate": value for name, value in rates(rewards).items()})  # of rank 0's responses
        run.log(step + 1, metrics)
        run.rollout(sample_row(step + 1, rollouts[0], rewards[0], adv[0].item()))
        times.append(metrics["time_step"])
        memory["first"] = memory["first"] or metrics
        memory["best_reward"] = max(memory["best_reward"], metrics["reward"])
        signs = warning_signs({**metrics, **memory})
        for name in signs.keys() - memory["said"]:
            say(f"step {step + 1}: {name}: {signs[name]}")
        memory["said"] = set(signs)
        bar.set_postfix_str(f"reward {metrics['reward']:.3f} accuracy {metrics['accuracy']:.2f} length {metrics['length']:.0f} entropy {metrics['entropy']:.2f}", refresh=False)
        bar.update()

        # ------------------------------------------------------------------ save
        if step + 1 == cfg.steps or (step + 1) % cfg.save_every == 0:
            save(run, step + 1, vlm, optimizer, world)
    bar.close()
    say(f"done: {run.last}" + (f"; median step {statistics.median(times):.2f} s" if times else ""))


def load_prompts(cfg, source, chat):
    """Rows -> prompts; rows whose gold answer the rule cannot read are reported before training, not at step 412."""
    records = read_records(source, limit_bad=cfg.limit_bad)
    unreadable = unreadable_golds([r.answer for r in records], [r.options or None for r in records])
    if unreadable:
        listed = "; ".join(f"row {records[i].id}: {why}" for i, why in list(unreadable.items())[:5])
        if len(unreadable) > cfg.limit_bad * len(records) and not cfg.verifier:
            raise Refused(f"{source}: the rule cannot read the gold answer of {len(unreadable)} of {len(records)} rows ({listed}). "
                          f"Mend them, give a --verifier, or raise --limit_bad.")
        say(f"{source}: the rule cannot read {len(unreadable)} gold answers ({listed})")
    return chat.prompts(records, cfg.thinking, cfg.max_prompt)


def sample_row(step, rollout, reward, adv):
    """A row of rollouts.jsonl: one response a step with everything that report.py shows of it."""
    record = rollout.prompt.record
    return {"step": step, "id": record.id, "question": record.text(), "images": [i for i in record.images if isinstance(i, str)],
            "gold": record.answer, "text": rollout.text, "reward": reward.total, "accuracy": reward.accuracy, "format": reward.format,
            "extracted": reward.extracted, "finish": rollout.finish, "advantage": adv, "tokens": rollout.pieces, "entropy": rollout.entropy}


if __name__ == "__main__":
    main(train, Config)
