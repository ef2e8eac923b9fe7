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
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from tqdm import tqdm

from common import Refused, Run, batch_indices, gather, learning_rate, main, read_jsonl, resume, save, say, seed_of, start, total
from data import Chat, read_records
from model import PARTS, even_out, load, make_optimizer, shard, share, update
from reward import Verifier, VerifierDown, rates, score_batch, unreadable_golds
from rollout import make_sampler
from signals import CRITICAL_WORDS, denies_image, repetition


@dataclass
class Config:
    model: str = "out/tiny/cold_start"            # where to start: model folder, run folder or hub name
    data: str = "data/tiny/rl.jsonl"              # rows with question, images, answer (maths only in the paper)
    columns: tuple[str, ...] = ()                 # OURS=THEIRS where the data names its columns otherwise: question=problem
    out: str = "out/grpo"                         # run folder; the same command again goes on where it stopped
    train: tuple[str, ...] = PARTS                # parts that train: encoder connector llm
    steps: int = 528                              # gradient batches; the released evaluation hints at step 528
    prompts: int = 32                             # prompts of a step, over all processes [3.3]
    samples: int = 32                             # responses to each prompt: the group [3.3]
    lr: float = 1e-5                              # actor learning rate [3.3]; 1e-6 learns slower and lasts longer [5.3]
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # how the learning rate falls after the warm-up
    warmup: int = 0                               # steps of linear warm-up
    temperature: float = 1.0                      # of sampling; the trainer divides its logits by it too
    max_new_tokens: int = 8192                    # length limit of a response; the paper raises it from 4096 on the way
    max_prompt: int = 8192                        # longer prompts (images expanded) are left out, never cut
    max_tiles: int = 12                           # tiles of an image (InternVL), and a thumbnail when there are several
    pixels: tuple[int, int] = (0, 0)              # fewest and most pixels of an image (Qwen-VL); 0 = what the model folder says
    thinking: bool = True                         # the prompt ends with <think>
    clip_low: float = 0.2                         # the ratio is clipped to [1 - clip_low, 1 + clip_high]
    clip_high: float = 0.2                        # larger: "clip-higher"; matters only with several minibatches
    minibatches: int = 1                          # gradient steps a batch; 1 is on-policy
    dynamic_sampling: bool = False                # replace groups that are all right or all wrong by new prompts
    kl: float = 0.0                               # weight of KL(policy || starting model); 0 loads no second model
    is_clip: float | None = None                  # truncate sampler/trainer importance weights here; 0: do not weigh; None: 2 with vLLM, 0 else
    curriculum: str = ""                          # a second data file (harder problems) ...
    curriculum_at: int = 0                        # ... that replaces the first from this step on
    verifier: str = ""                            # OpenAI-compatible server asked when the rule says no, e.g. http://host:8000/v1
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the model that it serves
    rollout: str = "torch"                        # the sampler: torch (exact, slow) or vllm (requirements-gpu.txt)
    tensor_parallel: int = 1                      # processes that share one vLLM engine
    vllm_memory: float = 0.45                     # share of the GPU's memory for vLLM, which sleeps while the policy is trained
    rollout_batch: int = 512                      # responses that the torch sampler decodes at a time
    max_tokens: int = 16384                       # tokens of one pack: what a forward holds at a time
    max_gap: float = 0.1                          # stop when sampler and trainer disagree by more at the first step (nats a token)
    weight_decay: float = 0.0                     # of AdamW
    clip: float = 1.0                             # gradient norm at most
    dtype: str = "auto"                           # bf16: computing in bf16 over fp32 weights; fp32; auto: bf16 where the processor has it
    checkpointing: bool = False                   # recompute activations in the backward: less memory, a third more time
    hybrid: bool = False                          # several nodes: each holds a whole copy, only gradients cross the network
    offload: bool = False                         # weights, gradients and optimizer wait in host memory: slow, but a model fits
    words: tuple[str, ...] = CRITICAL_WORDS       # critical words whose entropy is logged [5.1]
    high_entropy: float = 6.8                     # entropies above this are counted [6.5]; too high for a tiny vocabulary
    limit_bad: float = 0.01                       # share of unusable rows that is skipped; more is refused
    save_every: int = 50                          # steps between checkpoints; the last step is always saved
    seed: int = 0                                 # of the order of prompts and of sampling


