"""The connector, which the paper studies most: it turns the encoder's features into tokens for the LLM.

Freeze it during reinforcement learning and the paper's run collapses; train it alone afterwards and breadth
comes back (sections 5.2 and 3.4). InternVL's connector is written out here with the names and shapes of its
weights in transformers, so the two are interchangeable, and so are those of the Qwen families, mergers inside
their encoder. The Q-Former is a design of ours for the paper's first open question, whether the finding holds
for other connectors; recipes/new_connector.py puts a fresh one into an InternVL. A CONNECTOR OF YOUR OWN is
one more class here, with a name in CONNECTORS: `of` makes it from a model's configuration, `tokens` says how
many visual tokens it makes of a tile.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from machinery.families import family_of
from machinery.files import Refused


class MLPConnector(nn.Module):
    """InternVL's connector: pixel shuffle, LayerNorm, Linear, GELU, Linear (paper section 3.2; 91.8 M
    parameters at 38B).

    The names and shapes of its weights are those of transformers' InternVLMultiModalProjector; the pixel
    shuffle, which there sits in the model, is here, because it is the connector's first step.
    """

    def __init__(self, vision_width, llm_width, ratio=0.5):
        super().__init__()
        self.side = round(1 / ratio)  # patches along one side of the square that becomes one token
        wide = vision_width * self.side ** 2
        self.layer_norm = nn.LayerNorm(wide)
        self.linear_1 = nn.Linear(wide, llm_width)
        self.linear_2 = nn.Linear(llm_width, llm_width)

    @classmethod
    def of(cls, config):
        return cls(config.vision_config.hidden_size, config.text_config.hidden_size, config.downsample_ratio)

    @staticmethod
    def tokens(config):
        sizes = (config.vision_config.image_size, config.vision_config.patch_size)
        size, patch = (x[0] if isinstance(x, (list, tuple)) else x for x in sizes)
        return int((size // patch) ** 2 * config.downsample_ratio ** 2)  # 256 for InternVL3

    def forward(self, features):
        """features (tiles, patches, width) -> visual tokens (tiles * patches / side^2, d)"""
        x = pixel_shuffle(features, self.side)         # (T, P/4, 4 * width)
        x = self.linear_1(self.layer_norm(x))          # (T, P/4, d)
        return self.linear_2(F.gelu(x)).flatten(0, 1)  # (T * P/4, d)


def pixel_shuffle(features, side):
    """side x side neighbouring patches lay their channels side by side: fewer, wider tokens. The family's
    weights expect the channels in this order: row in the square, column in the square, channel."""
    T, P, C = features.shape
    grid, s = round(P ** 0.5), side
    if grid * grid != P or grid % s:
        raise Refused(f"the encoder gave {P} patches a tile, which is no square grid divisible by {s}: "
                      f"check image_size and patch_size of the model's vision_config")
    x = features.view(T, grid // s, s, grid // s, s, C)      # (T, row, r, column, c, C)
    x = x.permute(0, 1, 3, 2, 4, 5)                          # (T, row, column, r, c, C)
    return x.reshape(T, P // (s * s), s * s * C)


class Merger(nn.Module):
    """What the connectors of the Qwen families share: norm, four patches side by side, Linear, GELU, Linear.

    transformers keeps them inside the encoder (visual.merger), where "freezing the vision tower" freezes them
    too, and calls them in the middle of the encoder's forward. So a merger has two sides: called there, it
    only lays the four patches side by side, which ends the encoder; `project=True`, called by VLM.connect, is
    the connector itself.
    """

    def forward(self, features, project=False):
        """in the encoder: patches (P, width) -> features (P/4, 4 * width); project: features -> visual tokens
        (P/4, d)"""
        return self.project(features) if project else features.reshape(-1, self.wide)


class MergerConnector(Merger):
    """Qwen2.5-VL's connector: an RMSNorm of every patch."""

    def __init__(self, vision_width, llm_width, side=2):
        super().__init__()
        self.wide = vision_width * side ** 2
        self.ln_q = nn.RMSNorm(vision_width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(self.wide, self.wide), nn.GELU(), nn.Linear(self.wide, llm_width))

    @classmethod
    def of(cls, config):
        v = config.vision_config
        return cls(v.hidden_size, config.text_config.hidden_size, v.spatial_merge_size)

    def project(self, features):
        width = self.ln_q.normalized_shape
        x = features.view(len(features), -1, *width).float()                           # (P/4, 4, width)
        return self.mlp(F.rms_norm(x, width, self.ln_q.weight.float(), self.ln_q.eps).flatten(1))


