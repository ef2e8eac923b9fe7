"""Stage 2, reinforcement finetuning: GRPO on maths alone with every part trainable (paper sections 3.1 and
3.3). Start here.

One step: sample 32 prompts x 32 responses, reward each with 0.8 * right + 0.2 * format, compare it with its
group, and take one gradient step. So the policy that learns is the policy that sampled (the ratio is exactly
1, the clip never bites), there is no KL term and no reference model, and the loss is a mean over each
response's own tokens, then over responses. What the paper varies is a flag: parts trained, learning rate,
clip-higher, minibatches, dynamic sampling, KL, a harder data file later on, length limits, and no thinking
prompt. To change the algorithm, edit `advantages` or `grpo_loss`: what they need stands beside them.

    laptop:  python grpo.py --model out/tiny/cold_start --lr 1e-4 --samples 16 --steps 40
    8 GPUs:  torchrun --nproc_per_node 8 grpo.py --model out/cold_start --data MM-K12.parquet --checkpointing

The loss it prints is near 0 by construction: advantages of a group sum to 0 and the ratio is 1. Its gradient
is not 0. Look at the reward.
"""
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from tqdm import tqdm

from data import Chat, read_records
from machinery.checkpoint import resume, save
from machinery.collect import sample_and_reward
from machinery.files import Refused, check_flags, main, say
from machinery.loggers import Logger
from machinery.metrics import Watch, count_loss, count_tokens, sample_rows, summary
from machinery.processes import gather, start
from machinery.run import Run
from machinery.sharding import deal, even_out, shard
from machinery.steps import batch_indices, learning_rate, seed_of
from model import PARTS, load, make_optimizer, update
from pack import Pack, make_packs
from reward import Verifier, VerifierDown, rates, report_unreadable, score_batch
from rollout import Group, make_sampler, refuse_gap
from signals import CRITICAL_WORDS


@dataclass
class Config:
    model: str = "out/tiny/cold_start"      # where to start: model folder, run folder or hub name
    data: str = "data/tiny/rl.jsonl"        # rows with question, images, answer (maths only in the paper)
    columns: tuple[str, ...] = ()           # OURS=THEIRS for columns with other names, e.g. question=problem
    image_root: str = ""                    # folder that image paths start from; "": the data file's
    out: str = "out/grpo"                   # run folder; the same command again goes on where it stopped
    train: tuple[str, ...] = PARTS          # parts that train: encoder connector llm
    lora: int = 0                           # the LLM learns by adapters of this rank (8 is enough); 0: whole
    steps: int = 528                        # gradient batches; the released evaluation hints at step 528
    prompts: int = 32                       # prompts of a step, over all processes [3.3]
    samples: int = 32                       # responses to each prompt: the group [3.3]
    lr: float = 1e-5                        # actor learning rate [3.3]; 1e-6 is slower and lasts longer [5.4]
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # how the rate falls after the warm-up
    warmup: int = 0                         # steps of linear warm-up
    temperature: float = 1.0                # of sampling; the trainer divides its logits by it too
    max_new_tokens: int = 8192              # length limit of a response; the paper raises it from 4096
    max_prompt: int = 8192                  # longer prompts (images expanded) are left out, never cut
    max_tiles: int = 12                     # tiles of an image (InternVL), and a thumbnail if it is several
    pixels: tuple[int, int] = (0, 0)        # fewest, most pixels of an image (Qwen-VL); 0: the model's
    thinking: bool = True                   # the prompt ends with <think>
    ask: str = ""                           # said below every question: "Put the final answer in \boxed{}."
    system: str = ""                        # system prompt; "": what the chat template has
    clip_low: float = 0.2                   # the ratio is clipped to [1 - clip_low, 1 + clip_high]
    clip_high: float = 0.2                  # larger: "clip-higher"; matters only with several minibatches
    minibatches: int = 1                    # gradient steps a batch; 1 is on-policy
    dynamic_sampling: bool = False          # replace groups that are all right or all wrong by new prompts
    kl: float = 0.0                         # weight of KL(policy || starting model); 0 loads no second model
    is_clip: float | None = None            # largest importance weight; 0: none; None: 2 with vLLM, else 0
    curriculum: str = ""                    # a second data file (harder problems) ...
    curriculum_at: int = 0                  # ... that replaces the first from this step on
    verifier: str = ""                      # OpenAI-compatible server for the rule's no: http://host:8000/v1
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the model that it serves
    rollout: str = "torch"                  # the sampler: torch (exact, slow) or vllm (requirements-gpu.txt)
    tensor_parallel: int = 1                # processes that share one vLLM engine
    vllm_memory: float = 0.45               # share of the GPU's memory for vLLM, which sleeps during training
    rollout_batch: int = 512                # responses that the torch sampler decodes at a time
    max_tokens: int = 16384                 # tokens of one pack: what a forward holds at a time
    max_gap: float = 0.1                    # nats a token that sampler and trainer may differ at first
    weight_decay: float = 0.0               # of AdamW
    clip: float = 1.0                       # gradient norm at most
    dtype: str = "auto"                     # bf16 (over fp32 weights), fp32; auto: bf16 where it is native
    checkpointing: bool = False             # recompute activations: less memory, a third more time
    compile: bool = False                   # torch.compile of the blocks: minutes at the start, then faster
    hybrid: bool = False                    # several nodes: a whole copy on each, only gradients travel
    offload: bool = False                   # weights, gradients, optimizer in host memory: slow, but it fits
    words: tuple[str, ...] = CRITICAL_WORDS  # critical words whose entropy is logged [5.1]
    high_entropy: float = 6.8               # counted as high entropy [6.5]; too much for a tiny vocabulary
    limit_bad: float = 0.01                 # share of unusable rows that is skipped; more is refused
    logger: Logger = ""                     # gets the metrics, too: wandb, trackio, swanlab, tensorboard
    save_every: int = 50                    # steps between checkpoints; the last step is always saved
    seed: int = 0                           # of the order of prompts and of sampling


