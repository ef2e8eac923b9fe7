# Read by the recipes. `stage SCRIPT FLAGS` runs a stage under torchrun on NODES x GPUS processes. With
# --dry_run it checks instead, without a GPU: flags, paths, data columns, versions, memory (plan.py), disk.
cd "$(dirname "$0")/.." || exit 1
PY=${PY:-.venv/bin/python}
NODES=${NODES:-1} GPUS=${GPUS:-8} GIB=${GIB:-80}
DRY= FAILED=
[ "$1" = --dry_run ] && DRY=1

stage() {
    if [ -n "$DRY" ]; then
        $PY plan.py dry_run $((NODES * GPUS)) "$GIB" "$CONFIG" "$@" || FAILED=1
    elif [ "$NODES" -gt 1 ]; then  # the same recipe is started on every node, with MASTER=host:port of one
        $PY -m torch.distributed.run --nnodes "$NODES" --nproc_per_node "$GPUS" --rdzv_backend c10d \
            --rdzv_id nanor1v --rdzv_endpoint "${MASTER:?host:port of one of the nodes}" "$@" || exit 1
    else
        $PY -m torch.distributed.run --standalone --nproc_per_node "$GPUS" "$@" || exit 1
    fi
}

done_all() {
    [ -z "$FAILED" ] || { echo "something above would stop this recipe"; exit 1; }
    echo "all checked, all done"
}
