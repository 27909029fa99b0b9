#!/bin/sh
# The steps of the image that are more than a line: build.sh libraries VARIANT, then build.sh product.
# Run in the folder of the sources; writes /opt/qc-daemon. PIP_OPTIONS: as --no-index --find-links FOLDER.
set -eu
TARGET=/opt/qc-daemon
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

libraries() {
  locks=deploy/requirements
  case $1 in
    cuda) set -- -r $locks/service.lock -r $locks/models.lock ;;
    cpu)
      [ -f $locks/models-cpu.lock ] || fail "VARIANT=cpu needs $locks/models-cpu.lock: make lock-cpu CPU_INDEX=ADDRESS"
      set -- -r $locks/service.lock -r $locks/models-cpu.lock ;;
    service) set -- -r $locks/service.lock ;;
    *) fail "VARIANT=$1: give cuda, cpu or service" ;;
  esac
  python3 -m venv "$TARGET"
  # shellcheck disable=SC2086  # Several options.
  "$TARGET/bin/python" -m pip install --quiet --no-deps --require-hashes --only-binary :all: --no-cache-dir \
    --disable-pip-version-check ${PIP_OPTIONS:-} "$@"
}

product() {
  # setuptools is one of the libraries: nothing is fetched to build with.
  "$TARGET/bin/python" -m pip install --quiet --no-deps --no-index --no-build-isolation --no-cache-dir \
    --disable-pip-version-check .
  # Compiled now: the root file system is read-only later.
  "$TARGET/bin/python" -m compileall -q "$TARGET/lib" || true
}

case ${1:-} in
  libraries) libraries "${2:-}" ;;
  product) product ;;
  *) fail "give libraries VARIANT, or product" ;;
esac
