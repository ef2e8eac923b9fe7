"""The connectors of the Qwen families, written out: mergers inside the encoder. A reader of the recipe may
skip this file.

Names and shapes of their weights are those of transformers, so the two are interchangeable.
"""
import torch.nn as nn
import torch.nn.functional as F


class MergerConnector(nn.Module):
    """Qwen2.5-VL's connector: RMSNorm of every patch, four patches side by side, Linear, GELU, Linear.

    transformers keeps it inside the encoder (visual.merger), where "freezing the vision tower" freezes it
    too, and calls it in the middle of the encoder's forward. So it has two sides: called there, it only lays
    the four patches side by side, which ends the encoder; `project=True`, called by VLM.connect, is the
    connector itself.
    """

    def __init__(self, vision_width, llm_width, side=2):
        super().__init__()
        self.wide = vision_width * side ** 2
        self.ln_q = nn.RMSNorm(vision_width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(self.wide, self.wide), nn.GELU(), nn.Linear(self.wide, llm_width))

    @classmethod
    def of(cls, config):
        v = config.vision_config
        return cls(v.hidden_size, config.text_config.hidden_size, v.spatial_merge_size)

    def forward(self, features, project=False):
        """in the encoder: patches (P, width) -> features (P/4, 4 * width); project: features -> visual tokens
        (P/4, d)"""
        if not project:
            return features.reshape(-1, self.wide)
        width = self.ln_q.normalized_shape
        x = features.view(len(features), -1, *width).float()                           # (P/4, 4, width)
        return self.mlp(F.rms_norm(x, width, self.ln_q.weight.float(), self.ln_q.eps).flatten(1))


class PatchMerger(nn.Module):
    """One of Qwen3-VL's mergers: LayerNorm, four patches side by side, Linear, GELU, Linear.

    Its connector is several of them (DeepStack): visual.merger reads the encoder's last layer and makes the
    visual tokens; those in visual.deepstack_merger_list read layers before it, and what they make is added to
    the same tokens behind the LLM's first layers. These norm the four patches as one (`together`), the first
    norms each. Two sides, as MergerConnector.
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

    def forward(self, features, project=False):
        """in the encoder: patches (P, width) -> features (P/4, 4 * width); project: features -> visual tokens
        (P/4, d)"""
        if not project:
            return features.reshape(-1, self.wide)
        x = self.norm(features.reshape(-1, *self.norm.normalized_shape)).view(-1, self.wide)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class DeepStackMergers(nn.ModuleList):
    """visual.deepstack_merger_list: a merger for each level."""

    @classmethod
    def of(cls, config):
        levels = config.vision_config.deepstack_visual_indexes
        return cls(PatchMerger.of(config, together=True) for _ in levels)


MERGERS = {"merger": MergerConnector, "patch_merger": PatchMerger, "deepstack_mergers": DeepStackMergers}
