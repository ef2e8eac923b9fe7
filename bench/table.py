"""results.json of bench/compare.py -> results.md beside it: `python -m bench.table`"""
import sys
from pathlib import Path

from machinery.files import read_json, write_text
from machinery.tables import table_lines


def both(row, what):
    """Ours and TRL's of one number"""
    sides = [row.get(f"{side}_{what}") for side in ("ours", "peer")]
    return " / ".join(f"{x:.2f}" for x in sides if x is not None)


def update_share(row):
    """Seconds of the update, and the share of the matrix product's peak that ours reaches"""
    share = f" ({row['update_gflops'] / row['peak_gflops']:.0%})" if "update_gflops" in row else ""
    return both(row, "update_s") + share


def tables(results):
    """Two Markdown tables: of steps, ours and TRL's or ours alone; of updates by bench.scale"""
    rows = {name: row for name, row in results.items() if name != "machine"}
    updates = {name: row for name, row in rows.items() if "gflops" in row}
    steps = table_lines(
        ["a step: ours / TRL", "seconds", "times as fast", "spread", "sampling", "update", "peak GiB"],
        [[name, both(row, "s"), f"{row['ratio']:.2f}" if "ratio" in row else "", f"{row['spread']:.0%}",
          both(row, "sample_s"), update_share(row), both(row, "peak_gib")]
         for name, row in rows.items() if name not in updates])
    alone = table_lines(
        ["an update of", "seconds", "spread", "tokens", "GFLOP/s", "of the peak", "GiB", "no vocabulary"],
        [[name.removeprefix("update, "), f"{row['ours_s']:.2f}", f"{row['spread']:.0%}",
          f"{row['all_tokens']:,}", f"{row['gflops']:.0f}", f"{row['gflops'] / row['peak_gflops']:.0%}",
          f"{row['peak_gib']:.2f}", f"{row['peak_gib_without_vocabulary']:.2f}"]
         for name, row in updates.items()])
    return "\n".join([*steps, "", *alone])


def write_table(results, path):
    machine = results["machine"]
    said = ", ".join(f"{name} {value}" for name, value in machine.items() if name != "command")
    text = f"{said}. Command: `{machine['command']}`.\n\n{tables(results)}\n"
    write_text(Path(path).with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    file = sys.argv[1] if sys.argv[1:] else "bench/results.json"
    write_table(read_json(file), file)
