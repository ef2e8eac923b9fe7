"""The model families: one class each, with all in which they differ; adding a family is adding a class here.

Most of it is names: where transformers keeps the three parts. The rest is how the encoder is called, what an
image becomes in a prompt, and the positions of its tokens. connector.py has what the connectors compute.
"""
import math

import torch
import transformers

from machinery.files import Refused

PARTS = ("encoder", "connector", "llm")


class Family:
    """Defaults are those of most families in transformers. A parameter belongs to the part with the longest
    prefix that fits. "Freeze the vision tower" freezes the connector too in many codebases, and a frozen
    connector is exactly what the paper shows collapsing (section 5.2)."""

    model_type = ""                                   # as in config.json
    hf_class = ""                                     # the class of transformers
    encoder = ("model.vision_tower",)                 # prefixes of the parts' names in the Hugging Face model
    connector = ("model.multi_modal_projector",)
    llm = ("model.language_model", "lm_head")
    connectors = {}                                   # place -> name in CONNECTORS or MERGERS; {}: theirs
    tiled = False                                     # features (tiles, patches, width): other connectors fit

    def __init__(self, config):
        self.config = config

    def part_of(self, name):
        """The part that a parameter belongs to, None where no prefix fits."""
        prefixes = [(len(prefix), prefix, part) for part in PARTS for prefix in getattr(self, part)]
        fits = [p for p in prefixes if name.startswith(p[1] + ".")]
        return max(fits)[2] if fits else None

    # ---- the model

    def encode(self, hf, images):
        """What the processor made of the images -> the encoder's features"""
        raise NotImplementedError

    def connect(self, hf, features):
        """features -> visual tokens (V, d)"""
        return hf.get_submodule(self.connector[0])(features)

    def place(self, x, visual, visual_at):
        """Put visual tokens (V, d) into their places among the embeddings x (N, d). Returns the LLM's input
        and what else its forward has to be told."""
        return x.index_copy(0, visual_at, visual.to(x.dtype)), {}

    def blank(self):
        """The smallest image, as the processor would hand it over: for ranks that have none."""
        raise NotImplementedError

    def patches_per_token(self):
        return 1

    # ---- prompts

    def limit_images(self, image_processor, max_tiles, pixels):
        """Limit images in the processor: at most max_tiles tiles, or pixels = (fewest, most); 0: its own."""

    def marks(self, tokenizer):
        """Ids that stand before and behind an image's tokens and are not written by the chat template."""
        return [], []

    def image_tokens(self, image_processor, size, per_tile):
        """Visual tokens of an image of (height, width). per_tile: what the connector makes of a tile."""
        raise NotImplementedError

    def positions(self, image_processor, ids, sizes):
        """Positions of a prompt's (expanded) tokens for the rotary embedding. sizes: of its images"""
        return torch.arange(len(ids))

    def vllm_limits(self, image_processor):
        """The limits of images as vLLM's processor wants to be told them."""
        return {}


class InternVL(Family):
    """InternVL3 and 3.5 in Hugging Face format: tiles of 448 pixels, an MLP behind a pixel shuffle."""

    model_type = "internvl"
    hf_class = "InternVLForConditionalGeneration"
    connectors = {"model.multi_modal_projector": "mlp"}
    tiled = True

    def encode(self, hf, images):
        """tiles (T, 3, height, width) -> features (T, patches, width), without the class token"""
        layer = self.config.vision_feature_layer
        out = hf.model.vision_tower(pixel_values=images["pixel_values"], output_hidden_states=layer != -1)
        return (out.last_hidden_state if layer == -1 else out.hidden_states[layer])[:, 1:]

    def blank(self):
        return {"pixel_values": torch.zeros(1, 3, *self.config.vision_config.image_size)}

    def patches_per_token(self):
        return round(1 / self.config.downsample_ratio) ** 2

    def limit_images(self, image_processor, max_tiles, pixels):
        image_processor.max_patches = max_tiles or image_processor.max_patches
        image_processor.crop_to_patches = image_processor.max_patches > 1

    def marks(self, tokenizer):
        begin, end = tokenizer.convert_tokens_to_ids(["<img>", "</img>"])
        return [begin], [end]

    def image_tokens(self, image_processor, size, per_tile):
        """One tile, or the tiling of the closest shape and a thumbnail. Tested against the real processor."""
        if not image_processor.crop_to_patches:
            return per_tile
        return per_tile * int(image_processor.get_number_of_image_patches(*size, {}))

    def vllm_limits(self, image_processor):
        return {"crop_to_patches": image_processor.crop_to_patches,
                "max_patches": image_processor.max_patches}


