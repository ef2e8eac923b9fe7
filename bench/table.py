"""results.json of bench/compare.py -> results.md beside it: `python -m bench.table`"""
import sys
from pathlib import Path

from machinery.files import read_json, write_text
from machinery.tables import table_lines


def both(row, what):
    """Ours and TRL's of one number"""
    sides = [row.get(f"{side}_{what}") for side in ("ours", "peer")]
    return " / ".join(f"{x:.2f}" for x in sides if x is not None)


def tables(results):
    """A Markdown table of steps: ours and TRL's, or ours alone"""
    return "\n".join(table_lines(
        ["a step: ours / TRL", "seconds", "times as fast", "spread", "sampling", "update", "peak GiB"],
        [[name, both(row, "s"), f"{row['ratio']:.2f}" if "ratio" in row else "", f"{row['spread']:.0%}",
          both(row, "sample_s"), both(row, "update_s"), both(row, "peak_gib")]
         for name, row in results.items() if name != "machine"]))


def write_table(results, path):
    machine = results["machine"]
    said = ", ".join(f"{name} {value}" for name, value in machine.items() if name != "command")
    text = f"{said}. Command: `{machine['command']}`.\n\n{tables(results)}\n"
    write_text(Path(path).with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    file = sys.argv[1] if sys.argv[1:] else "bench/results.json"
    write_table(read_json(file), file)
