#!/usr/bin/env bash
# From nothing to a trained, measured and sampled model of handwritten digits.
# Takes the directory of the run; default: runs/digits.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
run=$(realpath -m "${1:-$here/../runs/digits}")
"$here/setup.sh"
cd "$here/.."
vaeflow() {
  local command=$1
  shift
  .venv/bin/python -m "tfp_vaeflow.$command" --model_dir="$run" "$@"
}

echo "== training gin/digits.gin"
vaeflow train --gin_file=gin/digits.gin
echo "== making pictures"
vaeflow synthesize --mode=sample --temperature=0.7 --temperature=1.0
vaeflow synthesize --mode=reconstruct --num_images=32
vaeflow synthesize --mode=interpolate
vaeflow synthesize --mode=switch --num_images=48
echo "== measuring"
vaeflow evaluate
echo
echo "Everything lies in $run:"
echo "  synthesis/                         samples, reconstructions, interpolation, switches"
echo "  images/                            the same while it trained"
echo "  evaluation.md, evaluation/         the report; its numbers: evaluation.json"
echo "  tensorboard --logdir=$run   the curves"
