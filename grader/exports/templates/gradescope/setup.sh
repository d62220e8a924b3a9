#!/usr/bin/env bash
# Gradescope runs this once, when it builds the image.
set -euo pipefail
root="${AUTOGRADER_ROOT:-/autograder}"
export DEBIAN_FRONTEND=noninteractive

apt-get update
apt-get install --yes --no-install-recommends python3 python3-venv
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "This base image has $(python3 --version), and the grader needs 3.11 or newer: choose a newer base image." >&2
  exit 1
fi
python3 -m venv "$root/venv"
"$root/venv/bin/python" -m pip install --quiet --extra-index-url https://download.pytorch.org/whl/cpu \
  --constraint "$root/source/course/constraints.txt" "$root/source"
"$root/venv/bin/grader" doctor --grading || echo "See docs/exports.md on what this means for official grading." >&2
