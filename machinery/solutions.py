"""Rows of the supervised stages: a prompt, and the solution that is learned. A reader of the recipe may skip
this file."""
from dataclasses import dataclass

from machinery.files import Refused, say
from machinery.rows import report_bad
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


def other_mode(record, thinking):
    """Why what a record teaches does not agree with the thinking mode, or "". The solution decides. Earlier
    answers of a talk may be plain in the thinking mode, too: chat templates write those without a thought,
    and in the prompt no <think> stands before them, so learning them takes nothing from the mode."""
    if thinking:
        return "" if END_THINK in record.solution else (
            f"the solution has no {END_THINK}, but --thinking teaches the thinking mode "
            f"(--no-thinking trains the direct one)")
    if END_THINK in record.solution:
        return f"the solution has a {END_THINK}, but --no-thinking teaches the direct mode"
    if any(END_THINK in answer for answer, learned in answers_of(record) if learned):
        return f"an earlier answer has a {END_THINK}, but --no-thinking teaches the direct mode"
    return ""


def of_mode(records, thinking, source, limit_bad):
    """The records whose solutions are of the mode that is taught. Others are skipped and counted; more than
    limit_bad of them is refused."""
    good, bad = [], []
    for r in records:
        r.solution = (r.solution or "").removeprefix("<think>").lstrip("\n")
        if why := other_mode(r, thinking):
            bad.append((r.name(), why))
        else:
            good.append(r)
    report_bad(source, len(good), bad, limit_bad)
    return good


def rows_with_solutions(records, chat, thinking, max_length, source="the data", limit_bad=0.0):
    """Records -> [Row], those that are of the mode and fit max_length (with prompt and solution)."""
    good = of_mode(records, thinking, source, limit_bad)
    prompts = chat.prompts(good, thinking, max_length, learn=True)
    ids = chat.plain.encode([chat.plain.hide(p.record.solution) for p in prompts])
    rows = [Row(p, i + [chat.tokenizer.eos_token_id]) for p, i in zip(prompts, ids)]
    for row in rows:
        if any(row.prompt.full[stop - 1] not in chat.stop_ids for _, stop in row.prompt.learned):
            raise Refused(f"{row.prompt.record.name()}: the chat template ends an answer with a token at "
                          f"which sampling would not stop; several turns can not be learned with it")
    longest = min(max_length, chat.context)
    fits = [row for row in rows if len(row) <= longest]
    if len(fits) < len(rows):
        say(f"left out: {len(rows) - len(fits)} of {len(rows)} rows are longer than {longest} tokens "
            f"with their solution")
    if not fits:
        raise Refused("no row fits --max_length")
    return fits
