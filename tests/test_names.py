"""What `import anypo` offers."""

from __future__ import annotations

import subprocess
import sys


def test_every_name_is_what_it_says_even_after_everything_was_imported() -> None:
    """Run in a process of its own: a package of the same name would take a function's place once it is imported."""
    code = (
        "import anypo, anypo.run.session\n"
        "names = [name for name in dir(anypo) if not name.startswith('_')]\n"
        "assert names == sorted(anypo.__all__), names\n"
        "assert all(callable(getattr(anypo, name)) for name in names if name != 'SYSTEMS')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
