"""The connector, the hero of the paper: what turns the encoder's features into tokens that the LLM can read.

Freeze it during reinforcement learning and the paper's run collapses; train it alone afterwards and breadth comes back
(sections 5.6 and 3.4). Each family's own connector is written out here with the names and shapes of its weights in
transformers, so the two are interchangeable. The Q-Former is a design of ours for the paper's first open question, whether
the finding holds for other connectors: `python connector.py --model MODEL --connector qformer --queries 64 --out out/qformer` puts a fresh one into an InternVL (and
`--connector mlp` a fresh MLP beside it, for a fair comparison); the new folder goes into every stage as its --model.
"""
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import Refused, main, new_folder, resolve, say


class MLPConnector(nn.Module):
    """InternVL's connector: pixel shuffle, LayerNorm, Linear, GELU, Linear (paper section 3.2; 91.8 M parameters at 38B).

    The names and shapes of its weights are those of transformers' InternVLMultiModalProjector; the pixel shuffle, which
    there sits in the model, is here, because it is the connector's first step.
    """

    def __init__(self, vision_width, llm_width, ratio=0.5):
        super().__init__()
        self.side = round(1 / ratio)  # patches along one side of the square that becomes one token
        wide = vision_width * self.side ** 2
        self.layer_norm = nn.LayerNorm(wide)
        self.linear_1 = nn.Linear(wide, llm_width)
        self.linear_2 = nn.Linear(llm_width, llm_width)

    def forward(self, features):
        """features (tiles, patches, width) -> visual tokens (tiles * patches / side^2, d)"""
        x = self.pixel_shuffle(features)               # (T, P/4, 4 * width)
        x = self.linear_1(self.layer_norm(x))          # (T, P/4, d)
        return self.linear_2(F.gelu(x)).flatten(0, 1)  # (T * P/4, d)

    def pixel_shuffle(self, features):
        """side x side neighbouring patches lay their channels side by side: fewer, wider tokens. The family's weights
        expect the channels in this order: row in the square, column in the square, channel."""
        T, P, C = features.shape
        grid, s = round(P ** 0.5), self.side
        if grid * grid != P or grid % s:
            raise Refused(f"the encoder gave {P} patches a tile, which is no square grid divisible by {s}: "
                          f"check image_size and patch_size of the model's vision_config")
        x = features.view(T, grid // s, s, grid // s, s, C)      # (T, row, r, column, c, C)
        x = x.permute(0, 1, 3, 2, 4, 5)                          # (T, row, column, r, c, C)
        return x.reshape(T, P // (s * s), s * s * C)


class MergerConnector(nn.Module):
    """Qwen2.5-VL's connector: RMSNorm of every patch, four patches side by side, Linear, GELU, Linear.

    transformers keeps it inside the encoder (visual.merger), where "freezing the vision tower" freezes it too, and calls
    it in the middle of the encoder's forward. So it has two sides: called there, it only lays the four patches side by
    side, which ends the encoder; `project=True`, called by VLM.connect, is the connector itself.
    """

    def __init__(self, vision_width, llm_width, side=2):
        super().__init__()
        self.wide = vision_width * side ** 2
        self.ln_q = nn.RMSNorm(vision_width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(self.wide, self.wide), nn.GELU(), nn.Linear(self.wide, llm_width))

    def forward(self, features, project=False):
        """in the encoder: patches (P, width) -> features (P/4, 4 * width); project: features -> visual tokens (P/4, d)"""
        if not project:
            return features.reshape(-1, self.wide)
        x = features.view(len(features), -1, *self.ln_q.normalized_shape).float()  # (P/4, 4, width)
        return self.mlp(F.rms_norm(x, self.ln_q.normalized_shape, self.ln_q.weight.float(), self.ln_q.eps).flatten(1))


class PatchMerger(nn.Module):
    """One of Qwen3-VL's mergers: LayerNorm, four patches side by side, Linear, GELU, Linear.

    Its connector is several of them (DeepStack): visual.merger reads the encoder's last layer and makes the visual tokens;
    those in visual.deepstack_merger_list read layers before it, and what they make is added to the same tokens behind the
    LLM's first layers. These norm the four patches as one (`together`), the first norms each. Two sides, as MergerConnector.
    """

    def __init__(self, vision_width, llm_width, side=2, together=False):
        super().__init__()
        self.wide = vision_width * side ** 2
        self.norm = nn.LayerNorm(self.wide if together else vision_width, eps=1e-6)
        self.linear_fc1 = nn.Linear(self.wide, self.wide)
        self.linear_fc2 = nn.Linear(self.wide, llm_width)

    def forward(self, features, project=False):
        """in the encoder: patches (P, width) -> features (P/4, 4 * width); project: features -> visual tokens (P/4, d)"""
        if not project:
            return features.reshape(-1, self.wide)
        x = self.norm(features.reshape(-1, *self.norm.normalized_shape)).view(-1, self.wide)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class QFormer(nn.Module):
    """A fixed number of learned queries reads each tile by cross-attention, whatever the number of patches (after BLIP-2).

    Pre-norm blocks of self-attention among the queries, cross-attention to the tile, MLP. The last layer gives the visual
    tokens the size of word embeddings (`like` of reset), so that a fresh Q-Former starts as a quiet prefix, not as noise.
    """

    def __init__(self, vision_width, llm_width, queries=64, layers=2):
        super().__init__()
        heads = max(1, vision_width // 64)
        self.queries = nn.Parameter(torch.empty(queries, vision_width))
        self.norm_in = nn.LayerNorm(vision_width)
        self.blocks = nn.ModuleList(nn.ModuleDict({
            "norm_1": nn.LayerNorm(vision_width), "self_attention": nn.MultiheadAttention(vision_width, heads, batch_first=True),
            "norm_2": nn.LayerNorm(vision_width), "cross_attention": nn.MultiheadAttention(vision_width, heads, batch_first=True),
            "norm_3": nn.LayerNorm(vision_width),
            "mlp": nn.Sequential(nn.Linear(vision_width, 4 * vision_width), nn.GELU(), nn.Linear(4 * vision_width, vision_width)),
        }) for _ in range(layers))
        self.norm_out = nn.LayerNorm(vision_width)
        self.out = nn.Linear(vision_width, llm_width)

    def reset(self, like, seed=0):
        """Fresh weights; visual tokens come out as large as the rows of `like` (the LLM's word embeddings)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for m in self.modules():
                if isinstance(m, (nn.Linear, nn.LayerNorm)):
                    m.reset_parameters()
                elif isinstance(m, nn.MultiheadAttention):
                    m._reset_parameters()
            nn.init.normal_(self.queries)  # far apart, or all of them would read the same
            nn.init.normal_(self.out.weight, std=float(like.float().square().mean().sqrt()) / self.out.in_features ** 0.5)
            nn.init.zeros_(self.out.bias)
        return self

    def forward(self, features):
        """features (tiles, patches, width) -> visual tokens (tiles * queries, d)"""
        y = self.norm_in(features)                                     # (T, P, width)
        x = self.queries.to(y.dtype).expand(len(y), -1, -1)            # (T, Q, width)
        for b in self.blocks:
            h = b["norm_1"](x)
            x = x + b["self_attention"](h, h, h, need_weights=False)[0]
            x = x + b["cross_attention"](b["norm_2"](x), y, y, need_weights=False)[0]
            x = x + b["mlp"](b["norm_3"](x))
        return self.out(self.norm_out(x)).flatten(0, 1)


# ------------------------------------------------------------------------------------------------- a model with a fresh connector

@dataclass
class Config:
    model: str = "out/tiny/base"                  # an InternVL: model folder, run folder or hub name
    out: str = "out/qformer"                      # the new model folder; train its connector first (connector_tune.py or sft.py)
    connector: str = "qformer"                    # qformer or mlp, with fresh weights
    queries: int = 64                             # visual tokens a tile (qformer)
    layers: int = 2                               # blocks (qformer)
    seed: int = 0                                 # of the fresh weights


def replace(cfg):
    from model import load, visual_tokens  # for this command alone: model.py builds on this file
    vlm = load(cfg.model, train=("connector",))
    config, embeddings = vlm.hf.config, vlm.hf.get_input_embeddings().weight
    if cfg.connector not in ("qformer", "mlp") or config.model_type != "internvl" or min(cfg.queries, cfg.layers) < 1:
        raise Refused(f"--connector {cfg.connector} --queries {cfg.queries} --layers {cfg.layers} for {cfg.model} ({config.model_type}): "
                      f"the connectors are qformer (at least one query and one layer) and mlp, for InternVL")
    widths = config.vision_config.hidden_size, config.text_config.hidden_size
    if cfg.connector == "qformer":
        config.qformer, config.image_seq_length = {"queries": cfg.queries, "layers": cfg.layers}, cfg.queries
        fresh = QFormer(*widths, **config.qformer).reset(embeddings, cfg.seed)
    else:
        config.qformer, config.image_seq_length = None, visual_tokens(config)
        torch.manual_seed(cfg.seed)
        fresh = MLPConnector(*widths, config.downsample_ratio)
    vlm.hf.model.multi_modal_projector = fresh
    with new_folder(cfg.out) as folder:
        vlm.save(folder)
    say(f"{cfg.out}: {resolve(cfg.model)} with a fresh {cfg.connector} connector of {sum(p.numel() for p in fresh.parameters()):,} parameters")


if __name__ == "__main__":
    main(replace, Config)
