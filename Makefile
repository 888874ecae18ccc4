# make setup · test · test-cluster · kernels · lint · demo · weights · results · docs, and with a GPU test-gpu · gpu-check.
# Each sets up what it needs, but for gpu-check, which takes the machine's own Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TRITON := build/triton
DEMO := build/demo
RESULTS := benchmarks/results

.PHONY: setup test test-cluster kernels test-gpu gpu-check lint demo weights results docs clean

setup: $(READY) $(TRITON)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--editable '.[cpu,openvino,video,train,export,rtx,triton,serve,benchmarks,test]'
	touch $(READY)

# NVIDIA's Triton, with its Python backend only, for the tests that speak to it: they skip without.
$(TRITON): | $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 1 -c constraints.txt \
		--no-deps --target $@ nvidia-pytriton \
		|| echo "no Triton (it needs Linux on x86-64, and a network): its tests will be skipped"

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint $(TRITON)
	$(BIN)/pytest -W error --numprocesses auto --dist loadgroup

# Ray on two nodes, both on this machine, with files and an S3 server, and as a server of Triton's
# clients: some minutes, and Ray's packages.
test-cluster: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[test-cluster]'
	$(BIN)/pytest -W error tests/runtime/test_cluster*.py tests/test_clients.py -k 'cluster or ray'

# The CUDA kernels for all GPUs, into the package: what is installed from here then has them. It
# needs nvcc 13, and 20 seconds of one core; the tests build the kernels for the CPU by themselves.
kernels:
	cmake -B build/cuda
	cmake --build build/cuda
	cp build/cuda/dic_kernels.fatbin runtime/cuda/

# On a machine with an NVIDIA GPU and CUDA, for which PyCUDA is compiled: what other machines skip.
test-gpu: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		pycuda cuda-bindings tensorrt-rtx
	$(BIN)/pytest -m gpu

# Without a network and in the machine's own environment; WHEELS is a folder of what it lacks.
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check $(if $(WHEELS),--wheels $(WHEELS))

demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/python -m train --recipe synthetic-demo --out $(DEMO)
	$(BIN)/python -m export.onnx $(DEMO)/last.pth -o $(DEMO)/dic.onnx
	$(BIN)/python -m benchmarks all --engine $(DEMO)/dic.onnx --reference $(DEMO)/last.pth \
		--batch 1 8 --seconds 10 --starts 2 --faces 100 --report $(DEMO)/report
	$(BIN)/python -m benchmarks.demo --engine $(DEMO)/dic.onnx --out $(DEMO)

# What the project ships: trained on DATA, a folder of photographs of faces with landmarks.json
# (docs/prepare.md), for some hours, going on where it was stopped; exported; and measured on 1,000
# drawn faces into the record beside the engine, and on the 150 photographs kept apart.
# TRAINING changes both stages' recipes: TRAINING="iterations=20 validate_every=10" tries all of it.
SHIPPED := dic-photoreal
TRAINING :=
FACES := data/photoreal
weights: $(READY)
	@test -n "$(DATA)" || { echo "error: make weights DATA=FOLDER, with landmarks.json in it"; exit 2; }
	test -f $(FACES)/report.json || $(BIN)/python -m train.prepare $(DATA) \
		--landmarks $(DATA)/landmarks.json --smallest 110 --margin 0.25 --validation 150 \
		--out $(FACES) || test $$? -eq 1  # some pictures rejected, each named
	$(BIN)/python -m train --recipe $(SHIPPED) --out runs/$(SHIPPED) --resume $(TRAINING)
	$(BIN)/python -m train --recipe $(SHIPPED)-tuned --out runs/$(SHIPPED)-tuned --resume \
		$(TRAINING)
	cp runs/$(SHIPPED)-tuned/best.pth train/weights/$(SHIPPED).pth
	$(BIN)/python -m export.onnx train/weights/$(SHIPPED).pth --target cpu \
		-o runtime/models/$(SHIPPED).onnx
	$(BIN)/python -m benchmarks accuracy --json runtime/models/$(SHIPPED).json
	$(BIN)/python -m benchmarks accuracy --data $(FACES)/validation --json $(RESULTS)/photoreal.json
	$(BIN)/python -m benchmarks.portraits --json $(RESULTS)/portraits.json \
		--out docs/images/portraits.jpg
	$(BIN)/python -m benchmarks.docs

# What the tables in docs/results.md quote: on an idle machine, half an hour on two cores.
FULL := build/full
results: $(READY)
	$(BIN)/python -m benchmarks.gpu_check --part random $(FULL).pth
	$(BIN)/python -m export.onnx $(FULL).pth --target cpu --no-landmarks -o $(FULL)-cpu.onnx
	$(BIN)/python -m benchmarks latency profile --engine $(FULL)-cpu.onnx --reference $(FULL).pth \
		--peers --batch 1 8 --rounds 7 --seconds 420 --json $(RESULTS)/latency-full-cpu.json
	$(BIN)/python -m benchmarks all --peers --batch 1 4 16 64 --seconds 40 \
		--json $(RESULTS)/synthetic-cpu.json
	$(BIN)/python -m benchmarks.docs

# Pages that are made from results, commands and recipes.
docs: $(READY)
	$(BIN)/python -m benchmarks.docs

clean:
	rm -rf $(VENV) build *.egg-info
