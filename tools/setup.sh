#!/usr/bin/env bash
# Makes .venv from requirements.txt unless it is right already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "error: $*" >&2
  exit 2
}

# The interpreter: $PYTHON, or the first on the path that the lock resolves on.
supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c "$supported" >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python from 3.11 to 3.13 found (python3 is $(python3 --version 2>&1 ||
    true)); install one, or name it: PYTHON=/path/to/python3.11"
}

stamp=.venv/.requirements
wanted=$(sha256sum requirements.txt | cut -d ' ' -f 1)
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] &&
  .venv/bin/python -c "$supported" 2>/dev/null; then
  exit 0
fi

python=$(find_python)
echo "making .venv with $("$python" --version)"
rm -rf .venv
"$python" -m venv .venv || fail "$python cannot make a virtual environment (on Debian: \
apt-get install python3-venv)"
log=.venv/install.log
if ! .venv/bin/python -m pip install --disable-pip-version-check --quiet \
  --requirement requirements.txt >"$log" 2>&1; then
  fail "the packages could not be installed: $(grep -iE 'error' "$log" | tail -n 1); is \
the package index reachable? All of pip's output is in $log"
fi
echo "$wanted" >"$stamp"
