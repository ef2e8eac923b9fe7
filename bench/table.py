"""results.json of bench/compare.py -> results.md and results.png beside it: `python -m bench.table`"""
import sys
from pathlib import Path

import matplotlib

from machinery.files import read_json, write_text

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def markdown(header, rows):
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def both(row, what, form="{:.2f}"):
    """Ours and TRL's of one number"""
    sides = [row.get(f"{side}_{what}") for side in ("ours", "peer")]
    return " / ".join(form.format(x) for x in sides) if None not in sides else ""


def update_share(row):
    """Seconds of the update, and the share of the matrix product's peak that ours reaches"""
    share = f" ({row['update_gflops'] / row['peak_gflops']:.0%})" if "update_gflops" in row else ""
    return both(row, "update_s") + share


def tables(results):
    """Three Markdown tables: against TRL, of our own steps, of an update"""
    rows = {name: row for name, row in results.items() if name != "machine"}
    compared = {name: row for name, row in rows.items() if "ratio" in row}
    updates = {name: row for name, row in rows.items() if "gflops" in row}
    own = {name: row for name, row in rows.items() if name not in compared and name not in updates}
    against = markdown(
        ["ours / TRL", "seconds", "times as fast", "spread", "sampling, s", "reward, s", "update, s",
         "tokens/s", "peak GiB"],
        [[name, both(row, "s"), f"{row['ratio']:.2f}", f"{row['spread']:.0%}", both(row, "sample_s"),
          both(row, "reward_s", "{:.3f}"), update_share(row), both(row, "tokens_per_s", "{:,.0f}"),
          both(row, "peak_gib")] for name, row in compared.items()])
    ours = markdown(
        ["ours alone", "seconds", "spread", "sampling, reward, update"],
        [[name, f"{row['ours_s']:.3f}", f"{row['spread']:.0%}",
          ", ".join(f"{row[f'ours_{part}_s']:.2f}" for part in ("sample", "reward", "update")
                    if f"ours_{part}_s" in row)] for name, row in own.items()])
    update = markdown(
        ["an update of", "seconds", "spread", "tokens", "GFLOP/s", "of the peak", "peak GiB",
         "without vocabulary"],
        [[name.removeprefix("update, "), f"{row['ours_s']:.2f}", f"{row['spread']:.0%}",
          f"{row['all_tokens']:,}", f"{row['gflops']:.0f}", f"{row['gflops'] / row['peak_gflops']:.0%}",
          f"{row['peak_gib']:.2f}",
          f"{row['peak_gib_without_vocabulary']:.2f}"] for name, row in updates.items()])
    return against, ours, update


def figure(results, path):
    """Times as fast as TRL; an update's seconds and GiB against what grows"""
    compared = {name: row for name, row in results.items() if "ratio" in row}
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    bars = left.barh(list(compared), [row["ratio"] for row in compared.values()], color="#4878a8")
    left.bar_label(bars, fmt=" %.1f")
    left.axvline(1, color="#888888", linewidth=1)
    left.set(title="times as fast as TRL")
    left.margins(x=0.15)
    left.invert_yaxis()
    groups = [row for row in results.values() if row.get("prompts") == 1]
    lengths = [row for name, row in results.items() if name.startswith("update, responses")]
    vocabularies = [row for row in results.values() if "vocabulary" in row]
    curves = {"1 prompt x 1 to 64 responses": groups, "4 x 4 responses of 64 to 2,048 tokens": lengths}
    for label, rows in curves.items():
        middle.plot([r["all_tokens"] for r in rows], [r["ours_s"] for r in rows], "o-", label=label)
    middle.set(title="seconds of an update against its tokens", xlim=(0, None), ylim=(0, None))
    middle.legend(loc="upper left", fontsize=8)
    for key, label in (("peak_gib", "all"), ("peak_gib_without_vocabulary", "without table and head")):
        right.plot([r["vocabulary"] for r in vocabularies], [r[key] for r in vocabularies], "o-", label=label)
    right.set(title="peak GiB against vocabulary", xscale="log", ylim=(0, None))
    right.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write_table(results, path):
    path, machine = Path(path), results["machine"]
    said = ", ".join(f"{name} {value}" for name, value in machine.items() if name != "command")
    text = "\n\n".join([f"{said}. Command: `{machine['command']}`.", *tables(results)]) + "\n"
    write_text(path.with_suffix(".md"), text)
    figure(results, path.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    file = Path(sys.argv[1] if sys.argv[1:] else "bench/results.json")
    write_table(read_json(file), file)
