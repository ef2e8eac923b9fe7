"""Stage 2, reinforcement finetuning: GRPO on maths alone, every part trainable (paper sections 3.1, 3.3).

One step: sample 32 prompts x 32 responses, reward each with 0.8 * right + 0.2 * format, compare it with its
group, and take one gradient step. So the policy that learns is the policy that sampled (the ratio is exactly
1, the clip never bites), there is no KL term and no reference model, and the loss is a mean over each
response's own tokens, then over responses. What the paper varies is a flag: parts trained, learning rate,
clip-higher, minibatches, dynamic sampling, KL, a harder data file later on, length limits, and no thinking
prompt. To change the algorithm, edit `advantages` or `grpo_loss`: what they need stands beside them.

    laptop:  python grpo.py --model out/tiny/cold_start --lr 1e-4 --samples 16 --steps 40
    8 GPUs:  torchrun --nproc_per_node 8 grpo.py --model out/cold_start --data MM-K12.parquet --checkpointing

Read `train` first. The loss is near 0 by construction (a group's advantages sum to 0): look at the reward.
"""
import time
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import torch
from tqdm import tqdm

from data import Processor, read_records
from machinery.files import Refused, main, say
from machinery.metrics import add_up, rollout_rows, summary
from machinery.optimizer import learning_rates
from machinery.parallel import deal, even_out, gather, start_processes
from machinery.run import Run, batch_indices, seed_of
from model import PARTS, load_model, make_optimizer, update
from pack import OnDevice, Pack, make_packs
from reward import Verifier, VerifierDown, rates, report_unreadable, score_batch
from rollout import Group, make_sampler, check_gap
from signals import CRITICAL_WORDS


@dataclass
class Config:
    model: str = "out/tiny/cold_start"      # where to start: model folder, run folder or hub name
    data: str = "data/tiny/rl.jsonl"        # rows with question, images, answer (maths only in the paper)
    columns: tuple[str, ...] = ()           # OURS=THEIRS for columns with other names, e.g. question=problem
    image_root: str = ""                    # folder that image paths start from; "": the data file's
    out: str = "out/grpo"                   # run folder; the same command again goes on where it stopped
    train: tuple[str, ...] = PARTS          # parts that train: encoder connector llm
    lora: int = 0                           # rank of the LLM's LoRA adapters (8 is enough); 0: none
    steps: int = 528                        # training steps; the released checkpoint may be that of step 528
    prompts: int = 32                       # prompts of a step, over all processes [3.3]
    samples: int = 32                       # responses to each prompt: the group [3.3]
    lr: float = 1e-5                        # actor learning rate [3.3]; 1e-6 is slower and lasts longer [5.4]
    lr_encoder: float | None = None         # the encoder's learning rate; None: --lr
    lr_connector: float | None = None       # the connector's
    lr_llm: float | None = None             # the LLM's
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
    is_clip: float | None = None            # importance sampling's largest weight; 0: off; None: 2 with vLLM
    curriculum: str = ""                    # a second data file (harder problems) ...
    curriculum_at: int = 0                  # ... that replaces the first from this step on
    verifier: str = ""                      # OpenAI-compatible server, asked when the rule says no
    verifier_model: str = "Qwen/Qwen2.5-32B-Instruct"  # the model that it serves
    rollout: Literal["torch", "vllm"] = "torch"  # exact and slow, or fast with requirements-gpu.txt
    tensor_parallel: int = 1                # processes that share one vLLM engine
    vllm_memory: float = 0.45               # share of the GPU's memory for vLLM, which sleeps during training
    rollout_batch: int = 512                # responses that the torch sampler decodes at a time
    max_tokens: int = 16384                 # tokens of one pack: what a forward holds at a time
    max_gap: float = 0.1                    # largest mean gap of their log-probs at the first step (nats)
    weight_decay: float = 0.0               # of AdamW
    clip: float = 1.0                       # largest gradient norm
    dtype: Literal["auto", "bf16", "fp32"] = "auto"  # bf16: over fp32 weights; auto: bf16 where it is native
    checkpointing: bool = False             # recompute activations: less memory, a third more time
    compile: bool = False                   # torch.compile of the blocks: minutes at the start, then faster
    hybrid: bool = False                    # several nodes: shard inside each, replicate across them (HSDP)
    offload: bool = False                   # weights, gradients, optimizer in host memory: slow, but it fits
    words: tuple[str, ...] = CRITICAL_WORDS  # critical words whose entropy is logged [5.1]
    high_entropy: float = 6.8               # counted as high entropy [6.5]; too much for a tiny vocabulary
    limit_bad: float = 0.01                 # share of unusable rows that is skipped; more is refused
    logger: str = ""                        # gets the metrics, too: wandb, trackio, swanlab
    save_every: int = 50                    # steps between checkpoints; the last step is always saved
    seed: int = 0                           # of the order of prompts and of sampling


