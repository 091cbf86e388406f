"""The documentation builds as a site: every page has its place, every link leads somewhere."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    start = (tmp_path / "site" / "index.html").read_text()
    assert "no account are needed" in start and all(
        (tmp_path / "site" / page / "index.html").is_file() for page in pages
    )
