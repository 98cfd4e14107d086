#!/usr/bin/env bash
# Checks and tests of the Python runner on a machine that has only Python and the installed npm packages.
# Makes runner/.venv. Arguments: file for the JUnit report, then what pytest should be told.
set -euo pipefail
report=$(realpath -m "${1:-pytest.xml}")
shift || true
cd "$(dirname "$0")"
export CI=true

if ! command -v uv > /dev/null; then
  tools=$(mktemp -d)
  trap 'rm -rf "$tools"' EXIT
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check uv
  PATH="$tools/bin:$PATH"
fi
export UV_LINK_MODE=${UV_LINK_MODE:-hardlink}
[ -x .venv/bin/python ] || uv venv --quiet --python '>=3.11' .venv
# Compiled now: every process of the tests imports torch.
uv pip install --quiet --compile-bytecode --python .venv/bin/python -e '.[timm,ultralytics,dev]'
bin=$PWD/.venv/bin

# OpenCV's usual build wants the graphics libraries of a desktop; the headless one offers the same module without them.
if ! "$bin/python" -c 'import cv2' 2> /dev/null; then
  uv pip uninstall --quiet --python .venv/bin/python opencv-python
  uv pip install --quiet --python .venv/bin/python opencv-python-headless
fi

failed=0
check() {
  printf -- '-- %s\n' "$*"
  "$@" || failed=1
}
check "$bin/ruff" format --check .
check "$bin/ruff" check .
check "$bin/mypy"
check "$bin/pytest" -q --durations=10 --junitxml="$report" "$@"
exit "$failed"