# -------------------------------------------------------------- the algorithm: CHANGE ADVANTAGE AND LOSS HERE

def advantages(reward):
    """reward (P, n), a row a group -> (P, n): (r - mean of the group) / its std (over n - 1) [3.3]. Groups
    without spread get exactly 0: they do not say which response was better, and rounding must not either."""
    centred = reward - reward.mean(1, keepdim=True)
    spread = reward.amax(1, keepdim=True) > reward.amin(1, keepdim=True)
    return spread * centred / (reward.std(1, keepdim=True) + 1e-6)


@dataclass
class MicroBatch(OnDevice):
    """What one forward and backward consume: a pack, and what the loss needs for each of its R response
    tokens. Responses are whole; what belongs to a response is repeated for each of its tokens."""
    pack: Pack                          # pack.owner (R,): the number of the response that a token belongs to
    real: float                         # 0 of a dummy pack, else 1: FSDP wants as many on every rank
    rollouts: list                      # the pack's responses, in order
    adv: torch.Tensor                   # (R,) advantage of the token
    length: torch.Tensor                # (R,) |y|, tokens of the response
    sampled_logp: torch.Tensor          # (R,) log-prob of the token when it was sampled, by the sampler
    old_logp: torch.Tensor | None       # (R,) the same by the trainer, before the batch's first gradient step
    ref_logp: torch.Tensor | None       # (R,) by the model that the run started from; None without --kl
    responses: int                      # in the gradient step, over all packs and ranks
    tokens: int                         # response tokens in the gradient step, over all packs and ranks


def grpo_loss(logp, entropy, micro, cfg):
    """The clipped policy-gradient loss [3.3], a sum over the response tokens of a pack.

    logp, entropy (R,): of the policy that learns; both carry gradients. Returns the loss, and for the log the
    ratio (R,) and the KL (or None). The weight of a token makes the sum a mean over each response's tokens
    (1/|y|), then over all responses of the gradient step, however they are cut into packs and dealt to ranks.
    """
    weight = 1 / (micro.length * micro.responses)
    is_clip = 2.0 * (cfg.rollout == "vllm") if cfg.is_clip is None else cfg.is_clip
    if is_clip:  # for a sampler that does not compute exactly as the trainer
        weight = weight * (micro.old_logp - micro.sampled_logp).exp().clamp(max=is_clip)
    ratio = (logp - micro.old_logp).exp()
    clipped = ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high)
    loss, kl = -(weight * torch.minimum(ratio * micro.adv, clipped * micro.adv)).sum(), None
    if cfg.kl:
        log_ratio = micro.ref_logp - logp
        kl = (weight * (log_ratio.exp() - log_ratio - 1)).sum()  # Schulman's k3 a token, never negative
        loss = loss + cfg.kl * kl
    return loss, ratio, kl


# --------------------------------------------------------------------------------------------------- training

def setup(cfg):
    """What a run works with, by name. `first`: the first step to run, after the last checkpoint."""
    world = start_processes(cfg.seed)
    if cfg.prompts % (world.size * cfg.minibatches):
        raise Refused(f"--prompts {cfg.prompts} must be a multiple of {world.size} processes x "
                      f"{cfg.minibatches} minibatches")
    if cfg.samples < 2 or not cfg.temperature:
        raise Refused("a group is two --samples or more, drawn at a --temperature above 0")
    run = Run(cfg.out, cfg, world, may_change=["steps"] if cfg.schedule == "constant" else [])
    verifier = Verifier.of(cfg)
    processor = Processor(cfg.model, cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system)
    pool = load_prompts(cfg, cfg.data, processor)
    hard = load_prompts(cfg, cfg.curriculum, processor) if cfg.curriculum else []
    run.refuse_other_data(data=[p.record for p in pool], curriculum=[p.record for p in hard])
    run.open_log(cfg.logger)
    vlm = load_model(cfg, world)
    reference = load_model(cfg, world, reference=True) if cfg.kl else None
    optimizer = make_optimizer(vlm, cfg.weight_decay)
    first = run.resume(vlm, optimizer, world)
    sampler = make_sampler(cfg.rollout, vlm, processor, world, cfg.rollout_batch, cfg.dtype,
                           cfg.tensor_parallel, cfg.vllm_memory)
    say(f"{vlm.table()}\n{len(pool)} prompts, {cfg.steps} steps, {world.size} process(es) on {world.device}")
    return SimpleNamespace(world=world, run=run, processor=processor, pool=pool, hard=hard, first=first,
                           vlm=vlm, reference=reference, optimizer=optimizer, sampler=sampler,
                           verifier=verifier)


