"""Writes docs/walkthrough.md: one row of the tiny world through one step of GRPO, with every number.

    make walkthrough                 # from the cold start of `make tiny`
    python -m docs.walkthrough --model MODEL --data ROWS.jsonl --out PAGE.md      # from another model

Nothing of the method is written a second time here. The numbers come from the functions that train, lines of
code are copied from their source, and what a reader can work out by hand is worked out by hand and has to be
what the code computes. So the page cannot say anything else than the code; tests/test_walkthrough.py turns
red when the page was made from other code than today's.
"""
import inspect
import math
import re
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image, ImageDraw
from torch.testing import assert_close

import entropy_select
import grpo
import reward
import rollout
import sft
import signals
from connector import MLPConnector, pixel_shuffle
from data import Chat, Record, read_records
from rollout import Draw
from machinery.families import InternVL
from machinery.files import Refused, main, say, write_text, writing
from machinery.head import LogProbAndEntropy
from machinery.parallel import start
from model import VLM, load, make_optimizer, update
from pack import Layout, Pack, make_pack
from scoring.answers import same_answer
from scoring.responses import last_box

ROOT = Path(__file__).parent.parent
SAMPLES, MAX_NEW, MAX_ROW = 4, 40, 112  # responses, tokens of each, tokens in all: what a page can show
NAMES = "abcd"                          # of the responses
BIG = 384                               # pixels of the enlarged picture
NEWLINE = "\n"                          # Python 3.10 wants no backslash inside the braces of an f-string

# ---- the paper's equations
REWARD = r"R = 0.8 \cdot \text{accuracy} + 0.2 \cdot \text{format}"
ADVANTAGE = r"A_i = \frac{R_i - \text{mean}(R_1, \dots, R_n)}{\text{std}(R_1, \dots, R_n)}"
OBJECTIVE = r"""J = \frac{1}{n} \sum_{i=1}^{n} \frac{1}{|y_i|} \sum_{t=1}^{|y_i|}
    \min\bigl(\rho_{i,t}\, A_i,\ \text{clip}(\rho_{i,t},\ 1 - \varepsilon,\ 1 + \varepsilon)\, A_i\bigr)"""
RATIO = r"""\rho_{i,t} = \frac{\pi_\theta(y_{i,t} \mid x,\, y_{i,<t})}
    {\pi_{\text{old}}(y_{i,t} \mid x,\, y_{i,<t})}"""
ENTROPY = r"H = -\sum_{v} p_v \log p_v"
SUPERVISED = r"L = -\frac{1}{|y|} \sum_{t=1}^{|y|} \log \pi_\theta(y_t \mid x,\, y_{<t})"
BY_LOGITS = r"\frac{\partial\, \text{loss}}{\partial z_v} = w A\, \bigl(p_v - [v = y]\bigr)"  # ours


@dataclass
class Config:
    model: str = "out/tiny/cold_start"      # model folder, run folder or hub name
    data: str = "data/tiny/rl.jsonl"        # rows; the first that shows something is taken
    out: str = "docs/walkthrough.md"        # the page; its picture lies beside it


# --------------------------------------------------------------------------- one step, as grpo.train takes it

@dataclass
class Step:
    """What one step made on its way. The row has N tokens, R of them of responses."""
    cfg: grpo.Config
    chat: Chat
    vlm: VLM
    group: rollout.Group
    micro: grpo.MicroBatch = None
    head: torch.Tensor = None          # (vocabulary, d) matrix of the LLM's head before the step
    features: torch.Tensor = None      # (1, patches, width)
    visual: torch.Tensor = None        # (V, d)
    hidden: torch.Tensor = None        # (N, d), with its gradient
    logp: torch.Tensor = None          # (R,) before the step, as entropy and logits
    entropy: torch.Tensor = None       # (R,)
    logits: torch.Tensor = None        # (R, vocabulary)
    loss: torch.Tensor = None
    parts: dict = None                 # part -> norm of its gradient
    norm: float = 0.0                  # of the whole gradient
    logp_after: torch.Tensor = None    # (R,)
    logits_after: torch.Tensor = None  # (R, vocabulary)

    def __post_init__(self):
        self.rollouts, self.record = self.group.rollouts, self.group.prompt.record
        self.named = [*zip(NAMES, self.rollouts)]
        self.image = self.chat.images(self.group.prompt)[0]
        self.connector = self.vlm.hf.get_submodule(self.vlm.family.connector[0])
        # the response with the largest advantage, of several the longest
        self.best = max(range(SAMPLES), key=lambda i: (self.rollouts[i].advantage, len(self.rollouts[i].ids)))

    @property
    def pack(self):
        return self.micro.pack

    @property
    def first(self):
        """Numbers, among the R tokens, of each response's first one"""
        return [int((self.pack.owner == i).nonzero()[0]) for i in range(SAMPLES)]

    def piece(self, id):
        """A token as it is shown here"""
        text = self.chat.tokenizer.decode([id], clean_up_tokenization_spaces=False)
        return "IMG" if id == self.chat.image_id else text.replace(" ", "·").replace(NEWLINE, "↵")

    def loss_of(self, k, logp):
        """What grpo_loss gives for token k alone"""
        names = ("adv", "length", "sampled_logp", "old_logp")
        one = replace(self.micro, **{name: getattr(self.micro, name)[k:k + 1] for name in names})
        return grpo.grpo_loss(logp[None], None, one, self.cfg)


