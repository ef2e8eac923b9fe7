"""Small random checkpoints in the format of the authors of InternVL3 and Skywork-R1V, and its forward pass
written out: what recipes/convert.py is tested against."""
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

WIDE, LAYERS, HEADS, PATCH, SIZE = 64, 2, 4, 8, 48      # of the encoder
WORD, DEPTH, QUERIES, KEYS, HEAD = 128, 3, 4, 2, 32     # of the LLM
ADDED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|video_pad|>", "<img>", "</img>", "<IMG_CONTEXT>",
         "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")


def make_release(folder, model_type="skywork_chat", large=True, tied=False, shards=1, dtype=torch.float32):
    """large: the encoder is InternViT-6B's kind (RMSNorm, norms of queries and keys, no bias on them), else
    InternViT-300M's."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    vocabulary = write_tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = random_tensors(vocabulary, large, tied)
    names = sorted(state)
    parts = [names[i::shards] for i in range(shards)]
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    files = files if shards > 1 else ["model.safetensors"]
    for file, part in zip(files, parts):
        save_file({n: state[n].to(dtype) for n in part}, folder / file, metadata={"format": "pt"})
    if shards > 1:
        where = {n: file for file, part in zip(files, parts) for n in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    class_of = {"skywork_chat": "SkyworkChat", "internvl_chat": "InternVLChat"}[model_type]
    config = {  # what is read of theirs; the rest of it is left out
        "architectures": [f"{class_of}Model"], "model_type": model_type, "downsample_ratio": 0.5,
        "auto_map": {"AutoConfig": f"configuration_{model_type}.{class_of}Config"},
        "dynamic_image_size": True, "force_image_size": SIZE, "max_dynamic_patch": 12, "min_dynamic_patch": 1,
        "pad2square": False, "ps_version": "v2", "select_layer": -1, "system_message": None,
        "use_thumbnail": True,
        "llm_config": {
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "attention_dropout": 0.0,
            "bos_token_id": 256, "eos_token_id": 256, "hidden_act": "silu", "hidden_size": WORD,
            "intermediate_size": 128, "max_position_embeddings": 1024, "num_attention_heads": QUERIES,
            "num_hidden_layers": DEPTH, "num_key_value_heads": KEYS, "rms_norm_eps": 1e-6,
            "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}, "top_p": 1.0,
            "rope_theta": 1000000.0, "sliding_window": None, "torch_dtype": "bfloat16",
            "use_sliding_window": False, "vocab_size": vocabulary, "tie_word_embeddings": tied},
        "vision_config": {
            "model_type": "intern_vit_6b", "attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "gelu",
            "hidden_size": WIDE, "image_size": SIZE, "initializer_factor": 0.1, "initializer_range": 1e-10,
            "num_channels": 3, "intermediate_size": 96, "layer_norm_eps": 1e-6, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "patch_size": PATCH, "qk_normalization": large,
            "norm_type": "rms_norm" if large else "layer_norm", "qkv_bias": not large}}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def write_tokenizer(folder):
    """Bytes alone, in the files that Qwen's tokenizer is published in. Returns the size of the vocabulary."""
    vocabulary = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    added = {token: len(vocabulary) + i for i, token in enumerate(ADDED)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "added_tokens.json").write_text(json.dumps(added))
    mark = dict(lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "added_tokens_decoder": {str(i): {"content": token, **mark} for token, i in added.items()},
        "add_prefix_space": False, "bos_token": None, "errors": "replace", "model_max_length": 12288,
        "clean_up_tokenization_spaces": False, "split_special_tokens": False, "unk_token": None,
        "auto_map": {"AutoTokenizer": ["tokenization_of_theirs.Tokenizer", None]},
        "chat_template": "{% for m in messages %}{{ 'System: helpful' + m['content'] }}{% endfor %}"}))
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "feature_extractor_type": "CLIPFeatureExtractor", "crop_size": SIZE, "size": SIZE, "resample": 3}))
    return len(vocabulary) + len(added)


