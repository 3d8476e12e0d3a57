#!/bin/bash
# A Ray cluster for one run, on the nodes of a Slurm allocation:
#   sbatch cluster/deploy/slurm.sh train scan-transformer --name mine --runs /shared/runs --workers 2
#   sbatch cluster/deploy/slurm.sh resume mine --runs /shared/runs          # after the time limit
# The environment (module load, activate) is the one that sbatch is called in; it lies on a disk that all nodes see.
#SBATCH --job-name=footplate
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
set -euo pipefail

command=$1
shift
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# A token for this job alone, where its nodes see it and no other user can read it.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=$PWD/.ray-token-$SLURM_JOB_ID
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")

on=()
if [ "$command" = train ]; then
    on=(--on ray)
fi
# Starts Ray on every node, runs the command on the first once all are there, and ends Ray afterwards.
srun ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    python -m footplate "$command" "$@" "${on[@]}" --address auto