def find_group(pool, cfg, sampler, world):
    """The first row with one picture whose responses all differ, are right and wrong, and fit a page"""
    for number, prompt in enumerate(pool[:500]):
        if len(prompt.record.images) == 1:
            [group], _ = grpo.collect([prompt], number, cfg, sampler, None, world)
            length = len(prompt.full) + sum(len(r.ids) for r in group.rollouts)
            texts = {r.text for r in group.rollouts}
            if group.mixed() and length <= MAX_ROW and len(texts) == SAMPLES:
                return group
    raise Refused(f"--data {cfg.data}: no row of the first 500 got {SAMPLES} short and different responses, "
                  f"right and wrong ones, of --model {cfg.model}; try another model")


def take_step(cfg):
    """grpo.train's step for one prompt, by the same functions in the same order"""
    world = start(cfg.seed, "cpu")
    chat = Chat(cfg.model, cfg.max_tiles, cfg.pixels, cfg.ask, cfg.system)
    pool = grpo.load_prompts(cfg, cfg.data, chat)
    vlm = load(cfg.model, world.device, cfg.dtype, cfg.train)
    optimizer = make_optimizer(vlm, cfg.weight_decay)
    group = find_group(pool, cfg, rollout.make_sampler(cfg.rollout, vlm, chat, world), world)
    grpo.set_advantages([group])
    s = Step(cfg, chat, vlm, group, head=vlm.hf.lm_head.weight.detach().clone())

    [batch] = grpo.make_batches([group], vlm, None, chat, cfg, world)
    [s.micro] = batch.micro_batches
    s.features = vlm.encode(s.pack)
    s.visual = vlm.connect(s.features)
    s.hidden = vlm.decode(s.pack, s.visual)
    s.hidden.retain_grad()
    logp, entropy = vlm.head(s.hidden, s.pack)
    s.micro.old_logp = logp.detach()
    loss = grpo.grpo_loss(logp, entropy, s.micro, cfg)[0]
    loss.backward()
    s.logp, s.entropy, s.loss = logp.detach(), entropy.detach(), loss.detach()
    s.logits = vlm.logits(s.hidden[s.pack.source]).detach()
    s.parts = {part: math.sqrt(sum(float(p.grad.square().sum()) for p in tensors.values()))
               for part, tensors in vlm.parts().items()}
    s.norm = update(vlm, optimizer, cfg.lr, cfg.clip, SimpleNamespace(bad_steps=0), [s.record.id])

    with torch.no_grad():
        hidden = vlm.decode(s.pack, vlm.connect(vlm.encode(s.pack)))
        s.logp_after = vlm.head(hidden, s.pack)[0]
        s.logits_after = vlm.logits(hidden[s.pack.source])
    return s


# ----------------------------------------------------------------------------------- what the page is made of

def place_of(thing):
    """(name, file) of a function or class of ours"""
    return thing.__qualname__, Path(inspect.getsourcefile(inspect.unwrap(thing))).relative_to(ROOT)


def where(thing):
    name, file = place_of(thing)
    return f"`{name}` in [{file}](../{file})"


def quote(thing, *pieces):
    """Lines of its source as they stand there: for each piece the one line that holds it"""
    (name, file), found = place_of(thing), []
    for piece in pieces:
        hits = [line for line in inspect.getsource(inspect.unwrap(thing)).splitlines() if piece in line]
        if len(hits) != 1:
            raise Refused(f"{file}: {name} has {len(hits)} lines with {piece!r}, not one. The code has "
                          f"changed: let docs/walkthrough.py quote and explain what stands there now")
        found.append(hits[0].strip())
    return block(f"# {file}: {name}", *found, kind="python")


def block(*lines, kind="text"):
    return "\n".join([f"```{kind}", *lines, "```"])


