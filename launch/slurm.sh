#!/usr/bin/env bash
# Several machines under SLURM: sbatch launch/slurm.sh qwen2-vl-2b [runs/config.yaml]
# Embeds and mines for the profile (notebook 00 must have run), then trains if a configuration is given. Every step
# goes on where it was killed, so the same command may be submitted again. G2E_CACHE and HF_HOME must lie on a file
# system that all machines share.
#SBATCH --job-name=g2e
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -euo pipefail

PROFILE=${1:?usage: sbatch launch/slurm.sh PROFILE [CONFIG.yaml]}
CONFIG=${2:-}
cd "${SLURM_SUBMIT_DIR:-.}"
GPUS_PER_NODE=${SLURM_GPUS_ON_NODE:-8}
# The whole list is read, then cut: `| head -n 1` would kill scontrol now and then, and with pipefail this script.
HOSTS=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
MAIN_ADDRESS=${HOSTS%%$'\n'*}
MAIN_PORT=$((10000 + SLURM_JOB_ID % 50000))

# One task a machine; accelerate starts one process a GPU there.
everywhere() {
    srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch \
        --config_file launch/one_machine.yaml \
        --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
        --num_processes "$(($1 * SLURM_NNODES))" \
        --main_process_ip "$2" --main_process_port "$3" "${@:4}"' \
        everywhere "$GPUS_PER_NODE" "$MAIN_ADDRESS" "$MAIN_PORT" "$@"
}

everywhere -m g2e_lib embed "$PROFILE"
if [ -n "$CONFIG" ]; then
    everywhere -m g2e_lib.train "$CONFIG"
fi
