#!/bin/sh
# Makes .venv with the locked versions, and the system libraries that Open3D loads. Run by `make`; safe to run again.
set -eu
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
say() { printf '%s\n' "$*" >&2; }
fail() { say "setup: $*"; exit 2; }

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$PYTHON is missing or older than 3.11; install Python 3.11 or newer, or run 'make PYTHON=/path/to/python3.11'."

# Debian's and Ubuntu's name of each library that Open3D opens; t64 is how newer releases call some of them.
missing=""
while read -r library package; do
    ldconfig -p 2>/dev/null | grep -q "$library" || missing="$missing $package"
done <<LIBRARIES
libEGL.so.1 libegl1
libGL.so.1 libgl1
libX11.so.6 libx11-6
libudev.so.1 libudev1
libusb-1.0.so.0 libusb-1.0-0
libidn2.so.0 libidn2-0
libgomp.so.1 libgomp1
LIBRARIES
"$PYTHON" -c 'import ensurepip' 2>/dev/null ||
    missing="$missing python$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
if [ -n "$missing" ]; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    # shellcheck disable=SC2086 # the lists are meant to be split
    if command -v apt-get >/dev/null && { [ -z "$sudo" ] || $sudo true 2>/dev/null; } &&
        $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq $missing >/dev/null; then
        say "setup: installed$missing"
    else
        fail "system libraries are missing; run 'sudo apt-get install$missing' and then this command again."
    fi
fi

[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
PIP=".venv/bin/python -m pip --disable-pip-version-check"
say "setup: installing the locked versions into .venv (several GB the first time)"
$PIP install -q --no-deps -r requirements.lock
# Its pins (TensorFlow 2.13, NumPy 1.23) cannot be met beside today's versions; only its protobuf modules are used.
said="$($PIP install -q --no-deps waymo-open-dataset-tf-2-12-0==1.6.7 2>&1)" ||
    say "setup: waymo-open-dataset-tf-2-12-0 could not be installed, so Waymo v1 logs will not open; everything else works." \
        "pip said: $(printf '%s\n' "$said" | tail -n 1)"
touch .venv/.locked