def drawn(rows, width=104):
    """{name: cells}, a column a token -> aligned text; what is too wide goes on below"""
    margin, columns, blocks = max(map(len, rows)) + 2, list(zip(*rows.values())), []
    while columns:
        lines = [f"{name:<{margin}}" for name in rows]
        while columns:
            wide = max(len(str(cell)) for cell in columns[0]) + 2
            if len(lines[0]) + wide > width and len(lines[0]) > margin:
                break
            lines = [line + f"{cell!s:<{wide}}" for line, cell in zip(lines, columns.pop(0))]
        blocks.append("\n".join(line.rstrip() for line in lines))
    return "\n\n".join(blocks)


def table(head, *rows):
    """Aligned text in a block: the first column to the left, the others to the right"""
    rows = [[str(cell) for cell in row] for row in [head, *rows]]
    wide = [max(map(len, column)) for column in zip(*rows)]
    lines = ["   ".join(f"{c:>{w}}" for c, w in zip(row[1:], wide[1:])) for row in rows]
    return block(*(f"{row[0]:<{wide[0]}}   {line}" for row, line in zip(rows, lines)))


def same(by_hand, computed):
    """What was worked out by hand, once the code agrees"""
    assert_close(torch.as_tensor(by_hand, dtype=torch.float32),
                 torch.as_tensor(computed, dtype=torch.float32).detach(), atol=1e-6, rtol=1e-4)
    return by_hand


def by_logits(s, k):
    """Gradient of the loss of token k by its logits: by hand, and as torch derives it from grpo_loss"""
    onehot = torch.zeros_like(s.logits[k])
    onehot[s.pack.target[k]] = 1
    weight = 1 / (s.micro.length[k] * s.micro.responses)
    by_hand = weight * s.micro.adv[k] * (s.logits[k].softmax(-1) - onehot)
    logits = s.logits[k].clone().requires_grad_()
    s.loss_of(k, logits.log_softmax(-1)[s.pack.target[k]])[0].backward()
    return same(by_hand, logits.grad)


def top(p, n=5):
    return p.topk(n).indices.tolist()


def seen_by(layout, n):
    """(n, n): True where a token (row) looks at another one (column), as the attention is told it"""
    seen = torch.zeros(n, n, dtype=torch.long)
    for b in layout.buckets:
        places, keys = b.queries.flatten()[b.real], b.keys.repeat_interleave(b.queries.shape[1], 0)[b.real]
        seen.index_put_((places[:, None], keys), b.mask.flatten(0, 2)[b.real].long(), accumulate=True)
    return seen > 0


def draw_picture(s, path):
    """The picture enlarged; beside it, what the encoder cuts it into, and what the connector puts together"""
    patches = round(math.sqrt(s.features.shape[1]))  # of a side
    canvas, right = Image.new("RGB", (2 * BIG + 24, BIG), "white"), BIG + 24
    for x in (0, right):
        canvas.paste(s.image.convert("RGB").resize((BIG, BIG), Image.NEAREST), (x, 0))
    pen = ImageDraw.Draw(canvas)
    for every, colour, width in ((1, "#8fb4d0", 1), (s.connector.side, "#d55e00", 3)):
        for number in range(0, patches + 1, every):
            at = min(round(number * BIG / patches), BIG - 1)
            pen.line([(right + at, 0), (right + at, BIG)], colour, width)
            pen.line([(right, at), (right + BIG, at)], colour, width)
    with writing(path):
        canvas.save(path, "PNG")


def wrapped(text, width=110):
    """Paragraphs and items of lists filled to the width; blocks, tables and headings as they are"""
    out = []
    for part in re.split(r"(```.*?```)", text, flags=re.DOTALL):
        for paragraph in part.split("\n\n") if part[:3] != "```" else [part]:
            lines = re.split(r"\n(?=- )", paragraph.strip("\n"))
            plain = part[:3] != "```" and paragraph.strip()[:1] not in ("|", "#", "<", "!")
            fill = [textwrap.fill(x, width, subsequent_indent="  " * x.startswith("- "),
                                  break_long_words=False, break_on_hyphens=False) for x in lines]
            out.append("\n".join(fill if plain else lines))
    return "\n\n".join(x for x in out if x.strip())


# -------------------------------------------------------------------------------------- the page, by sections

