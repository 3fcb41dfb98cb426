#!/usr/bin/env bash
# Creates a virtual environment with the first suitable Python.
# usage: make_venv.sh FOLDER [PYTHON]
set -eu
folder=$1
wanted=${2:-}

suitable() { # runs it: a name on the PATH may be a stub that fails
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

if [ -x "$folder/bin/python" ] && suitable "$folder/bin/python" && "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "using $folder ($("$folder/bin/python" --version))"
    exit 0
fi

for python in ${wanted:-python3.11 python3.12 python3.10 python3}; do
    suitable "$python" || continue
    echo "creating $folder with $("$python" --version)"
    if ! "$python" -m venv --clear "$folder"; then
        rm -rf "$folder"
        echo "error: $python cannot create virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2
        exit 2
    fi
    exit 0
done
echo "error: Python 3.10, 3.11 or 3.12 is needed (basicsr does not install on 3.13)${wanted:+, and $wanted is none of them};" \
    "install one, or name it: make PYTHON=/path/to/python3.11" >&2
exit 2