def random_tensors(vocabulary, large, tied):
    state = {}

    def linear(name, out, into, bias=True):
        state[f"{name}.weight"] = torch.randn(out, into) / math.sqrt(into)
        if bias:
            state[f"{name}.bias"] = 0.1 * torch.randn(out)

    def norm(name, width, bias):
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(width)
        if bias:
            state[f"{name}.bias"] = 0.1 * torch.randn(width)

    tiles = (SIZE // PATCH) ** 2
    at = "vision_model.embeddings"
    state[f"{at}.class_embedding"] = 0.3 * torch.randn(1, 1, WIDE)
    state[f"{at}.position_embedding"] = 0.3 * torch.randn(1, 1 + tiles, WIDE)
    state[f"{at}.patch_embedding.weight"] = torch.randn(WIDE, 3, PATCH, PATCH) / 14
    state[f"{at}.patch_embedding.bias"] = 0.1 * torch.randn(WIDE)
    for i in range(LAYERS):
        at = f"vision_model.encoder.layers.{i}"
        linear(f"{at}.attn.qkv", 3 * WIDE, WIDE, bias=not large)
        linear(f"{at}.attn.proj", WIDE, WIDE)
        linear(f"{at}.mlp.fc1", 96, WIDE)
        linear(f"{at}.mlp.fc2", WIDE, 96)
        for name in ("norm1", "norm2"):
            norm(f"{at}.{name}", WIDE, bias=not large)
        for name in ("ls1", "ls2"):
            state[f"{at}.{name}"] = 0.5 + 0.1 * torch.randn(WIDE)
        for name in ("q_norm", "k_norm") if large else ():
            norm(f"{at}.attn.{name}", WIDE, bias=False)
    norm("mlp1.0", 4 * WIDE, bias=True)
    linear("mlp1.1", WORD, 4 * WIDE)
    linear("mlp1.3", WORD, WORD)
    state["language_model.model.embed_tokens.weight"] = torch.randn(vocabulary, WORD)
    norm("language_model.model.norm", WORD, bias=False)
    if not tied:
        linear("language_model.lm_head", vocabulary, WORD, bias=False)
    for i in range(DEPTH):
        at = f"language_model.model.layers.{i}"
        for name, heads in (("q", QUERIES), ("k", KEYS), ("v", KEYS)):
            linear(f"{at}.self_attn.{name}_proj", heads * HEAD, WORD)
        linear(f"{at}.self_attn.o_proj", WORD, QUERIES * HEAD, bias=False)
        for name, out, into in (("gate", 128, WORD), ("up", 128, WORD), ("down", WORD, 128)):
            linear(f"{at}.mlp.{name}_proj", out, into, bias=False)
        for name in ("input_layernorm", "post_attention_layernorm"):
            norm(f"{at}.{name}", WORD, bias=False)
    return state


# ----------------------------------------------------------------------------------- the forward, written out

def log_probs(w, ids, pixels, image_id):
    """w: the published tensors. ids (T,) with expanded placeholders, pixels (tiles, 3, SIZE, SIZE) or None ->
    log-probs (T, vocabulary) of what follows each token."""
    x = w["language_model.model.embed_tokens.weight"][ids]
    if pixels is not None:
        x = x.clone()
        x[ids == image_id] = connector(w, encoder(w, pixels))
    for i in range(DEPTH):
        x = llm_layer({n.split(f"layers.{i}.")[1]: t for n, t in w.items()
                       if n.startswith(f"language_model.model.layers.{i}.")}, x)
    x = rms(x, w["language_model.model.norm.weight"])
    words = w["language_model.model.embed_tokens.weight"]
    return (x @ w.get("language_model.lm_head.weight", words).T).log_softmax(-1)


def rms(x, weight):
    return weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def encoder(w, pixels):
    at = "vision_model.embeddings"
    x = F.conv2d(pixels, w[f"{at}.patch_embedding.weight"], w[f"{at}.patch_embedding.bias"], stride=PATCH)
    x = x.flatten(2).transpose(1, 2)                                              # (tiles, patches, WIDE)
    x = torch.cat([w[f"{at}.class_embedding"].expand(len(x), 1, -1), x], 1) + w[f"{at}.position_embedding"]
    for i in range(LAYERS):
        x = encoder_layer({n.split(f"layers.{i}.")[1]: t for n, t in w.items()
                           if n.startswith(f"vision_model.encoder.layers.{i}.")}, x)
    return x[:, 1:]


def encoder_layer(w, x):
    def norm(name, x):
        bias = w.get(f"{name}.bias")
        if bias is None:
            return rms(x, w[f"{name}.weight"])
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], bias, 1e-6)

    tiles, tokens, _ = x.shape
    qkv = F.linear(norm("norm1", x), w["attn.qkv.weight"], w.get("attn.qkv.bias"))
    q, k, v = qkv.view(tiles, tokens, 3, WIDE).unbind(2)
    if "attn.q_norm.weight" in w:
        q, k = norm("attn.q_norm", q), norm("attn.k_norm", k)
    q, k, v = (t.view(tiles, tokens, HEADS, WIDE // HEADS).transpose(1, 2) for t in (q, k, v))
    seen = (q @ k.transpose(-1, -2) / math.sqrt(WIDE // HEADS)).softmax(-1) @ v
    seen = F.linear(seen.transpose(1, 2).flatten(2), w["attn.proj.weight"], w["attn.proj.bias"])
    x = x + w["ls1"] * seen
    inside = F.gelu(F.linear(norm("norm2", x), w["mlp.fc1.weight"], w["mlp.fc1.bias"]))
    return x + w["ls2"] * F.linear(inside, w["mlp.fc2.weight"], w["mlp.fc2.bias"])


def connector(w, x):
    """Four neighbours become one token: version v2 of the shuffle lays down the square's upper row first."""
    side = SIZE // PATCH // 2
    grid = x.view(len(x), 2 * side, 2 * side, WIDE)
    tokens = [torch.cat([grid[:, 2 * r + a, 2 * c + b] for a in (0, 1) for b in (0, 1)], -1)
              for r in range(side) for c in range(side)]
    x = torch.stack(tokens, 1)                                                    # (tiles, tokens, 4 * WIDE)
    x = F.layer_norm(x, x.shape[-1:], w["mlp1.0.weight"], w["mlp1.0.bias"], 1e-5)
    x = F.gelu(F.linear(x, w["mlp1.1.weight"], w["mlp1.1.bias"]))
    return F.linear(x, w["mlp1.3.weight"], w["mlp1.3.bias"]).flatten(0, 1)


def llm_layer(w, x):
    T = len(x)
    h = rms(x, w["input_layernorm.weight"])
    q, k, v = (F.linear(h, w[f"self_attn.{n}_proj.weight"], w[f"self_attn.{n}_proj.bias"]).view(T, -1, HEAD)
               for n in "qkv")
    angle = torch.arange(T)[:, None] * 1e6 ** (-torch.arange(0, HEAD, 2) / HEAD)  # (T, HEAD / 2)
    cos, sin = (torch.cat([f(angle)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))

    def turn(t):
        a, b = t.chunk(2, -1)
        return t * cos + torch.cat([-b, a], -1) * sin

    k, v = (t.repeat_interleave(QUERIES // KEYS, 1) for t in (turn(k), v))
    score = torch.einsum("qhd,khd->hqk", turn(q), k) / math.sqrt(HEAD)
    score = score.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -math.inf)
    seen = torch.einsum("hqk,khd->qhd", score.softmax(-1), v).flatten(1)
    x = x + F.linear(seen, w["self_attn.o_proj.weight"])
    h = rms(x, w["post_attention_layernorm.weight"])
    h = F.silu(F.linear(h, w["mlp.gate_proj.weight"])) * F.linear(h, w["mlp.up_proj.weight"])
    return x + F.linear(h, w["mlp.down_proj.weight"])