def opening(s):
    return f"""
# One step of GRPO, by hand

<!-- `make walkthrough` writes this page (docs/walkthrough.py) from the tiny world's cold start. -->

This page takes one row of the tiny world through one step of [grpo.py](../grpo.py), with its real numbers.
`make walkthrough` makes it. The numbers come from the functions that train. The lines of code are copied from
their files. What can be worked out by hand is worked out here, and it has to be what the code computes, or
the page is not written.

You need to know vectors, matrices and derivatives. Four words are enough of the rest:

- **token**: a piece of text with a number, its *id*. This model knows {s.logits.shape[1]} of them.
- **policy**: the model, seen as what it is: for a text so far, a probability for each token that may come
next.
- **response**: tokens that were drawn from the policy, one after the other, until it drew the end.
- **reward**: a number that says how good a response is.

The idea in one sentence: draw some responses to the same question, see which are better than the others, make
the tokens of the better ones more probable and those of the worse ones less probable.

The paper takes 32 questions a step and 32 responses to each, of thousands of tokens. Here it is one question
and {SAMPLES} short responses, so that all of it fits on a page. The functions are the same.
"""


def section_row(s):
    r = s.record
    row = {"id": r.id, "question": r.question, "options": r.options, "answer": r.answer, "subject": r.subject}
    return f"""
## 1. A row and its picture

A row of the data set has a picture, a question and the right answer. There is no solution in it: how to get
to the answer is what the model has to find out. {where(read_records)} reads the rows, and each becomes a
{where(Record)}.

{block(*(f"{name:<10}{value}" for name, value in row.items() if value))}

![the picture, and the grid that the model lays over it]({Path(s.cfg.out).stem}.png)

Left, the picture, enlarged {BIG // s.image.width} times. Right, the same with thin lines around the patches
that the encoder sees, and thick lines around what becomes one visual token. Each cell of the picture falls on
exactly one of them.
"""


def section_prompt(s):
    ids = s.group.prompt.full
    cells = {"place": range(len(ids)), "token": map(s.piece, ids), "id": ids}
    return f"""
## 2. The prompt

{where(Chat.prompts)} writes the question as the model has learned to be asked. In these drawings `·` is a
space, `↵` a line break, and `IMG` the placeholder of a visual token.

{block(drawn(cells))}

The prompt ends with `<think>`. So the next thing that the model writes is a thought (section 6.2 of the
paper). The chat template has one placeholder for the picture. {where(Chat._prompt)} repeats it as often as
the picture has visual tokens, {len(s.visual)} times. The prompt has {len(ids)} tokens.
"""


def section_picture(s):
    side, (_, patches, width) = s.connector.side, s.features.shape
    wide = pixel_shuffle(s.features, side)
    first = pixel_shuffle(torch.arange(patches)[None, :, None], side)[0, 0].tolist()
    pixels = s.chat.pixels(s.group.prompt)["pixel_values"]
    return f"""
## 3. What the model sees of the picture

{table(("what", "shape", "made by"),
       ("the picture", (s.image.height, s.image.width, 3), Chat.images.__qualname__),
       (f"scaled to {pixels.min():.1f} ... {pixels.max():.1f}", (*pixels.shape,), Chat.pixels.__qualname__),
       ("features of the patches", (1, patches, width), VLM.encode.__qualname__),
       ("after the pixel shuffle", tuple(wide.shape), pixel_shuffle.__qualname__),
       ("visual tokens", tuple(s.visual.shape), VLM.connect.__qualname__))}

{where(VLM.encode)} calls the encoder, a transformer over the {patches} patches ({where(InternVL.encode)}).
Each patch becomes a vector of {width} numbers, its *features*.

{where(pixel_shuffle)} lays the vectors of {side} x {side} neighbouring patches side by side. Patches are
counted row by row, so the first token gets the patches {", ".join(map(str, first))}. No number is lost: there
are {side * side} times fewer vectors, and each is {side * side} times as wide.

{quote(pixel_shuffle, "x = features.view", "x = x.permute", "return x.reshape")}

The connector is the hero of the paper. {where(MLPConnector.forward)} turns each of these vectors into one
that is as wide as the LLM's word embeddings, d = {s.visual.shape[1]} (section 3.2 of the paper):

{quote(MLPConnector.forward, "x = pixel_shuffle", "x = self.linear_1", "return self.linear_2")}

The LLM reads visual tokens as it reads words. The first one begins with
{", ".join(f"{x:.3f}" for x in s.visual[0, :5].tolist())}, ... {where(VLM.decode)} puts them into the places
{int(s.pack.visual_at[0])} to {int(s.pack.visual_at[-1])} of the prompt, and runs the LLM.
"""