# flags that may change when a run goes on, because what it has computed so far does not depend on them
MAY_CHANGE = ("save_every", "max_tokens", "max_new_tokens", "checkpointing", "compile", "vllm_memory",
              "hybrid", "offload", "rollout_batch", "logger")


# -------------------------------------------------------------- the algorithm: CHANGE ADVANTAGE AND LOSS HERE

def advantages(reward):
    """reward (P, n), a row a group -> (P, n): (r - mean of the group) / std of the group [3.3]. Groups
    without spread get exactly 0: they do not say which response was better, and rounding must not either."""
    centred = reward - reward.mean(1, keepdim=True)
    spread = reward.amax(1, keepdim=True) > reward.amin(1, keepdim=True)
    return spread * centred / (reward.std(1, keepdim=True) + 1e-6)


@dataclass
class MicroBatch:
    """What one forward and backward consume: a pack, and what the loss needs for each of its R response
    tokens. Responses are whole; what belongs to a response is repeated for each of its tokens."""
    pack: Pack                          # pack.owner (R,): the number of the response that a token belongs to
    adv: torch.Tensor                   # (R,) advantage of the response
    length: torch.Tensor                # (R,) |y|, tokens of the response
    sampled_logp: torch.Tensor          # (R,) log-prob of the token when it was sampled, by the sampler
    old_logp: torch.Tensor | None       # (R,) the same by the trainer, before the batch's first gradient step
    ref_logp: torch.Tensor | None       # (R,) by the model that the run started from; None without --kl
    responses: int                      # in the gradient step, over all packs and ranks
    tokens: int                         # response tokens in the gradient step, over all packs and ranks
    real: float = 1.0                   # 0: a repeat that only keeps this rank in step with the others

    def to(self, device):
        moved = {name: x.to(device) for name, x in vars(self).items() if hasattr(x, "to")}
        return replace(self, **moved)