def train(cfg):
    s = setup(cfg)
    bar = tqdm(range(s.first, cfg.steps), cfg.out, cfg.steps, initial=s.first, disable=s.world.rank > 0)
    for step in bar:
        begin, m = time.time(), defaultdict(float)  # m: this rank's sums over tokens, then the step's metrics
        # ----------------------------------------------------------- sample, and reward: n responses a prompt
        groups, time_reward = collect(s, cfg, step)
        time_sample = time.time() - begin - time_reward
        if step == s.first:
            check_gap(groups, s.vlm, s.processor, cfg, s.world)

        # --------------------------------------------------------- advantage: each response against its group
        reward = set_advantages(groups)                                                    # (P, n)

        # ------------------------------------------------------------- pack: prompts with all their responses
        batches = make_batches(s, cfg, groups)
        for micro_batches in batches:
            # ------------------------------------------------------------------------------------------- loss
            for micro in micro_batches:
                micro = micro.to(s.world.device)           # images wait in host memory
                logp, entropy = s.vlm(micro.pack)                                          # (R,), (R,)
                if micro.old_logp is None:  # one gradient step a batch: on-policy, the ratio is 1
                    micro.old_logp = logp.detach()
                loss, ratio, kl = grpo_loss(logp, entropy, micro, cfg)
                (loss * micro.real).backward()  # summed over packs and ranks: the weight has the normaliser
                if micro.real:
                    add_up(m, loss, ratio, kl, entropy.detach().cpu(), micro, cfg)

            # ------------------------------------------------------------------------------------------- step
            lr = learning_rates(cfg, step, cfg.steps, cfg.warmup)
            names = [r.prompt.record.id for micro in micro_batches for r in micro.rollouts]
            m["grad_norm"] = max(m["grad_norm"], update(s.vlm, s.optimizer, lr, cfg.clip, s.run, names))

        # -------------------------------------------------------------- sync: the sampler follows the trainer
        s.sampler.sync(s.vlm)

        # ------------------------------------------------------------------------------------------------ log
        m = summary(m, groups, reward, s.world)
        spent = time.time() - begin
        m.update(lr=max(lr.values()), time_sample=time_sample, time_reward=time_reward,
                 time_update=spent - time_sample - time_reward, time_step=spent)
        if s.verifier:  # of rank 0's responses
            shares = rates([r.reward for group in groups for r in group.rollouts])
            m.update({f"{name}_rate": value for name, value in shares.items()})
        s.run.log(step + 1, m)
        s.run.append("rollouts.jsonl", *rollout_rows(step + 1, groups[0].rollouts, batches[0][0].rollouts))
        bar.set_postfix_str(f"reward {m['reward']:.3f} accuracy {m['accuracy']:.2f} length {m['length']:.0f} "
                            f"entropy {m['entropy']:.2f}", refresh=False)

        # ----------------------------------------------------------------------------------------------- save
        if step + 1 == cfg.steps or (step + 1) % cfg.save_every == 0:
            s.run.save(step + 1, s.vlm, s.optimizer, s.world)
    say(f"done: {s.run.last}")


# ------------------------------------------------------------------------------------- what a step is made of

def next_prompts(s, cfg, step, draw=0):
    """The step's prompts, for all ranks. CHANGE THE CHOICE HERE. It may read s.run.state, a dictionary that
    is saved with every checkpoint (plain JSON, the same on every rank); `collect` may write it, behind the
    rewards. While it is empty, the prompts are a function of (seed, step). draw: of dynamic sampling."""
    source = s.hard if cfg.curriculum and step >= cfg.curriculum_at else s.pool
    seed = seed_of(cfg.seed, 0, what=draw)  # one order for the whole run, another for each further draw
    return [source[i] for i in batch_indices(len(source), cfg.prompts, step, seed)]