# -------------------------------------------------------------------------------------------------------- the algorithm

def advantages(reward):
    """reward (P, n), a row a group -> (P, n): (r - mean of the group) / std of the group [3.3].

    Groups without spread get exactly 0: they say nothing about which response was better, and rounding must not either.
    """
    centred = reward - reward.mean(1, keepdim=True)
    spread = reward.amax(1, keepdim=True) > reward.amin(1, keepdim=True)
    return spread * centred / (reward.std(1, keepdim=True) + 1e-6)


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


# ------------------------------------------------------------------------------------------------------------- training

def train(cfg):
    if cfg.samples < 2:
        raise Refused("--samples must be at least 2: a response is compared with the others of its group")
    world = start(cfg.seed)
    if cfg.prompts % (world.size * cfg.minibatches):
        raise Refused(f"--prompts {cfg.prompts} must be a multiple of {world.size} processes x {cfg.minibatches} minibatches")
    run = Run(cfg.out, cfg, world, may_change=(*["steps"] * (cfg.schedule == "constant"), "save_every", "max_tokens", "max_new_tokens", "checkpointing", "vllm_memory", "hybrid", "offload", "rollout_batch"))
    chat = Chat(cfg.model, cfg.max_tiles, cfg.pixels)
    pool = load_prompts(cfg, cfg.data, chat)
    hard = load_prompts(cfg, cfg.curriculum, chat) if cfg.curriculum else pool
    vlm = load(cfg.model, world.device, cfg.dtype, cfg.train, checkpointing=cfg.checkpointing, world=world)
    vlm = shard(vlm, world, cfg.hybrid, cfg.offload)
    reference = cfg.kl and shard(load(cfg.model, world.device, cfg.dtype, cfg.train, world=world).requires_grad_(False), world, cfg.hybrid, cfg.offload)
    optimizer = make_optimizer(vlm, cfg.weight_decay)
    first = resume(run, vlm, optimizer, world)
    sampler = make_sampler(cfg.rollout, vlm, chat, world, cfg.rollout_batch, cfg.dtype, cfg.tensor_parallel, cfg.vllm_memory)
    is_clip = (2.0 if cfg.rollout == "vllm" else 0.0) if cfg.is_clip is None else cfg.is_clip
    verifier = Verifier(cfg.verifier, cfg.verifier_model) if cfg.verifier else None
    say(f"{vlm.table()}\n{len(pool)} prompts, {cfg.steps} steps of {cfg.prompts} x {cfg.samples} responses, "
        f"{world.size} process(es) on {world.device}")

    batch = cfg.prompts // cfg.minibatches * cfg.samples  # responses of a gradient step, over all processes
    watch, times = Watch(run), []
    bar = tqdm(total=cfg.steps, initial=first, desc=cfg.out, disable=world.rank > 0, unit="step", dynamic_ncols=True)
    for step in range(first, cfg.steps):
        begin, m = time.time(), defaultdict(float)  # m: sums over this rank's responses and tokens, then the step's metrics

        # ---------------------------------------------------------------- sample and reward: n responses to each prompt
        source = hard if cfg.curriculum and step >= cfg.curriculum_at else pool
        try:
            groups, time_reward = collect(source, step, cfg, sampler, verifier, world)
            down = ""
        except VerifierDown as error:
            down = str(error)
        if verifier and (down := next(filter(None, gather(down, world)), "")):  # on one rank is on all
            if step > run.step:
                save(run, step, vlm, optimizer, world)
            raise Refused(f"{down}\nEverything up to step {step} is saved. Start the server and run the same command again.")
        time_sample = time.time() - begin - time_reward
        if step == first and not (gap := disagreement(vlm, chat, groups, cfg, world)) <= cfg.max_gap:
            raise Refused(f"sampler and trainer disagree by {gap:.3f} nats a token at the first step (--max_gap {cfg.max_gap}). "
                          f"Likely causes: other weights, other pixels or tile limits, another temperature, bf16 on one side only.")

        # ---------------------------------------------------------------- advantage: each response against its group
        reward = torch.tensor([[r.total for r in rewards] for _, rewards in groups])       # (P, n)
        adv = advantages(reward)                                                           # (P, n)
        scored = [list(zip(rollouts, rewards, a)) for (rollouts, rewards), a in zip(groups, adv.tolist())]

        # ---------------------------------------------------------------- packs of prompts with all their responses
        batches = []  # one a gradient step: (its responses, their packs, what the packs' log-probs were)
        for mine in deal(scored, cfg, world):
            packs = chat.packs([(piece[0][0].prompt, [r.ids for r, _, _ in piece]) for piece in mine], cfg.max_tokens, cfg.temperature)
            packs = even_out(packs, world)
            with torch.no_grad():
                # one gradient step: the old log-prob is the new one, detached; no second forward, and the ratio is exactly 1
                old = [vlm(pack.to(world.device))[0] if cfg.minibatches > 1 else None for pack, _ in packs]
                ref = [reference(pack.to(world.device))[0] if cfg.kl else None for pack, _ in packs]
            batches.append(([response for piece in mine for response in piece], zip(packs, old, ref)))

        # ---------------------------------------------------------------- loss
        for responses, packs in batches:
            rollouts = [r for r, _, _ in responses]
            own_adv = torch.tensor([a for _, _, a in responses], device=world.device)
            lengths = torch.tensor([len(r.ids) for r in rollouts], device=world.device)    # |y|
            sampled = torch.cat([r.logp for r in rollouts]).to(world.device)               # the sampler's log-probs
            entropies, at = [], 0
            for (pack, real), old, ref in packs:
                pack = pack.to(world.device)                                               # images wait in host memory
                logp, entropy = vlm(pack)                                                  # (R,), (R,)
                old = logp.detach() if old is None else old
                drawn = sampled[at:at + len(logp)] if real else old
                weight = real / (lengths[pack.owner] * batch)                              # mean over |y|, then over responses
                if is_clip:
                    weight = weight * (old - drawn).exp().clamp(max=is_clip)
                loss, ratio = grpo_loss(logp, old, own_adv[pack.owner], weight, cfg.clip_low, cfg.clip_high)
                if cfg.kl:
                    penalty = (weight * kl_penalty(logp, ref)).sum()
                    loss, m["kl"] = loss + cfg.kl * penalty, m["kl"] + penalty.item() / cfg.minibatches
                loss.backward()
                if real:
                    at += len(logp)
                    entropies.append(entropy.detach().cpu())
                    m["loss"] += loss.item() / cfg.minibatches
                    m["gap"] += (old - drawn).abs().sum().item()
                    m["clip_fraction"] += ((ratio < 1 - cfg.clip_low) | (ratio > 1 + cfg.clip_high)).sum().item()
                    m["ratio_max"] = max(m["ratio_max"], ratio.detach().max().item())
            count_tokens(m, rollouts, torch.cat(entropies), cfg)

            # ------------------------------------------------------------ step
            lr = learning_rate(step, cfg.steps, cfg.lr, cfg.warmup, cfg.schedule)
            m["grad_norm"] = max(m["grad_norm"], update(vlm, optimizer, lr, cfg.clip, run, sorted({r.prompt.record.id for r in rollouts})))

        # ---------------------------------------------------------------- sync: the sampler follows the trainer
        sampler.sync(vlm)

        # ---------------------------------------------------------------- log
        m = summary(m, groups, reward, world)
        m.update(lr=optimizer.param_groups[0]["lr"], time_sample=time_sample, time_reward=time_reward,
                 time_update=time.time() - begin - time_sample - time_reward, time_step=time.time() - begin)
        if verifier:
            m.update({f"{name}_rate": value for name, value in rates([r for _, rs in groups for r in rs]).items()})  # rank 0's
        run.log(step + 1, m)
        run.rollout(sample_row(step + 1, *batches[0][0][0]))
        watch(step + 1, m)
        times.append(m["time_step"])
        bar.set_postfix_str(f"reward {m['reward']:.3f} accuracy {m['accuracy']:.2f} length {m['length']:.0f} entropy {m['entropy']:.2f}", refresh=False)
        bar.update()

        # ---------------------------------------------------------------- save
        if step + 1 == cfg.steps or (step + 1) % cfg.save_every == 0:
            save(run, step + 1, vlm, optimizer, world)
    bar.close()
    say(f"done: {run.last}" + (f"; median step {statistics.median(times):.2f} s" if times else ""))


