"""Rows of the supervised stages: a prompt, and the solution that is learned. A reader of the recipe may skip
this file."""
from dataclasses import dataclass

from machinery.files import Refused, say
from machinery.talks import END_THINK, answers_of


@dataclass
class Row:
    prompt: object  # data.Prompt; of a longer talk, its earlier answers are learned, too (prompt.learned)
    ids: list       # of the solution and the end token: what is learned

    def __len__(self):
        return len(self.prompt.full) + len(self.ids)

    def learned(self):
        """Number of tokens that are learned"""
        return len(self.ids) + sum(stop - start for start, stop in self.prompt.learned)


def rows_with_solutions(records, chat, thinking, max_length):
    """Records -> [Row], those that fit max_length. Refuses solutions that do not agree with the thinking
    mode."""
    for r in records:
        r.solution = (r.solution or "").removeprefix("<think>").lstrip("\n")
        for answer in [*(answer for answer, learned in answers_of(r) if learned), r.solution]:
            if thinking and END_THINK not in answer:
                raise Refused(f"row {r.id}: the solution has no {END_THINK}, but --thinking teaches the "
                              f"thinking mode. Mend the row, or train the direct mode with --no-thinking.")
            if not thinking and END_THINK in answer:
                raise Refused(f"row {r.id}: the solution has a {END_THINK}, but --no-thinking teaches the "
                              f"direct mode")
    prompts = chat.prompts(records, thinking, max_length, learn=True)
    ids = chat.plain.encode([chat.plain.hide(p.record.solution) for p in prompts])
    rows = [Row(p, i + [chat.tokenizer.eos_token_id]) for p, i in zip(prompts, ids)]
    for row in rows:
        if any(row.prompt.full[stop - 1] not in chat.stop_ids for _, stop in row.prompt.learned):
            raise Refused(f"row {row.prompt.record.id}: the chat template ends an answer with a token at "
                          f"which sampling would not stop; several turns can not be learned with it")
    longest = min(max_length, chat.context)
    fits = [row for row in rows if len(row) <= longest]
    if len(fits) < len(rows):
        say(f"left out: {len(rows) - len(fits)} of {len(rows)} rows are longer than {longest} tokens "
            f"with their solution")
    if not fits:
        raise Refused("no row fits --max_length")
    return fits