def section_responses(s):
    best = s.rollouts[s.best]
    cells = {"token": map(s.piece, best.ids), "id": best.ids,
             "log-prob": [f"{x:.3f}".replace("-0.000", "0.000") for x in best.logp.tolist()],
             "prob": [f"{math.exp(x):.3f}" for x in best.logp.tolist()]}
    totals = [(name, len(r.ids), f"{float(r.logp.sum()):.3f}", f"{math.exp(r.logp.sum()):.2g}", r.finish)
              for name, r in s.named]
    return f"""
## 4. Responses to the same question

{where(rollout.TorchSampler.generate)} computes the prompt and its picture once. Then it draws one token at a
time for all {SAMPLES} responses. {where(Draw.__call__)} turns the LLM's scores, the *logits*, into the
logarithms of probabilities (*log-probs*), and draws:

{quote(Draw.__call__, "logp = logits.log_softmax(-1)")}

{block(*(f"{name}   {r.text.replace(NEWLINE, '↵')}" for name, r in s.named))}

The probability of a response is the product of those of its tokens, so its log-prob is the sum of theirs:

{table(("response", "tokens", "log-prob", "probability", "ended by"), *totals)}

Response {NAMES[s.best]}, token by token. Where `prob` is 1.000, the model had no doubt:

{block(drawn(cells))}
"""


def section_reward(s):
    rows = []
    for name, r in s.named:
        same(0.8 * r.reward.accuracy + 0.2 * r.reward.format, r.reward.total)
        sum_by_hand = f"0.8 * {r.reward.accuracy:g} + 0.2 * {r.reward.format:g} = {r.reward.total:g}"
        rows.append((name, r.reward.extracted, s.record.answer, r.reward.why, sum_by_hand))
    return f"""
## 5. The reward

The paper pays for two things (sections 3.1 and 3.3): a right answer, and a kept format.

{block(REWARD, kind="math")}

{quote(reward._reward, "total = ")}

{where(reward.score_batch)} does it for all responses. {where(last_box)} finds what stands in the last
`\\boxed{{}}` behind the thought, and {where(same_answer)} says whether it means the same as the right answer.
Here `rule` says that the rule found them equal. {where(reward.format_ok)} wants exactly one `</think>`, a
thought before it and an answer behind it.

{table(("response", "its answer", "right answer", "accuracy says", "reward"), *rows)}

Nobody says *which token* of a wrong response was the wrong one. The reward is one number for all of it.
"""


def section_advantage(s):
    total = [r.reward.total for r in s.rollouts]
    mean = sum(total) / len(total)
    std = math.sqrt(sum((x - mean) ** 2 for x in total) / (len(total) - 1))
    rows = []
    for name, r in s.named:
        by_hand = same((r.reward.total - mean) / (std + 1e-6), r.advantage)
        rows.append((name, f"({r.reward.total:g} - {mean:g}) / {std:.4f}", f"{by_hand:+.4f}"))
    return f"""
## 6. The advantage

A reward of {max(total):g} alone says little, because the question may be an easy one. The other responses to
the same question know. So the *advantage* is a reward against those of its group (section 3.3 of the paper):

{block(ADVANTAGE, kind="math")}

{quote(grpo.advantages, "centred =", "spread =", "return")}

The mean is ({" + ".join(f"{x:g}" for x in total)}) / {len(total)} = {mean:g}. The standard deviation, with
n - 1 = {len(total) - 1} below the line, is {std:.4f}.

{table(("response", "by hand", "advantage"), *rows)}

Above 0 means: more of this. Below 0 means: less of this. The sum is 0. Were all rewards equal, `spread` would
make every advantage 0, and the group would teach nothing. {where(grpo.set_advantages)} writes the advantages
into the responses.
"""


def section_pack(s):
    pack, prompt, drawings = s.pack, len(s.group.prompt.full), []
    for i, (name, r) in enumerate(s.named):
        mine = (pack.owner == i).nonzero()[:, 0]
        at = mine + prompt
        cells = {"place": at.tolist(), "token": map(s.piece, pack.ids[at].tolist()),
                 "position": pack.positions[at].tolist(), "source": pack.source[mine].tolist(),
                 "owner": pack.owner[mine].tolist()}
        same(pack.ids[at], pack.target[mine])
        drawings.append(f"response {name}\n{drawn(cells)}")
    visual, seen = pack.visual_at.tolist(), seen_by(pack.layout, len(pack.ids))
    at, of = torch.arange(len(pack.ids)), torch.cat([torch.full((prompt,), -1), pack.owner])
    before, mine = at[None] <= at[:, None], (of[None] == of[:, None]) | (of[None] == -1)
    same(before & mine, seen)
    letters = ["v" if k in visual else "p" for k in range(prompt)] + [NAMES[i] for i in pack.owner.tolist()]
    last = [prompt - 1] + [prompt + int((pack.owner == i).nonzero()[-1]) for i in range(SAMPLES)]
    sight = ["".join(".x"[x] for x in seen[at].tolist()) for at in last]
    names = ["who stands there", *(f"place {at} ({letters[at]}) sees" for at in last)]
    return f"""
## 7. The pack

To learn, the model has to read the prompt and all responses once more. {where(make_pack)} lays them into one
row without padding: the prompt once, and the {SAMPLES} responses behind it. The row has {len(pack.ids)}
tokens, {prompt} of the prompt and {len(pack.owner)} of responses. In {SAMPLES} rows, a prompt in each, they
would be {SAMPLES * prompt + len(pack.owner)}, and the picture would be computed {SAMPLES} times.

The prompt has the places and the positions 0 to {prompt - 1}, as drawn in section 2. Then come the responses:

{block((NEWLINE * 2).join(drawings))}

- `position` is where the LLM takes the token to stand in its text. Every response goes on from the prompt's
end, so each begins with {prompt}, whatever its place is.
- `source` is the place whose hidden state predicts the token: the place before it. For the first token of
*every* response that is place {prompt - 1}, the end of the prompt.
- `owner` is the number of the response.

{quote(Pack, "source:", "owner:")}

Responses must not read each other. {where(Layout)} says who attends to whom: a token sees the prompt, and of
its own response itself and what stands before it. One letter is one token (`p` prompt, `v` visual token):

{block(*(f"{name:<20}{x}" for name, x in zip(names, ["".join(letters), *sight])))}
"""