def collect(source, step, cfg, sampler, verifier, world):
    """This rank's share of the step's prompts, sampled and rewarded: [(rollouts, rewards)], a group a prompt, and the
    seconds that were spent waiting for rewards after the last response. With dynamic sampling, groups that are all right
    or all wrong are replaced by new ones (up to four more draws), judged by accuracy alone: a spread of format would let
    empty groups pass."""
    groups, time_reward, wanted = [], 0.0, cfg.prompts // world.size
    mixed = lambda group: len({r.accuracy for r in group[1]}) > 1  # noqa: E731
    for draw in range(5 if cfg.dynamic_sampling else 1):
        order = batch_indices(len(source), cfg.prompts, step, seed_of(cfg.seed, 0, what=draw))
        prompts = [source[i] for i in order[world.rank::world.size]]
        finished, rewards, jobs = [], {}, []

        def reward_finished():  # in a thread, while later responses are still being sampled: all groups complete by now
            now = [finished.pop() for _ in range(len(finished))]
            flat = [r for _, group in now for r in group]
            rows = [r.prompt.record for r in flat]
            scores = iter(score_batch([r.text for r in flat], [r.answer for r in rows], cfg.thinking, [r.options or None for r in rows],
                                      verifier, [r.question for r in rows]) if flat else ())
            rewards.update({i: [next(scores) for _ in group] for i, group in now})

        def done(i, group):
            finished.append((i, group))
            jobs.append(thread.submit(reward_finished))

        with ThreadPoolExecutor(1) as thread:
            sampled = sampler.generate(prompts, cfg.samples, cfg.max_new_tokens, cfg.temperature, seed_of(cfg.seed, step, world.rank, draw), done=done)
            begin = time.time()
            for job in jobs:
                job.result()  # raises what went wrong in the thread
        time_reward += time.time() - begin
        groups += [(group, rewards[i]) for i, group in enumerate(sampled)]
        if sum(map(mixed, groups)) >= wanted:
            break
    return (sorted(groups, key=mixed, reverse=True) if cfg.dynamic_sampling else groups)[:wanted], time_reward


