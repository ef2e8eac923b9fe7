"""The files of `python reward.py`: rows in, rows out, a summary. A reader may skip this file."""
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from machinery.files import Refused, check_flags, json_lines
from machinery.rows import answer_of, parse_options
from scoring.answers import unreadable_golds
from scoring.responses import Claim
from scoring.verifier import VerifierDown


def command(main, Config, doc):
    """The command line. Whatever stops it, it says so in a sentence."""
    try:
        cfg = tyro.cli(Config, description=doc.split("\n\n")[0])
        check_flags(cfg)
        main(cfg)
    except VerifierDown as error:
        sys.exit(f"{error} (nothing was written)")
    except Refused as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")


@dataclass
class Row:
    name: str             # in messages
    fields: dict          # as it stands in the file
    gold: str
    options: list | None
    question: str
    response: str | None
    bare: Claim | None    # of a row with a "prediction": a bare answer, which has no format to keep


def read_rows(path, check_golds):
    """The Rows of a JSON-lines file; when one cannot be scored, all bad ones are refused by name."""
    rows, bad = [], []
    try:
        for number, fields in json_lines(path):
            name = f"row {fields.get('id', number)!r}" if isinstance(fields, dict) else f"line {number}"
            try:
                rows.append(_row(name, fields))
            except ValueError as error:
                bad.append(f"{name}: {error}")
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; "
                      f"--responses is a JSONL file with one response a line") from error
    if bad:
        listed = "\n  ".join(bad[:20] + ["..."] * (len(bad) > 20))
        raise Refused(f"{path}: {len(bad)} rows cannot be scored; nothing was written\n  {listed}")
    if check_golds:
        odd = unreadable_golds([row.gold for row in rows], [row.options for row in rows])
        print(f"{len(odd)} of {len(rows)} rows have a right answer that the rule cannot read")
        for i, why in odd.items():
            print(f"  {rows[i].name}: {why}")
    return rows


def _row(name, fields):
    """A line of the file as a Row, or a ValueError that says what is wrong with it."""
    if isinstance(fields, ValueError):
        raise ValueError("is not JSON")
    if not isinstance(fields, dict):
        raise ValueError("is not an object with fields")
    if not isinstance(fields.get("response", fields.get("prediction")), str):
        raise ValueError('needs a text in "response" (or "prediction", for a bare answer)')
    if isinstance(fields.get("answer"), (bool, dict, type(None))) or not answer_of(fields).strip():
        raise ValueError('needs the right answer, a text or a number or a list of accepted ones, in "answer"')
    try:
        options = parse_options(fields.get("options")) or None
    except ValueError as error:
        raise ValueError('"options" is not a list of texts') from error
    gold, question, bare = answer_of(fields), str(fields.get("question") or ""), None
    if "response" not in fields:
        bare = Claim(fields["prediction"].strip() or None, "empty", False, gold, options, question)
    return Row(name, fields, gold, options, question, fields.get("response"), bare)


def check_out(out):
    if not Path(out).absolute().parent.is_dir():
        raise Refused(f"{out}: the folder of --out does not exist; make it first")


def parts(rows):
    """A thousand rows at a time, behind a progress bar."""
    with tqdm(total=len(rows), unit="row", disable=None) as bar:
        for k in range(0, len(rows), 1000):
            yield rows[k:k + 1000]
            bar.update(len(rows[k:k + 1000]))


def write_rows(out, rows, rewards):
    with open(out + ".part", "w", encoding="utf-8", errors="backslashreplace") as file:
        for row, r in zip(rows, rewards):
            found = {name: getattr(r, name) for name in ("accuracy", "format", "total", "extracted", "why")}
            file.write(json.dumps({**row.fields, **found}, ensure_ascii=False) + "\n")
    os.replace(out + ".part", out)


def print_summary(rows, rewards, seconds, out):
    n = max(1, len(rewards))
    print(f"{len(rows)} rows in {seconds:.2f} s, {len(rows) / max(seconds, 1e-9):.0f} rows/s -> {out}")
    accuracy, kept = sum(r.accuracy for r in rewards) / n, sum(r.format for r in rewards) / n
    print(f"accuracy {accuracy:.3f}  format {kept:.3f}  total {sum(r.total for r in rewards) / n:.3f}")
    if rows:
        row, r = max(zip(rows, rewards), key=lambda pair: pair[1].seconds)
        print(f"slowest: {row.name}, {r.seconds * 1000:.1f} ms ({r.why}): {str(r.extracted)[:60]!r}")


def print_rates(rates, counts):
    print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in rates.items()), counts)