def section_forward(s):
    gap = max(float((r.logp - s.logp[s.pack.owner == i]).abs().max()) for i, r in enumerate(s.rollouts))
    k = s.first[s.best]
    p, logp = s.logits[k].softmax(-1), s.logits[k].log_softmax(-1)
    same(logp[s.pack.target[k]], s.logp[k])
    entropy = same(float(-(p * logp).sum()), s.entropy[k])
    terms = [(s.piece(i), f"{p[i]:.4f}", f"{logp[i]:.4f}", f"{-p[i] * logp[i]:.4f}") for i in top(p)]
    return f"""
## 8. The same log-probs, now with a gradient

The forward of a pack is encoder, connector, LLM, head ({where(VLM.forward)}):

{quote(VLM.forward, "features = self.encode", "return self.head")}

{where(VLM.head)} gives the log-prob of each of the {len(s.logp)} response tokens, and the entropy of the
distribution that it was drawn from. The sampler had computed the same log-probs one token at a time. The
largest difference is {gap:.0e}: the policy that learns is the policy that drew.

Look at one place, the end of the prompt, where every response begins. These are the most probable tokens, and
what each adds to the entropy (section 5.1 of the paper), which says how open the choice is:

{block(ENTROPY, kind="math")}

In the code, `x` are the logits and `total` is the sum of their exponentials `e`. So log p is x - log total,
and H is log total minus the mean of x, in which each x counts with its p:

{quote(LogProbAndEntropy.forward, "mean = ", "entropy[i:i + size] =")}

{table(("token", "p", "log p", "-p log p"), *terms)}

All {len(p)} tokens together give H = {entropy:.4f} (in *nats*: the logarithm is the natural one). If two
tokens had a half each, it would be log 2 = 0.6931. If one had everything, it would be 0.
"""


def section_loss(s):
    micro, k, cfg = s.micro, s.first[s.best], s.cfg
    length, adv = int(micro.length[k]), float(micro.adv[k])
    now, then = float(s.logp[k]), float(micro.old_logp[k])
    weight, ratio = 1 / (length * micro.responses), math.exp(now - then)
    clipped = min(max(ratio, 1 - cfg.clip_low), 1 + cfg.clip_high)
    by_hand = same(-weight * min(ratio * adv, clipped * adv), s.loss_of(k, s.logp[k])[0])
    shares = [-r.advantage / micro.responses for r in s.rollouts]
    rows = [(name, len(r.ids), f"{1 / (len(r.ids) * micro.responses):.6f}", f"{r.advantage:+.4f}",
             f"{share:+.4f}") for (name, r), share in zip(s.named, shares)]
    same(sum(shares), s.loss)
    return f"""
## 9. The loss of one token

The paper's objective (section 3.3) is to become large, so the loss is its negative. n is the number of
responses, |y| the number of tokens of a response:

{block(OBJECTIVE, kind="math")}

ρ compares the policy now with the policy that drew the token:

{block(RATIO, kind="math")}

In code, {where(grpo.grpo_loss)}, it is a sum over all response tokens of the pack, whatever response they are
of. The two means have become a weight:

{quote(grpo.grpo_loss, "weight = micro.real", "ratio =", "clipped =", "loss, kl =")}

By hand, for the first token of response {NAMES[s.best]}, `{s.piece(int(s.pack.target[k]))}`:

{block(f"weight    1 / (|y| * n) = 1 / ({length} * {micro.responses}) = {weight:.6f}",
       f"ratio     exp(log-prob now - log-prob then) = exp({now:.4f} - {then:.4f}) = {ratio:g}",
       f"clipped   {ratio:g} is between {1 - cfg.clip_low:g} and {1 + cfg.clip_high:g}: it stays {clipped:g}",
       f"loss      -{weight:.6f} * min({ratio:g} * {adv:.4f}, {clipped:g} * {adv:.4f}) = {by_hand:.6f}")}

`grpo_loss` gives the same for this token. The ratio is exactly 1, because the policy has not changed yet, and
with one gradient step a batch it is never asked again ({where(grpo.train)}):

{quote(grpo.train, "micro.old_logp = logp.detach()")}

Why is it there, when it is 1? For its derivative: that of ρ is ρ times that of the log-prob.

All tokens of a response have the same weight and the same advantage, so a response adds -A / n:

{table(("response", "tokens", "weight of a token", "advantage", "adds to the loss"), *rows)}

The sum is 0, and so says `grpo_loss` (up to rounding, {float(s.loss):.0e}). It is 0 for every group, whatever
the model does, because advantages sum to 0. Only the gradient is used, and that is not 0. Note the weights: a
token of a short response weighs more than a token of a long one.
"""