@torch.no_grad()
def disagreement(vlm, chat, groups, cfg, world):
    """Mean difference, in nats a token, of the sampler's log-probs and the trainer's: of every response of the step, before
    anything is learned from one of them. (m["gap"] is of those that are trained.)"""
    packs = chat.packs([(rollouts[0].prompt, [r.ids for r in rollouts]) for rollouts, _ in groups], cfg.max_tokens, cfg.temperature)
    sampled, at, gap = torch.cat([r.logp for rollouts, _ in groups for r in rollouts]), 0, 0.0
    for pack, real in even_out(packs, world):
        logp = vlm(pack.to(world.device))[0].cpu()
        if real:
            gap, at = gap + (logp - sampled[at:at + len(logp)]).abs().sum().item(), at + len(logp)
    gap, tokens = total([gap, at], world)
    return gap / max(1, tokens)


def deal(groups, cfg, world):
    """This rank's part of each gradient step, whoever sampled it: [[piece]], a piece being a group or a part of one.

    groups: this rank's, each [(rollout, reward, advantage)]. Groups without spread have no gradient and are left out
    (unless KL gives them one), as far as every rank keeps something to do; long groups are cut, so that all ranks get about as
    many tokens. The normaliser is the whole batch all the same: what is left out counts as the 0 that it is.
    """
    cost = lambda piece: len(piece[0][0].prompt.full) + sum(len(r.ids) for r, _, _ in piece)  # noqa: E731
    counts = lambda group: bool(cfg.kl) or any(a for _, _, a in group)  # noqa: E731
    everyone = [group for of_ranks in zip(*gather(groups, world)) for group in of_ranks]  # in the order of the prompts
    size, steps = len(everyone) // cfg.minibatches, []
    for part in (everyone[i:i + size] for i in range(0, len(everyone), size)):
        pieces, keep = [], max(world.size, sum(map(counts, part)))
        for group in sorted(part, key=counts, reverse=True)[:keep]:
            cuts = -(-cost(group) // cfg.max_tokens)
            pieces += [piece for k in range(cuts) if (piece := group[k * len(group) // cuts:(k + 1) * len(group) // cuts])]
        steps.append(share(pieces, cost, world))
    return steps


# ------------------------------------------------------------------------------------------------------------- watching

def count_tokens(m, rollouts, entropy, cfg):
    """Add this minibatch's tokens to the sums. entropy (R,) is the trainer's, of the distribution that produced each
    token, so the indicator of section 5.1 costs nothing here; entropy_select.py measures it on a fixed probe set."""
    critical, at = [], 0
    for r in rollouts:
        critical += [at + k for k in r.critical(cfg.words)]
        r.entropy = entropy[at:at + len(r.ids)] if r.entropy is None else r.entropy  # vLLM gives none
        at += len(r.ids)
    m["tokens"] += len(entropy)
    m["entropy"] += entropy.sum().item()
    m["entropy_high"] += (entropy > cfg.high_entropy).sum().item()
    m["critical_entropy"] += entropy[critical].sum().item()
    m["critical_count"] += len(critical)


def summary(m, groups, reward, world):
    """The step's metrics over all ranks, from this rank's sums."""
    rollouts, rewards = [r for g, _ in groups for r in g], [r for _, rs in groups for r in rs]
    peak = {"ratio_max": m.pop("ratio_max"), "grad_norm": m.pop("grad_norm"), "length_max": max(len(r.ids) for r in rollouts)}
    m.update(count=len(rollouts), groups=len(groups), reward=reward.sum().item(), reward_std=reward.std(1).sum().item(),
             accuracy=sum(r.accuracy for r in rewards), format=sum(r.format for r in rewards),
             groups_mixed=sum(len({r.accuracy for r in rs}) > 1 for _, rs in groups), length=sum(len(r.ids) for r in rollouts),
             truncated=sum(r.finish == "length" for r in rollouts), denial=sum(denies_image(r.text) for r in rollouts),
             repetition=sum(repetition(r.text) for r in rollouts))
    m = dict(zip(m, total(m.values(), world)))
    per = {"count": ("reward", "accuracy", "format", "length", "truncated", "denial", "repetition"), "groups": ("reward_std", "groups_mixed"),
           "tokens": ("entropy", "entropy_high", "gap", "clip_fraction"), "critical_count": ("critical_entropy",)}
    for count, names in per.items():
        m.update({name: m[name] / m[count] if m[count] else None for name in names})
    return {**m, **dict(zip(peak, total(peak.values(), world, "max")))}


class Watch:
    """Says in one line when one of the paper's failure signatures appears (sections 5.3 to 5.6, 6.5), and again only
    after it was gone. Compares with the run's first step and best reward, also after a resume."""

    def __init__(self, run):
        before = read_jsonl(run.dir / "metrics.jsonl")
        self.first, self.best, self.said = before[0] if before else None, max((m["reward"] for m in before), default=0), set()

    def __call__(self, step, m):
        self.first, self.best = self.first or m, max(self.best, m["reward"])
        entropy = self.first["entropy"]
        signs = {
            "reward collapse": (m["reward"] < 0.5 * self.best, f"reward {m['reward']:.2f}, its best was {self.best:.2f}: a lower --lr?"),
            "repetition": (m["repetition"] > 0.3, f"{m['repetition']:.0%} of the text repeats itself"),
            "entropy shoots up": (m["entropy"] > 3 * entropy + 0.5, f"{m['entropy']:.2f}, at the start {entropy:.2f}: it unlearns; a lower --lr?"),
            "entropy vanishes": (m["entropy"] < 0.05 * entropy, f"{m['entropy']:.4f}, at the start {entropy:.2f}: nothing is explored any more"),
            "lengths at the limit": (m["truncated"] > 0.2, f"{m['truncated']:.0%} of the responses are cut off: raise --max_new_tokens, or it rambles"),
            "image denial": (m["denial"] > 0.05, f"{m['denial']:.0%} of the responses claim not to see the image"),
            "sampler/trainer gap": (m["gap"] > 0.05, f"{m['gap']:.3f} nats a token: stale weights, other pixels or another temperature?"),
            "no signal": (m["groups_mixed"] < 0.05, f"only {m['groups_mixed']:.0%} of the groups have right and wrong answers"),
        }
        seen = {name for name, (bad, _) in signs.items() if bad}
        for name in sorted(seen - self.said):
            say(f"step {step}: {name}: {signs[name][1]}")
        self.said = seen


def load_prompts(cfg, source, chat):
    """Rows -> prompts; rows whose gold answer the rule cannot read are reported before training, not at step 412."""
    records = read_records(source, cfg.columns, limit_bad=cfg.limit_bad)
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
