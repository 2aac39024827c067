"""GGUF files by llama.cpp's own converter, a program outside this library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from anypo.errors import UserError

NAMES = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
VARIABLE = "ANYPO_GGUF"
TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def find() -> list[str]:
    """The converter as a command: the file that $ANYPO_GGUF names, else the first of `NAMES` on the path. `UserError` without one."""
    named = os.environ.get(VARIABLE, "")
    found = str(Path(named).expanduser()) if named else next(filter(None, map(shutil.which, NAMES)), "")
    if not found or not Path(found).is_file():
        missing = f"${VARIABLE} names no file ({named})" if named else "none is on the path"
        raise UserError(
            f"--gguf needs llama.cpp's converter, and {missing}; name the convert_hf_to_gguf.py of a llama.cpp checkout in "
            f"${VARIABLE}, or install convert-hf-to-gguf into an environment of its own and name its command there"
        )
    return [sys.executable, found] if found.endswith(".py") else [found]


def convert(tool: list[str], folder: Path, dtype: str) -> Path:
    """The model folder as the file ``model-TYPE.gguf`` in it. `UserError` with the converter's last line where it refuses."""
    kind = TYPES[dtype]
    file = folder / f"model-{kind}.gguf"
    done = subprocess.run(
        [*tool, str(folder), "--outfile", str(file), "--outtype", kind],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode or not file.is_file():
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise UserError(f"llama.cpp's converter refuses this model ({said[-1][:200] if said else 'without a word'})")
    return file
