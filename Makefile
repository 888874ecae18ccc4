# make setup · make test · make lint · make demo. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := build/demo

.PHONY: setup test lint demo clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--editable '.[cpu,train,export,benchmarks,test]'
	touch $(READY)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest --numprocesses auto

demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/python -m train --recipe synthetic-demo --out $(DEMO)
	$(BIN)/python -m export.onnx $(DEMO)/last.pth -o $(DEMO)/dic.onnx
	$(BIN)/python -m benchmarks all --engine $(DEMO)/dic.onnx --reference $(DEMO)/last.pth \
		--json $(DEMO)/benchmarks.json
	$(BIN)/python -m benchmarks.demo --engine $(DEMO)/dic.onnx --out $(DEMO)

clean:
	rm -rf $(VENV) build *.egg-info