def grpo_loss(logp, entropy, micro, cfg):
    """The clipped policy-gradient loss [3.3], a sum over the response tokens of a pack.

    logp, entropy (R,): of the policy that learns; both carry gradients. Returns the loss, and for the log the
    ratio (R,) and the KL (or None). The weight of a token makes the sum a mean over each response's tokens
    (1/|y|), then over all responses of the gradient step, however they are cut into packs and dealt to ranks.
    """
    weight = micro.real / (micro.length * micro.responses)
    is_clip = 2.0 * (cfg.rollout == "vllm") if cfg.is_clip is None else cfg.is_clip
    if is_clip:  # for a sampler that does not compute exactly as the trainer
        weight = weight * (micro.old_logp - micro.sampled_logp).exp().clamp(max=is_clip)
    ratio = (logp - micro.old_logp).exp()
    clipped = ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high)
    loss, kl = -(weight * torch.minimum(ratio * micro.adv, clipped * micro.adv)).sum(), None
    if cfg.kl:
        kl = (weight * kl_penalty(logp, micro.ref_logp)).sum()
        loss = loss + cfg.kl * kl
    return loss, ratio, kl


def has_gradient(group, cfg):
    """Whether grpo_loss has a term for this group's tokens; if not, they are left out of the packs. In a
    group without spread every advantage is 0, so only the KL penalty is left. CHANGE IT WITH grpo_loss."""
    return bool(cfg.kl) or any(r.advantage for r in group.rollouts)


def kl_penalty(logp, ref_logp):
    """Per-token estimate of KL(policy || reference) that is never negative (Schulman's k3)."""
    return (ref_logp - logp).exp() - (ref_logp - logp) - 1


# --------------------------------------------------------------------------------------------------- training

