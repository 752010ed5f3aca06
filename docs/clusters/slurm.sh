#!/usr/bin/env bash
#SBATCH --job-name=vaeflow
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
# One worker a node, which takes all of the node's GPUs. SLURM sends SIGTERM to the
# workers five minutes before the time is up: they save and exit with 42.
srun --distribution=block --kill-on-bad-exit=0 \
  python -m tfp_vaeflow.train --strategy=multi_worker "$@"
code=$?
if [ "$code" -eq 42 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
