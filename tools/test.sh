#!/usr/bin/env bash
# Runs the tests; --slow adds the long ones. Other arguments go to pytest.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$here/setup.sh"
cd "$here/.."
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
