#!/usr/bin/env bash
# Everything that only a GPU can show; progress on stderr, one JSON on stdout, exit 1 if a step failed.
#
#   bash install/gpu-check.sh > gpu.json
#   PYTHON=python3.12 INSTALL=no bash install/gpu-check.sh    # an environment of your own; what it lacks is not run
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
for word in "$@"; do
  case $word in -h | --help) exec "$python" install/gpu_check.py --help ;; esac
done
"$python" install/gpu_check.py --dry-run "$@"  # before minutes of installing
if [ "${INSTALL:-yes}" = yes ]; then
  "$python" install/venv.py >&2
  python=.venv/bin/python
fi
exec "$python" install/gpu_check.py "$@"