class Qwen2_5VL(Family):
    """Images keep their shape, positions are (time, row, column), the connector is a merger in the encoder.
    It only groups four patches when the encoder calls it (connector.py); VLM.connect calls its other side."""

    model_type = "qwen2_5_vl"
    hf_class = "Qwen2_5_VLForConditionalGeneration"
    encoder = ("model.visual",)
    connector = ("model.visual.merger",)
    connectors = {"model.visual.merger": "merger"}

    def encode(self, hf, images):
        """patches (P, width of a patch) -> features (P / 4, 4 * width)"""
        return hf.model.visual(images["pixel_values"], grid_thw=images["image_grid_thw"]).pooler_output

    def connect(self, hf, features):
        return hf.model.visual.merger(features, project=True)

    def blank(self):
        v = self.config.vision_config
        return {"pixel_values": torch.zeros(4, 3 * v.temporal_patch_size * v.patch_size ** 2),
                "image_grid_thw": torch.tensor([[1, 2, 2]])}

    def patches_per_token(self):
        return self.config.vision_config.spatial_merge_size ** 2

    def limit_images(self, image_processor, max_tiles, pixels):
        edges = ("shortest_edge", "longest_edge")
        size = {edge: given or image_processor.size[edge] for edge, given in zip(edges, pixels)}
        image_processor.size = type(image_processor.size)(**size)

    def image_tokens(self, image_processor, size, per_tile):
        return math.prod(self.grid(image_processor, size))

    def grid(self, image_processor, size):
        """Rows and columns of visual tokens: the image is scaled to multiples of 28 pixels (Qwen3-VL: 32)
        within the pixel limits. Tested against the real processor."""
        height, width = size
        unit = image_processor.patch_size * image_processor.merge_size
        least, most = image_processor.size["shortest_edge"], image_processor.size["longest_edge"]
        rows, columns = round(height / unit), round(width / unit)
        if rows * columns * unit ** 2 > most:
            shrink = math.sqrt(height * width / most)
            rows, columns = (max(1, math.floor(x / shrink / unit)) for x in size)
        elif rows * columns * unit ** 2 < least:
            grow = math.sqrt(least / (height * width))
            rows, columns = (math.ceil(x * grow / unit) for x in size)
        return rows, columns

    def positions(self, image_processor, ids, sizes):
        """(3, P) of M-RoPE: text counts on in all three rows; an image stands still in time and counts its
        rows and columns. Text behind an image goes on after the larger of the two.

            an image of 2 x 3 tokens behind two words, and a word behind it
            time     0 1  2 2 2 2 2 2  5
            row      0 1  2 2 2 3 3 3  5
            column   0 1  2 3 4 2 3 4  5
        """
        out, i, at = [], 0, 0  # i: place in the prompt, at: next position
        for size in sizes:
            rows, columns = self.grid(image_processor, size)
            j = ids.index(self.config.image_token_id, i)
            out.append((torch.arange(j - i) + at).expand(3, -1))
            at, i = at + j - i, j + rows * columns
            row = torch.arange(rows).repeat_interleave(columns)
            column = torch.arange(columns).repeat(rows)
            out.append(torch.stack([torch.zeros_like(row), row, column]) + at)
            at += max(rows, columns)
        return torch.cat(out + [(torch.arange(len(ids) - i) + at).expand(3, -1)], 1)

    def vllm_limits(self, image_processor):
        return {"size": {edge: image_processor.size[edge] for edge in ("shortest_edge", "longest_edge")}}


class Qwen3VL(Qwen2_5VL):
    """As Qwen2.5-VL, with DeepStack: mergers of earlier layers make further levels of each visual token, and
    the LLM's first layers add them. Here the levels lie side by side: features (P / 4, levels * 4 * width),
    tokens (V, levels * d)."""

    model_type = "qwen3_vl"
    hf_class = "Qwen3VLForConditionalGeneration"
    connector = ("model.visual.merger", "model.visual.deepstack_merger_list")
    connectors = {"model.visual.merger": "patch_merger",
                  "model.visual.deepstack_merger_list": "deepstack_mergers"}

    def encode(self, hf, images):
        out = hf.model.visual(images["pixel_values"], grid_thw=images["image_grid_thw"])
        return torch.cat([out.pooler_output, *out.deepstack_features], -1)

    def connect(self, hf, features):
        mergers = [hf.model.visual.merger, *hf.model.visual.deepstack_merger_list]
        levels = features.chunk(len(mergers), -1)
        return torch.cat([merger(level, project=True) for merger, level in zip(mergers, levels)], -1)

    def place(self, x, visual, visual_at):
        tokens, *levels = visual.split(x.shape[-1], -1)                                    # (V, d) each
        here = torch.zeros(len(x), dtype=torch.bool, device=x.device).index_fill(0, visual_at, True)
        x = x.index_copy(0, visual_at, tokens.to(x.dtype))
        return x, {"visual_pos_masks": here[None], "deepstack_visual_embeds": levels}


FAMILIES = {family.model_type: family for family in (InternVL, Qwen2_5VL, Qwen3VL)}


def family_of(config):
    return FAMILIES[config.model_type](config)


def read_config(path, flag="--model"):
    """The configuration of a model folder or hub name, refused when its family is unknown."""
    raw = raw_config(path, flag)
    kind = raw.get("model_type")
    if kind in ("internvl_chat", "skywork_chat"):  # InternVL3 and Skywork-R1V as their authors published them
        raise Refused(f"{flag} {path} is a {kind!r} model, the format of its authors' own code. Convert it "
                      f"once (python recipes/convert.py --model {path} --out NEW_FOLDER) and use NEW_FOLDER.")
    if kind not in FAMILIES:
        layers = sorted({*raw.get("text_config", raw).get("layer_types", ())} - {"full_attention"})
        why = layers and (f". Its LLM has layers of {', '.join(layers)}: in a pack, where the responses of a "
                          f"prompt stand side by side, one would leak through them into the next") or ""
        raise Refused(f"{flag} {path} is a {kind!r} model; "
                      f"the families are {', '.join(FAMILIES)} (machinery/families.py){why}")
    return transformers.AutoConfig.from_pretrained(path)


def raw_config(path, flag="--model"):
    """What config.json itself says: a key that it lacks is missing here and has no default of a class."""
    try:
        raw = transformers.PreTrainedConfig.get_config_dict(path)[0]
    except OSError as error:  # no such name on the hub, no right to it, no connection
        raise Refused(f"{flag} {path}: {error}") from None
    if not raw:  # transformers makes an empty one of nothing
        raise Refused(f"{flag} {path}: no config.json there. Is the name right?")
    return raw
