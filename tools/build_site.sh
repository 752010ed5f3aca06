#!/usr/bin/env bash
# Builds the site of docs/ and the docstrings: bash tools/build_site.sh [OUT], by default
# site/. Its packages are those of docs/requirements.txt, in build/site-venv; the package
# itself is only read, so TensorFlow is not needed.
set -euo pipefail
out=$(realpath -m -- "${1:-$(dirname "${BASH_SOURCE[0]}")/../site}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "error: $*" >&2
  exit 2
}

[ $# -le 1 ] || fail "expected at most one argument, the directory of the site"
if [ -e "$out" ] && [ ! -f "$out/404.html" ] && [ -n "$(ls -A -- "$out")" ]; then
  fail "$out holds something else, which building would delete; name another directory"
fi

venv=build/site-venv
wanted=$(sha256sum docs/requirements.txt | cut -d ' ' -f 1)
supported='import sys; sys.exit(sys.version_info < (3, 11))'
if ! [ -x $venv/bin/python ] ||
  [ "$(cat $venv/.requirements 2>/dev/null)" != "$wanted" ]; then
  python=${PYTHON:-python3}
  "$python" -c "$supported" >/dev/null 2>&1 ||
    fail "$python is no Python from 3.11 on; name one: PYTHON=/path/to/python3.11"
  echo "making $venv with $("$python" --version)"
  rm -rf $venv
  "$python" -m venv $venv || fail "$python cannot make a virtual environment (on Debian: \
apt-get install python3-venv)"
  log=$venv/install.log
  if ! $venv/bin/python -m pip install --disable-pip-version-check --quiet \
    --requirement docs/requirements.txt >"$log" 2>&1; then
    fail "the packages could not be installed: $(grep -iE 'error' "$log" | tail -n 1); \
is the package index reachable? All of pip's output is in $log"
  fi
  echo "$wanted" >$venv/.requirements
fi

# Not --quiet: it hides warnings from --strict, too. The variable leaves out a notice
# about MkDocs 2.
log=build/site.log
if ! NO_MKDOCS_2_WARNING=1 $venv/bin/mkdocs build --strict --site-dir "$out" \
  >"$log" 2>&1; then
  grep -E 'WARNING|ERROR|Error' "$log" >&2 || true
  fail "the site was not built; all of the output is in $log"
fi
echo "open $out/index.html"
