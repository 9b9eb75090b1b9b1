#!/usr/bin/env bash
# All that needs a GPU, within 8 minutes: tests, training against the roofline, members and candidates side by side,
# embedding, 12 GB from disk, fine-tuning. A part that takes too long is ended, and the others go on.
#     benchmarks/gpu.sh [FOLDER WITH THE DATA SETS] > gpu.txt
# It needs the extras benchmark and finetune, `make models`, and 12 GB of disk in ${TMPDIR:-/tmp}.
set -uo pipefail
cd "$(dirname "$0")/.."
data=${1:-../shared/data}
python=${PYTHON:-.venv/bin/python}
scratch=${TMPDIR:-/tmp}
failed=0

part() {  # seconds, title, command
    local seconds=$1 title=$2 began=$SECONDS
    shift 2
    printf '\n## %s\n    %s\n\n' "$title" "$*"
    timeout --kill-after=5 "$seconds" "$@" || { echo "ended with code $? (124: too long)"; failed=1; }
    echo "($((SECONDS - began)) s)"
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || echo "no GPU is visible"
part 60 "Tests on CUDA" "$python" -m pytest -q -p no:cacheprovider tests/test_device.py tests/test_estimator.py -k "cuda or device"
part 90 "Fit and members against the roofline (aims: 50 %, 1.5x of 8 members)" "$python" -m benchmarks.gpu
part 100 "Search of 16 candidates x 5 folds (aim: 20x)" "$python" -m benchmarks.speed search --device cuda --jobs 1 --hidden 64 --rows 10000 --epochs 10
part 60 "Embedding against sentence-transformers" "$python" -m benchmarks.embedding --data-home "$data" --only throughput --encoders minilm --texts 5000
part 110 "12 GB from disk" "$python" -m benchmarks.scale stream --gb 12 --folder "$scratch"
part 60 "Fine-tuning of SmolLM2" "$python" -m benchmarks.fine_tune --data-home "$data" --only step --encoder smollm2 --steps 5 --repeats 1
exit $failed