def section_gradient(s):
    k, place = s.first[s.best], len(s.group.prompt.full) - 1
    p, token = s.logits[k].softmax(-1), int(s.pack.target[k])
    votes = [by_logits(s, j) for j in s.first]
    mine, together = votes[s.best], sum(votes)
    same(together @ s.head, s.hidden.grad[place])
    shown = list(dict.fromkeys([token, *(int(s.pack.target[j]) for j in s.first), *top(p)]))
    rows = [(s.piece(i), f"{p[i]:.4f}", f"{p[i] - int(i == token):+.4f}", f"{mine[i]:+.6f}") for i in shown]
    sums = [(s.piece(i), *(f"{v[i]:+.6f}" for v in votes), f"{together[i]:+.6f}") for i in shown]
    weight, adv = 1 / (int(s.micro.length[k]) * s.micro.responses), float(s.micro.adv[k])
    size = same(math.sqrt(sum(x * x for x in s.parts.values())), s.norm)
    return f"""
## 10. The gradient

**By the logits.** The log-prob of the drawn token y is its logit, minus the logarithm of the sum of the
exponentials of all logits z. So its derivative by the logits is a 1 at y (*onehot*), minus p. The token's
loss, -w ρ A with ρ = 1 and the weight w, has the derivative

{block(BY_LOGITS, kind="math")}

For our token, w A = {weight:.6f} * {adv:.4f} = {weight * adv:.6f}:

{table(("token", "p", "p - onehot", "times w A"), *rows)}

The step goes against the gradient. Since A is {"above" if adv > 0 else "below"} 0, the logit of the drawn
token goes {"up" if adv > 0 else "down"} and all others go {"down" if adv > 0 else "up"}, most of all the
probable ones. A drawn token that was certain (p = 1) gives no gradient: there is nothing to learn from it.
{where(LogProbAndEntropy.backward)} computes it for all tokens, first the p, then the 1. There `d` begins as
the exponentials of the logits, so `d / total` is p, and `d_logp` is the derivative by the log-prob, -w A:

{quote(LogProbAndEntropy.backward, "scale = -d_logp", "d *= scale", "d.scatter_add_")}

**By a hidden state.** At place {place} all {SAMPLES} responses begin. So {SAMPLES} such gradients meet there,
each with the weight and the advantage of its response, and add up. It is a vote on how to begin:

{table(("token", *NAMES, "together"), *sums)}

Below 0 means: here the step pushes this token's logit up. Places and tokens share the weights that move, so a
small push can be outvoted, as section 11 shows. The sum, times the matrix of the head, is the gradient by the
hidden state of place {place}. The one that `loss.backward()` left there is the same.

**By the weights.** From the hidden states the gradient flows back through the LLM into the visual tokens,
through the connector into the features, and through the encoder. All three parts train. Its length, the
*norm*, in each:

{table(("part", "norm of the gradient"), *((part, f"{x:.4f}") for part, x in s.parts.items()))}

Together: √({" + ".join(f"{x:.4f}²" for x in s.parts.values())}) = {size:.4f}. A gradient that is longer than
{s.cfg.clip:g} (`--clip`) is shortened to that. This one is{"" if size > s.cfg.clip else " not"}.
"""


