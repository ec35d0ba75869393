"""What no test enters: python tests/coverage_table.py build/coverage/report.json

Functions that numba compiles run as machine code, where coverage counts nothing: they are listed apart.
"""
import ast
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def compiled(path):
    "Names of the functions in a module that numba compiles, found by their decorator."
    def by_numba(decorator): return "jit" in ast.unparse(decorator)
    return {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and any(map(by_numba, node.decorator_list))}


def main(report):
    files = json.loads(Path(report).read_text(encoding="utf-8"))["files"]
    lines = reached = 0
    below, never = [], []
    for name, file in sorted(files.items()):
        numba = compiled(ROOT / name)
        parts = {part: region["summary"] for part, region in file["functions"].items() if part not in numba}
        n, hit = (sum(s[key] for s in parts.values()) for key in ("num_statements", "covered_lines"))
        lines, reached = lines + n, reached + hit
        if hit < n: below.append(f"{100 * hit / n:6.1f} %  {n - hit:4d} of {n:4d} lines not entered  {name}")
        never += [f"  {name}: {part or 'at top level'}" for part, s in parts.items()
                  if s["num_statements"] and not s["covered_lines"]]
    print(f"{100 * reached / lines:.1f} % of {lines:,} lines of hil/ are entered by pytest (make coverage).")
    print("Functions that numba compiles run as machine code and are not counted; tests hold them to references.\n")
    print("Modules below 100 %:", *sorted(below, key=lambda row: float(row.split()[0])), sep="\n")
    print("\nFunctions that no test enters:", *(never or ["  none"]), sep="\n")


if __name__ == "__main__": main(sys.argv[1])