class PatchMerger(Merger):
    """One of Qwen3-VL's mergers, with a LayerNorm.

    Its connector is several of them (DeepStack): visual.merger reads the encoder's last layer and makes the
    visual tokens; those in visual.deepstack_merger_list read layers before it, and what they make is added to
    the same tokens behind the LLM's first layers. These norm the four patches as one (`together`), the first
    norms each.
    """

    def __init__(self, vision_width, llm_width, side=2, together=False):
        super().__init__()
        self.wide = vision_width * side ** 2
        self.norm = nn.LayerNorm(self.wide if together else vision_width, eps=1e-6)
        self.linear_fc1 = nn.Linear(self.wide, self.wide)
        self.linear_fc2 = nn.Linear(self.wide, llm_width)

    @classmethod
    def of(cls, config, together=False):
        v = config.vision_config
        return cls(v.hidden_size, v.out_hidden_size, v.spatial_merge_size, together)

    def project(self, features):
        x = self.norm(features.reshape(-1, *self.norm.normalized_shape)).view(-1, self.wide)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class DeepStackMergers(nn.ModuleList):
    """visual.deepstack_merger_list: a merger for each level."""

    @classmethod
    def of(cls, config):
        levels = config.vision_config.deepstack_visual_indexes
        return cls(PatchMerger.of(config, together=True) for _ in levels)


class QFormer(nn.Module):
    """A fixed number of learned queries reads each tile by cross-attention, whatever the number of patches
    (after BLIP-2).

    Pre-norm blocks of self-attention among the queries, cross-attention to the tile, MLP. The last layer
    gives the visual tokens the size of word embeddings (`like` of reset), so that a fresh Q-Former starts as
    a quiet prefix, not as noise.
    """

    options = ("queries",)  # flags of recipes/new_connector.py that its making takes

    def __init__(self, vision_width, llm_width, queries=64, layers=2):
        super().__init__()
        heads, wide = max(1, vision_width // 64), 4 * vision_width
        self.queries = nn.Parameter(torch.empty(queries, vision_width))
        self.norm_in = nn.LayerNorm(vision_width)
        self.blocks = nn.ModuleList(nn.ModuleDict({
            "norm_1": nn.LayerNorm(vision_width),
            "self_attention": nn.MultiheadAttention(vision_width, heads, batch_first=True),
            "norm_2": nn.LayerNorm(vision_width),
            "cross_attention": nn.MultiheadAttention(vision_width, heads, batch_first=True),
            "norm_3": nn.LayerNorm(vision_width),
            "mlp": nn.Sequential(nn.Linear(vision_width, wide), nn.GELU(), nn.Linear(wide, vision_width)),
        }) for _ in range(layers))
        self.norm_out = nn.LayerNorm(vision_width)
        self.out = nn.Linear(vision_width, llm_width)

    @classmethod
    def of(cls, config):
        return cls(config.vision_config.hidden_size, config.text_config.hidden_size, **config.qformer)

    @staticmethod
    def tokens(config):
        return config.qformer["queries"]

    def reset(self, like):
        """Fresh weights; visual tokens come out as large as the rows of `like` (the LLM's word
        embeddings)."""
        for m in self.modules():
            if isinstance(m, (nn.Linear, nn.LayerNorm)):
                m.reset_parameters()
            elif isinstance(m, nn.MultiheadAttention):
                m._reset_parameters()
        nn.init.normal_(self.queries)  # far apart, or all of them would read the same
        size = float(like.float().square().mean().sqrt())
        nn.init.normal_(self.out.weight, std=size / self.out.in_features ** 0.5)
        nn.init.zeros_(self.out.bias)

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


# -------------------------------------------------------------------------------- which connector a model has

CONNECTORS = {"mlp": MLPConnector, "qformer": QFormer}  # of tiles: one can take the other's place
MERGERS = {"merger": MergerConnector, "patch_merger": PatchMerger, "deepstack_mergers": DeepStackMergers}


def chosen(config):
    """Name of the connector that took the place of the family's own, or None. recipes/new_connector.py writes
    it into the new folder's config.json, with its options: "qformer": {"queries": 64}."""
    named = getattr(config, "connector", None) if family_of(config).tiled else None
    if named and named not in CONNECTORS:
        raise Refused(f"{config.name_or_path}: its config.json names the connector {named!r}, and "
                      f"CONNECTORS in connector.py has only {' and '.join(CONNECTORS)}. Apply the fork that "
                      f"this model was made with, or add the class, and open it again.")
    return named


def make_connectors(config):
    """{place inside the Hugging Face model: module} of a model with this configuration."""
    family = family_of(config)
    names = {family.connector[0]: chosen(config)} if chosen(config) else family.connectors
    return {place: {**CONNECTORS, **MERGERS}[name].of(config) for place, name in names.items()}


def visual_tokens(config):
    """Visual tokens of a tile, or 1 where each row of the features becomes a token."""
    family = family_of(config)
    if not family.tiled:
        return 1
    return CONNECTORS[chosen(config) or family.connectors[family.connector[0]]].tokens(config)
