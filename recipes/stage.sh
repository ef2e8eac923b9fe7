# Read by the recipes. `stage SCRIPT FLAGS` runs a step under torchrun on NODES x GPUS processes.
#   --rehearse  first checks the recipe itself for what would cost money: flags, files and what makes them,
#               columns, memory of its GPUs (rehearsal.py; --check does this alone). Then it runs every step
#               for real, but small: in minutes, on a CPU, without the network. The model is the embedded
#               world's, taught the format for a minute; the data sets are small files of the columns of
#               three public ones.
#               Everything goes to data/rehearsal and out/rehearsal (or OUT).
# What stands before the command changes it: MODEL, TEACHER, COLD, DATA, OUT, GPUS, NODES, and SOURCES, which
# are flags of recipes/data.py:  SOURCES="--source exams_v= mmk12=my.parquet" bash recipes/internvl3_1b.sh
self=$(realpath "$0")
cd "$(dirname "$self")/.." || exit 1
PY=${PY:-.venv/bin/python}
NODES=${NODES:-1} GPUS=${GPUS:-8} GIB=${GIB:-80}
# said below every question of every step: without a box an answer is worth nothing to the reward
ASK='Put the final answer in \boxed{}.'
SMALL= CHECK= STEPS=()
R=data/rehearsal
case "$1" in
    "") ;;
    --check) CHECK=1 ;;
    --rehearse)
        bash "$self" --check || exit 1
        SMALL=1 NODES=1 GPUS=1 DATA=$R/made OUT=${OUT:-out/rehearsal/$(basename "$0" .sh)} ;;
    *) echo "$1: a recipe takes --rehearse, or nothing; what it uses is set before it: MODEL=..."
       exit 2 ;;
esac

stage() {
    local script=$1 processes=$GPUS
    shift
    [ "$script" = recipes/data.py ] && processes=1  # one process on each node, all wait for the first
    [ -n "$SMALL" ] && set -- "$@" $(small "$script")
    if [ -n "$CHECK" ]; then
        STEPS+=(-- "$script" "$@")
    elif [ "$NODES" -gt 1 ]; then  # the same recipe is started on every node, with MASTER=host:port of one
        $PY -m torch.distributed.run --nnodes "$NODES" --nproc_per_node "$processes" --rdzv_backend c10d \
            --rdzv_id nanor1v --rdzv_endpoint "${MASTER:?host:port of one of the nodes}" "$script" "$@" \
            || exit 1
    else
        $PY -m torch.distributed.run --standalone --nproc_per_node "$processes" "$script" "$@" || exit 1
    fi
}

# flags that make a step small; of a flag that stands twice the last one counts
small() {
    local torch="--max_new_tokens 32 --max_tiles 1 --pixels 0 0 --rollout torch --tensor_parallel 1"
    local tuned="--batch 8 --epochs 1 --max_tiles 1 --pixels 0 0"
    case $1 in
        recipes/data.py)
            echo --source
            echo "mmk12=$R/hub/mmk12.parquet science_qa=$R/hub/science_qa.parquet mmmu_dev=$R/hub/mmmu_dev"
            echo "geometry3k= exams_v= vqa_rad= path_vqa= finqa= --mmmu $R/tiny/mmmu --held_out 8"
            echo "--cold_start 24 --breadth 60 --breadth_val 16" ;;
        sft.py) echo $tuned ;;
        connector_tune.py) echo $tuned --val_every 2 ;;
        distill.py) echo $torch --samples 6 --max_length 0 --verifier= ;;
        grpo.py) echo $torch --steps 2 --prompts 4 --samples 4 --save_every 1 --verifier= ;;
        entropy_select.py) echo $torch --probe 8 --samples 2 --min_count 1 ;;
        eval_mmmu.py) echo $torch --data $R/tiny/mmmu --runs 1 --verifier= ;;
    esac
}

# a tiny world, small files of the public sets' columns, and a teacher that knows the format and guesses
rehearsal() {
    # a waiting thread spins for a moment, then sleeps: beside other work endless spinning costs tenfold
    export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-30000}
    $PY tiny/make.py --out $R/tiny --captions 1 --sums 1 --base 6 --cold_start 6 --rl 60 --rl_hard 1 \
        --connector 90 --connector_val 6 --val 12 --math_test 6 --other_test 2 || exit 1
    $PY recipes/rehearsal.py --world $R/tiny --out $R || exit 1
    $PY sft.py --model $R/tiny/model --data $R/hub/teacher.jsonl --out $R/teacher --optimizer muon --lr 2e-3 \
        --epochs 2 --batch 16 --max_tiles 1 --ask "$ASK" || exit 1
    MODEL=${MODEL:-$R/teacher} TEACHER=${TEACHER:-$R/teacher}
}

done_all() {
    if [ -n "$CHECK" ]; then
        $PY recipes/rehearsal.py check $((NODES * GPUS)) "$GIB" "$CONFIG" "${STEPS[@]}" || {
            echo "something above would stop this recipe"; exit 1; }
    else
        echo "all steps are done: $OUT"
    fi
}

[ -n "$SMALL" ] && rehearsal
true
