#!/bin/sh
# Towers and weights files against open_clip: random weights written there give the same features here to 1e-5, and ours there.
# COPSE_PYTHON names a Python that has open_clip, torch and safetensors; else python3 is tried. Without them this is a skip.
# limit: 600
. "$(dirname "$0")/../expect.sh"
here=$tree/tests/parity
python=${COPSE_PYTHON:-python3}
if ! "$python" -c 'import open_clip, torch, safetensors' 2>/dev/null; then
    echo "skipped: $python has no open_clip; set COPSE_PYTHON to a Python that has (pip install open_clip_torch safetensors)"
    exit 77
fi
program=$COPSE_ROOT/tests/parity/features
if [ ! -x "$program" ]; then
    echo "$program is not built: make parity"
    exit 1
fi
OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} "$python" "$here/compare.py" "$program" "$scratch"