def section_step(s):
    rows, agree = [], 0
    for i, (name, r) in enumerate(s.named):
        before, after = (float(x[s.pack.owner == i].sum()) for x in (s.logp, s.logp_after))
        right = (after - before) * r.advantage > 0
        agree += right
        rows.append((name, f"{r.reward.total:g}", f"{r.advantage:+.4f}", f"{before:.4f}", f"{after:.4f}",
                     f"{after - before:+.4f}", "as it should" if right else "the other way"))
    k = s.first[0]
    before, after = s.logits[k].softmax(-1), s.logits_after[k].softmax(-1)
    begin = [(s.piece(i), f"{before[i]:.4f}", f"{after[i]:.4f}", f"{after[i] - before[i]:+.4f}")
             for i in top(before)]
    ratio = grpo.grpo_loss(s.logp_after, None, s.micro, s.cfg)[1]
    low, high = 1 - s.cfg.clip_low, 1 + s.cfg.clip_high
    outside = int(((ratio < low) | (ratio > high)).sum())
    return f"""
## 11. What the step changed

{where(update)} shortens the gradient if it must, and lets AdamW take one step, here with the learning rate
{s.cfg.lr:g}:

{quote(update, "norm = torch.nn.utils", "o.step()")}

Now the new policy reads the same responses. Their log-probs before and after:

{table(("response", "reward", "advantage", "before", "after", "change", "it moved"), *rows)}

{agree} of {SAMPLES} moved as their advantage says. They share all weights and many tokens, so one response
can pull another one along.

How to begin, at the place of the vote:

{table(("token", "p before", "p after", "change"), *begin)}

The ratios are not 1 any more. They lie between {float(ratio.min()):.3f} and {float(ratio.max()):.3f}, and
{outside} of {len(ratio)} are outside {low:g} ... {high:g}. With `--minibatches 2` a second gradient step on
old responses would start from such ratios, and the clip would stop it from pushing a token further out. In
the paper's setting new responses are drawn instead, from the new policy ({where(grpo.train)}):

{quote(grpo.train, "sampler.sync(vlm)")}

No text has told the model how to begin; the rewards of whole responses have. And that was one step.
`make tiny` takes 40 of them, with 16 questions and 16 responses to each.
"""


def section_neighbours(s):
    supervised = float(-s.logp[s.pack.owner == s.best].mean())
    words = sum(len(r.critical(s.cfg.words)) for r in s.rollouts)
    return f"""
## 12. Two neighbours

**Supervised finetuning** (stages 1 and 3, sections 2, 3.2 and 3.4 of the paper) has the same packs, the same
forward and the same log-probs. But it draws nothing. It takes a solution y that somebody wrote, and every
token of it is to become more probable, as if its advantage were 1. The mean goes over all tokens of the
batch; for one solution it is

{block(SUPERVISED, kind="math")}

{quote(sft.supervise, "part = -weight * logp.sum()")}

Had somebody written response {NAMES[s.best]}, its loss in {where(sft.supervise)} would be {supervised:.4f}
before the step.

**Choosing a checkpoint** (section 5.1) reads the entropy of section 8 where a critical word begins, such as
"Wait" or "Alternatively". {where(signals.critical_tokens)} finds these words in the text. In these {SAMPLES}
responses there are {words}. {where(entropy_select.measure)} takes the mean over many responses:

{quote(entropy_select.measure, '"critical_entropy": sum(sums)')}
"""


def section_equations(s):
    return f"""
## The paper's equations, and the code that computes them

| what | section of the paper | code | on this page |
|---|---|---|---|
| reward: 0.8 accuracy + 0.2 format | 3.1, 3.3 | {where(reward._reward)} | 5 |
| advantage within the group | 3.3 | {where(grpo.advantages)} | 6 |
| objective: ratio, clip, mean over tokens and responses | 3.3 | {where(grpo.grpo_loss)} | 9 |
| entropy of a token | 5.1 | {where(LogProbAndEntropy.forward)} | 8 |
| entropy of the critical tokens | 5.1 | {where(entropy_select.measure)} | 12 |
| supervised loss of stages 1 and 3 | 2, 3.2, 3.4 | {where(sft.supervise)} | 12 |
"""


SECTIONS = (opening, section_row, section_prompt, section_picture, section_responses, section_reward,
            section_advantage, section_pack, section_forward, section_loss, section_gradient, section_step,
            section_neighbours, section_equations)


def write(cfg):
    out = Path(cfg.out)
    step = take_step(grpo.Config(model=cfg.model, data=cfg.data, out=cfg.out, prompts=1, samples=SAMPLES,
                                 max_new_tokens=MAX_NEW, lr=1e-4, dtype="fp32"))
    page = "\n\n".join(wrapped(section(step).strip()) for section in SECTIONS) + "\n"
    draw_picture(step, out.with_suffix(".png"))
    write_text(out, page)
    say(f"{out} and {out.with_suffix('.png')}: row {step.record.id}")


if __name__ == "__main__":
    main(write, Config)
