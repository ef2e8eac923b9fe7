"""Rows of the supervised stages: a prompt, and the solution that is learned. A reader of the recipe may skip
this file."""
from dataclasses import dataclass

from machinery.files import Refused, say

END_THINK = "</think>"


@dataclass
class Row:
    prompt: object  # data.Prompt
    ids: list       # of the solution and the end token: what is learned

    def __len__(self):
        return len(self.prompt.full) + len(self.ids)


def rows_with_solutions(records, chat, thinking, max_length):
    """Records -> [Row], those that fit max_length. Refuses solutions that do not agree with the thinking
    mode."""
    for r in records:
        r.solution = (r.solution or "").removeprefix("<think>").lstrip("\n")
        if thinking and END_THINK not in r.solution:
            raise Refused(f"row {r.id}: the solution has no {END_THINK}, but --thinking teaches the thinking "
                          f"mode. Mend the row, or train the direct mode with --no-thinking.")
        if not thinking and END_THINK in r.solution:
            raise Refused(f"row {r.id}: the solution has a {END_THINK}, but --no-thinking teaches the direct "
                          f"mode")
    prompts = chat.prompts(records, thinking, max_length)
    ids = chat.tokenizer([p.record.solution for p in prompts], add_special_tokens=False)["input_ids"]
    rows = [Row(p, i + [chat.tokenizer.eos_token_id]) for p, i in zip(prompts, ids)]
    if wrong := [row.prompt.record.id for row in rows if chat.image_id in row.ids]:
        raise Refused(f"row {wrong[0]}: the solution contains {chat.image_mark} literally, "
                      f"which stands for an image. Mend the row.")
    longest = min(max_length, chat.context)
    fits = [row for row in rows if len(row) <= longest]
    if len(fits) < len(rows):
        say(f"left out: {len(rows) - len(fits)} of {len(rows)} rows are longer than {longest} tokens "
            f"with their solution")
    if not fits:
        raise Refused("no row fits --max_length")
    return fits
