"""`make audit`: known vulnerabilities of the installed packages, by pip-audit, and plain words when nobody could be asked.

Exit status: 0 every package was looked up and none has a known vulnerability; 1 some have; 2 some or all could not be looked up,
so that nothing is known about them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PROBE = "pillow"  # asked first, alone: without an answer the others are not asked
Ask = Callable[[Path], "subprocess.CompletedProcess[str]"]


def main(uv: str) -> int:
    frozen = subprocess.run(
        [uv, "pip", "freeze", "--quiet", "--exclude-editable"], capture_output=True, text=True, check=True
    )
    packages = [line for line in frozen.stdout.splitlines() if "==" in line]

    def ask(file: Path) -> subprocess.CompletedProcess[str]:
        words = [
            "tool",
            "run",
            "pip-audit",
            "--no-deps",
            "--disable-pip",
            "--progress-spinner",
            "off",
            "--timeout",
            "20",
        ]
        return subprocess.run([uv, *words, "--format", "json", "-r", str(file)], capture_output=True, text=True)

    return audit(packages, ask)


def audit(packages: Sequence[str], ask: Ask) -> int:
    """Ask about the probe, then about all, and say what came of it.

    Args:
        packages: lines such as `pillow==12.0.0`.
        ask: runs pip-audit on a file of such lines; its JSON on standard output.
    """
    probe = [line for line in packages if line.startswith(f"{PROBE}==")] or list(packages[:1])
    for lines in (probe, packages):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "frozen.txt")
            file.write_text("\n".join(lines) + "\n")
            done = ask(file)
        try:
            found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError):
            why = next(
                (line for line in reversed(done.stderr.splitlines()) if line.strip()), f"status {done.returncode}"
            )
            print(NOT_REACHED.format(why=why, count=len(packages)), file=sys.stderr)
            return 2
        unknown = [item for item in found if "skip_reason" in item]
        if lines is probe and unknown:
            print(NOT_REACHED.format(why=unknown[0]["skip_reason"], count=len(packages)), file=sys.stderr)
            return 2
    bad = [item for item in found if item.get("vulns")]
    for item in bad:
        for hole in item["vulns"]:
            mended = ", ".join(hole.get("fix_versions") or []) or "no version yet"
            print(f"{item['name']} {item['version']}: {hole['id']}, mended in {mended}")
    for item in unknown:
        print(f"{item['name']}: could not be looked up ({item['skip_reason']})", file=sys.stderr)
    print(f"{len(found) - len(unknown)} of {len(packages)} packages looked up, {len(bad)} with known vulnerabilities")
    return 1 if bad else 2 if unknown else 0


NOT_REACHED = (
    "Nothing was audited: the advisories could not be reached ({why}). About none of the {count} installed packages is anything "
    "known. pip-audit asks the public package index's own API, which a mirror of packages does not have; run `make audit` where "
    "that can be reached."
)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
