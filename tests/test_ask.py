"""--ask and --system: the same words in every stage, where the chat template puts them."""
import pytest

import connector_tune
import data
import distill
import entropy_select
import eval_mmmu
import grpo
from recipes import plan
import sft
from data import Processor, Record
from machinery.files import Refused

BOX = "Put the final answer in \\boxed{}."


def text_of(processor, thinking=True, **fields):
    [prompt] = processor.prompts([Record("r", **fields)], thinking)
    return processor.tokenizer.decode(prompt.ids, clean_up_tokenization_spaces=False)


def test_the_words_of_a_prompt(model_path):
    plain, both = Processor(model_path), Processor(model_path, ask=BOX, system="Think first.")
    fields = {"question": "Which?", "options": ["4", "5"]}
    user = "<|im_start|>user\nWhich?\nA. 4\nB. 5{}<|im_end|>\n<|im_start|>assistant\n{}"
    assert text_of(plain, **fields) == user.format("", "<think>\n")
    system = "<|im_start|>system\nThink first.<|im_end|>\n"
    assert text_of(both, **fields) == system + user.format(f"\n{BOX}", "<think>\n")
    # the self-incentive prompt: asked to think, and free to
    assert text_of(both, thinking=False, **fields) == system + user.format(f"\n{BOX}", "")
    assert text_of(Processor(model_path, ask="Never write <image>."), question="Why?").count("<image>") == 1
    # Qwen2.5-VL's template writes a system turn of its own when the conversation has none
    both.tokenizer.chat_template = ("{%- if messages[0]['role'] != 'system' -%}You are helpful.{% endif -%}"
                                    + both.tokenizer.chat_template)
    assert text_of(both, question="Why?").startswith(system)
    both.tokenizer.chat_template = "{{ messages[-1]['content'][0]['text'] }}"
    with pytest.raises(Refused, match="the chat template of .* leaves a turn of the system out"):
        text_of(both, question="Why?")


class Made(Exception):
    """Chat was made: nothing behind it needs to run."""


def made(path, max_tiles, pixels, ask, system, flag="--model"):
    raise Made(ask, system)


@pytest.mark.parametrize("stage, command, rows", [
    (grpo, grpo.train, "rl.jsonl"), (sft, sft.train, "base.jsonl"), (plan, plan.report, "rl.jsonl"),
    (connector_tune, connector_tune.train, "connector.jsonl"), (eval_mmmu, eval_mmmu.evaluate, "mmmu"),
    (distill, distill.distill, "cold_start.jsonl"), (entropy_select, entropy_select.select, "val.jsonl")])
def test_every_stage_says_them(tiny, tmp_path, monkeypatch, stage, command, rows):
    monkeypatch.setattr({connector_tune: sft, eval_mmmu: data}.get(stage, stage), "Processor", made)
    config = getattr(stage, "DataConfig", None) or stage.Config
    (tmp_path / "step_000001").mkdir()
    flags = {"model": str(tiny / "model"), "data": str(tiny / rows), "out": str(tmp_path / "out"),
             "folder": str(tmp_path)}
    cfg = config(**{k: v for k, v in flags.items() if k in config.__dataclass_fields__})
    cfg.ask, cfg.system = BOX, "Think."
    with pytest.raises(Made) as seen:
        command(cfg)
    assert seen.value.args == (BOX, "Think.")