def collect(s, cfg, step):
    """This rank's share of the step's prompts, sampled and rewarded: [Group], and the seconds that rewards
    took. If any rank lost the verifier, all ranks save and stop. Dynamic sampling replaces groups that are
    all right or all wrong (up to four more draws, until every rank has enough). Accuracy alone decides:
    groups that differ in format only teach no maths."""
    groups, time_reward, wanted = [], 0.0, cfg.prompts // s.world.size
    for draw in range(5 if cfg.dynamic_sampling else 1):
        prompts = next_prompts(s, cfg, step, draw)[s.world.rank::s.world.size]
        seed = seed_of(cfg.seed, step, s.world.rank, draw)
        sampled = s.sampler.generate(prompts, cfg.samples, cfg.max_new_tokens, cfg.temperature, seed)
        groups += [Group(prompt, rollouts) for prompt, rollouts in zip(prompts, sampled)]
        begin = time.time()
        lost = set_rewards([r for rollouts in sampled for r in rollouts], cfg, s.verifier)
        time_reward += time.time() - begin
        done = bool(lost) or sum(group.mixed() for group in groups) >= wanted
        lost, done = zip(*gather((lost, done), s.world))  # of all ranks
        if any(lost):
            if step > s.run.step:
                s.run.save(step, s.vlm, s.optimizer, s.world)
            raise Refused(f"{next(filter(None, lost))}\n{step} steps are saved: the same command resumes.")
        if all(done):
            break
    if cfg.dynamic_sampling:
        groups.sort(key=Group.mixed, reverse=True)
    return groups[:wanted], time_reward


def set_rewards(rollouts, cfg, verifier):
    """Fill in Rollout.reward; returns why it could not (VerifierDown). CHANGE THE REWARD HERE where it needs
    the response's text or length: `replace(reward, total=...)`, as in forks/length_penalty.diff."""
    rows = [r.prompt.record for r in rollouts]
    try:
        rewards = score_batch([r.text for r in rollouts], [row.answer for row in rows], cfg.thinking,
                              [row.options or None for row in rows], verifier, [row.question for row in rows])
    except VerifierDown as error:
        return str(error)
    for r, reward in zip(rollouts, rewards, strict=True):
        r.reward = reward


def set_advantages(groups):
    """Fill in Rollout.advantage, one number a token (T,); here the same for every token of a response [3.3].
    CHANGE IT HERE for rewards of single steps or weights of tokens (with vLLM r.entropy is None; `grpo_loss`
    has the trainer's). Returns the rewards (P, n), a row a group."""
    reward = torch.tensor([[r.reward.total for r in group.rollouts] for group in groups])
    for group, row in zip(groups, advantages(reward)):
        for r, advantage in zip(group.rollouts, row):
            r.advantage = advantage.expand(len(r.ids)).clone()
    return reward


@torch.no_grad()
def make_batches(s, cfg, groups):
    """[[MicroBatch, ...], ...], a list for each gradient step: this rank's part of the groups of all ranks,
    with the log-probs that have to be known before the first step. Groups whose every advantage is 0 teach
    nothing and are left out, unless there is a KL penalty (machinery/parallel.deal has a picture)."""
    def matters(group):
        return bool(cfg.kl) or any(r.advantage.any() for r in group.rollouts)

    batches, device = [], s.world.device
    for mine, tokens in deal(groups, cfg.minibatches, matters, cfg.max_tokens, s.world):
        rollouts = [r for group in mine for r in group.rollouts]
        length = torch.tensor([len(r.ids) for r in rollouts])
        packs = make_packs(s.processor, [group.with_ids() for group in mine], cfg.max_tokens, cfg.temperature)
        batches.append([])
        for pack, real in even_out(packs, s.world):
            own = [rollouts[i] for i in pack.owner.unique_consecutive().tolist()]  # all of them whole
            batches[-1].append(MicroBatch(
                pack, real, own, adv=torch.cat([r.advantage for r in own] or [torch.zeros(0)]),
                length=length[pack.owner], sampled_logp=torch.cat([r.logp for r in own] or [torch.zeros(0)]),
                old_logp=s.vlm(pack.to(device))[0] if cfg.minibatches > 1 else None,
                ref_logp=s.reference(pack.to(device))[0] if s.reference else None,
                responses=cfg.prompts // cfg.minibatches * cfg.samples, tokens=tokens))
    return batches


def load_prompts(cfg, source, processor):
    """Rows -> prompts. Gold answers that the rule cannot read are reported now, not at step 412."""
    records = read_records(source, cfg.columns, limit_bad=cfg.limit_bad, image_root=cfg.image_root)
    report_unreadable(source, records, cfg.limit_bad, cfg.verifier)
    return processor.prompts(records, cfg.thinking, cfg.max_prompt)


if __name__ == "__main__":
    main(train, Config)