def train(cfg):
    check_flags(cfg)
    world = start(cfg.seed)
    if cfg.prompts % (world.size * cfg.minibatches):
        raise Refused(f"--prompts {cfg.prompts} must be a multiple of {world.size} processes x "
                      f"{cfg.minibatches} minibatches")
    run = Run(cfg.out, cfg, world, MAY_CHANGE + (("steps",) if cfg.schedule == "constant" else ()))
    chat = Chat(cfg.model, cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system)
    pool = load_prompts(cfg, cfg.data, chat)
    hard = load_prompts(cfg, cfg.curriculum, chat) if cfg.curriculum else pool
    run.refuse_other_data(data=[p.record for p in pool],
                          curriculum=[p.record for p in hard if hard is not pool])
    run.open_log(cfg.logger)
    vlm = load(cfg.model, world.device, cfg.dtype, cfg.train, checkpointing=cfg.checkpointing, world=world,
               lora=cfg.lora, compile=cfg.compile)
    vlm = shard(vlm, world, cfg.hybrid, cfg.offload)
    reference = None
    if cfg.kl:
        reference = load(cfg.model, world.device, cfg.dtype, cfg.train, world=world).requires_grad_(False)
        reference = shard(reference, world, cfg.hybrid, cfg.offload)
    optimizer = make_optimizer(vlm, cfg.weight_decay)
    first = resume(run, vlm, optimizer, world)
    sampler = make_sampler(cfg.rollout, vlm, chat, world, cfg.rollout_batch, cfg.dtype, cfg.tensor_parallel,
                           cfg.vllm_memory)
    verifier = Verifier(cfg.verifier, cfg.verifier_model) if cfg.verifier else None
    say(f"{vlm.table()}\n{len(pool)} prompts, {cfg.steps} steps of {cfg.prompts} x {cfg.samples} responses, "
        f"{world.size} process(es) on {world.device}")

    watch, times = Watch(run), []
    bar = tqdm(total=cfg.steps, initial=first, desc=cfg.out, disable=world.rank > 0, unit="step",
               dynamic_ncols=True)
    for step in range(first, cfg.steps):
        begin, m = time.time(), defaultdict(float)  # m: this rank's sums over tokens, then the step's metrics

        # ----------------------------------------------------------- sample, and reward: n responses a prompt
        source = hard if cfg.curriculum and step >= cfg.curriculum_at else pool
        try:
            groups, time_reward = collect(source, step, cfg, sampler, verifier, world)
        except VerifierDown as error:  # on every rank
            if step > run.step:
                save(run, step, vlm, optimizer, world)
            raise Refused(f"{error}\nEverything up to step {step} is saved. "
                          f"Start the server and run the same command again.") from error
        time_sample = time.time() - begin - time_reward
        if step == first:
            refuse_gap(groups, vlm, chat, cfg, world)

        # --------------------------------------------------------- advantage: each response against its group
        reward = set_advantages(groups)                                                    # (P, n)

        # ------------------------------------------------------------- pack: prompts with all their responses
        batches = make_batches(groups, vlm, reference, chat, cfg, world)
        for batch in batches:
            # ------------------------------------------------------------------------------------------- loss
            entropies = []
            for micro in batch.micro_batches:
                micro = micro.to(world.device)                                    # images wait in host memory
                logp, entropy = vlm(micro.pack)                                            # (R,), (R,)
                if micro.old_logp is None:  # one gradient step a batch: on-policy, the ratio is 1
                    micro.old_logp = logp.detach()
                loss, ratio, kl = grpo_loss(logp, entropy, micro, cfg)
                loss.backward()
                if micro.real:
                    entropies.append(entropy.detach().cpu())
                    count_loss(m, loss, ratio, kl, micro, cfg)
            count_tokens(m, batch.rollouts, torch.cat(entropies), cfg)

            # ------------------------------------------------------------------------------------------- step
            lr = learning_rate(step, cfg.steps, cfg.lr, cfg.warmup, cfg.schedule)
            names = sorted({r.prompt.record.id for r in batch.rollouts})
            m["grad_norm"] = max(m["grad_norm"], update(vlm, optimizer, lr, cfg.clip, run, names))

        # -------------------------------------------------------------- sync: the sampler follows the trainer
        sampler.sync(vlm)

        # ------------------------------------------------------------------------------------------------ log
        m = summary(m, groups, reward, world)
        spent = time.time() - begin
        m.update(lr=optimizer.param_groups[0]["lr"], time_sample=time_sample, time_reward=time_reward,
                 time_update=spent - time_sample - time_reward, time_step=spent)
        if verifier:
            rewards = [r.reward for group in groups for r in group.rollouts]
            m.update({f"{name}_rate": value for name, value in rates(rewards).items()})  # rank 0's
        run.log(step + 1, m)
        for row in sample_rows(step + 1, groups[0].rollouts, batches[0].rollouts):
            run.rollout(row)
        watch(step + 1, m)
        times.append(spent)
        bar.set_postfix_str(f"reward {m['reward']:.3f} accuracy {m['accuracy']:.2f} length {m['length']:.0f} "
                            f"entropy {m['entropy']:.2f}", refresh=False)
        bar.update()

        # ----------------------------------------------------------------------------------------------- save
        if step + 1 == cfg.steps or (step + 1) % cfg.save_every == 0:
            save(run, step + 1, vlm, optimizer, world)
    bar.close()
    say(f"done: {run.last}" + (f"; median step {statistics.median(times):.2f} s" if times else ""))


# ------------------------------------------------------------------------------------- what a step is made of

