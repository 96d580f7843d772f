"""A file that cannot be written to its end leaves what was there before, and an error that says what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

WRITE = """
import resource, sys
from pathlib import Path
from raydistill.records import write_json
folder = Path(sys.argv[1])
write_json(folder / "file.json", {"old": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
from raydistill.errors import RunDirectoryError
try:
    write_json(folder / "file.json", {"new": "x" * 100_000})
except RunDirectoryError as error:
    print(error)
"""
FULL = """
mount -t tmpfs -o size=64k tmpfs "$2" && exec "$1" -c '
import sys
from pathlib import Path
from raydistill.errors import RunDirectoryError
from raydistill.records import write_json
folder = Path(sys.argv[1])
write_json(folder / "file.json", {"old": 1})
try:
    write_json(folder / "file.json", {"new": "x" * 100_000})
except RunDirectoryError as error:
    print(error, sorted(path.name for path in folder.iterdir()), (folder / "file.json").read_text())
' "$2"
"""


def test_a_limit_on_files_leaves_the_old_one_whole(tmp_path):
    run = subprocess.run([sys.executable, "-c", WRITE, tmp_path], capture_output=True, text=True, check=True)
    assert "cannot write file.json" in run.stdout
    assert "the same command then continues" in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
    assert '"old": 1' in (tmp_path / "file.json").read_text()


def test_a_full_disk_leaves_the_old_file_whole(tmp_path):
    command = ["unshare", "--mount", "bash", "-c"]
    if subprocess.run([*command, f"mount -t tmpfs tmpfs {tmp_path}"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a memory file system")
    run = subprocess.run([*command, FULL, "-", sys.executable, tmp_path], capture_output=True, text=True, check=True)
    assert "No space left on device" in run.stdout
    assert "['file.json']" in run.stdout
    assert '"old": 1' in run.stdout