def collect(source, step, cfg, sampler, verifier, world):
    """This rank's share of the step's prompts, sampled and rewarded: [Group], and the seconds that were spent
    waiting for rewards after the last response. If any rank lost the verifier, all ranks raise VerifierDown.

    With dynamic sampling, groups that are all right or all wrong are replaced by new ones (up to four more
    draws, of all ranks). That is judged by accuracy alone: a spread of format would let empty groups pass.
    """
    groups, waited, wanted, lost = [], 0.0, cfg.prompts // world.size, ""
    for draw in range(5 if cfg.dynamic_sampling else 1):
        order = batch_indices(len(source), cfg.prompts, step, seed_of(cfg.seed, 0, what=draw))
        prompts = [source[i] for i in order[world.rank::world.size]]
        seed = seed_of(cfg.seed, step, world.rank, draw)
        try:
            sampled, seconds = sample_and_reward(
                partial(sampler.generate, prompts, cfg.samples, cfg.max_new_tokens, cfg.temperature, seed),
                partial(set_rewards, cfg=cfg, verifier=verifier))
            groups += [Group(prompt, rollouts) for prompt, rollouts in zip(prompts, sampled)]
            waited += seconds
        except VerifierDown as error:
            lost = str(error)
        # all ranks decide together: those that share a vLLM engine would wait in it for one that left
        reasons, enough = zip(*gather((lost, sum(g.mixed() for g in groups) >= wanted), world))
        if any(reasons):
            raise VerifierDown(next(filter(None, reasons)))
        if all(enough):
            break
    if cfg.dynamic_sampling:
        groups.sort(key=Group.mixed, reverse=True)
    return groups[:wanted], waited


def set_rewards(rollouts, cfg, verifier):
    """Fill in Rollout.reward. CHANGE THE REWARD in reward.py, or here if it needs more than text and gold."""
    rows = [r.prompt.record for r in rollouts]
    rewards = score_batch([r.text for r in rollouts], [row.answer for row in rows], cfg.thinking,
                          [row.options or None for row in rows], verifier, [row.question for row in rows])
    for r, reward in zip(rollouts, rewards, strict=True):
        r.reward = reward


def set_advantages(groups):
    """Fill in Rollout.advantage. Returns the rewards (P, n), a row a group."""
    reward = torch.tensor([[r.reward.total for r in group.rollouts] for group in groups])
    for group, row in zip(groups, advantages(reward).tolist()):
        for r, advantage in zip(group.rollouts, row):
            r.advantage = advantage
    return reward


@dataclass
class Batch:
    """What one gradient step consumes on this rank."""
    rollouts: list        # its responses, numbered as in Pack.owner
    micro_batches: list


@torch.no_grad()
def make_batches(groups, vlm, reference, chat, cfg, world):
    """[Batch], one for each gradient step: this rank's part of the groups of all ranks, in packs, with the
    log-probs that have to be known before the first step."""
    batches, responses = [], cfg.prompts // cfg.minibatches * cfg.samples
    for mine, tokens in deal(groups, cfg.minibatches, partial(has_gradient, cfg=cfg), cfg.max_tokens, world):
        batch = Batch([r for group in mine for r in group.rollouts], [])
        packs = make_packs(chat, [group.with_ids() for group in mine], cfg.max_tokens, cfg.temperature)
        adv = torch.tensor([r.advantage for r in batch.rollouts])
        length = torch.tensor([len(r.ids) for r in batch.rollouts])
        for pack, real in even_out(packs, world):
            numbers = pack.owner.unique_consecutive().tolist()  # of the responses in it, all of them whole
            batch.micro_batches.append(MicroBatch(
                pack, adv[pack.owner], length[pack.owner],
                sampled_logp=torch.cat([batch.rollouts[i].logp for i in numbers] or [torch.zeros(0)]),
                old_logp=vlm(pack.to(world.device))[0] if cfg.minibatches > 1 else None,
                ref_logp=reference(pack.to(world.device))[0] if reference else None,
                responses=responses, tokens=tokens, real=real))
        batches.append(batch)
    return batches


def load_prompts(cfg, source, chat):
    """Rows -> prompts. Gold answers that the rule cannot read are reported now, not at step 412."""
    records = read_records(source, cfg.columns, limit_bad=cfg.limit_bad, image_root=cfg.image_root)
    report_unreadable(source, records, cfg.limit_bad, cfg.verifier)
    return chat.prompts(records, cfg.thinking, cfg.max_prompt)


if __name__ == "__main__":
    main(train, Config)
