# The same commands for a person and for CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REFERENCE := .venv-reference
MINISTACK := .venv-ministack

.PHONY: demo test coverage e2e greengrass rie check docs format bench up setup reference models clean

demo: $(VENV)/.ready  ## start everything in a temporary folder, recognise two people, print the table
	$(BIN)/facewire demo

up: $(VENV)/.ready  ## run Facewire on this machine: http://127.0.0.1:8080, mqtt://127.0.0.1:1883
	$(BIN)/facewire up

test: $(VENV)/.ready $(MINISTACK)/.ready  ## all tests, two files at a time: most of them wait
	$(BIN)/pytest --numprocesses 2 --dist loadfile

coverage: $(VENV)/.ready $(MINISTACK)/.ready  ## the unit tests, with the least coverage that they have to reach
	$(BIN)/pytest tests/unit --numprocesses 2 --dist loadfile --cov

e2e: $(VENV)/.ready  ## the containers: build, run, break, restart (needs Docker)
	$(BIN)/pytest tests/e2e/containers

check: $(VENV)/.ready  ## lint, types, import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.ready  ## the site of docs/ in build/site; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.ready  ## bring the code into its form
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/.ready $(REFERENCE)/.ready $(MINISTACK)/.ready  ## speed against facenet-pytorch, accuracy, the pipeline, ten minutes of load, SQS; needs no engine
	$(BIN)/python benchmarks/detection.py
	$(BIN)/python benchmarks/embedding.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/soak.py
	$(BIN)/python benchmarks/sqs.py

reference: $(REFERENCE)/.ready  ## torch and facenet-pytorch (5.5 GB), and what they say: the goldens of the parity tests
	$(REFERENCE)/bin/python tests/reference/mtcnn_goldens.py
	$(REFERENCE)/bin/python tests/reference/facenet_goldens.py

greengrass: $(VENV)/.ready  ## the Greengrass component's recipe and archives; BUCKET names where they will be
	$(BIN)/python tools/greengrass.py --bucket $(BUCKET)

rie: build/aws-lambda-rie  ## Lambda's runtime interface emulator, which some tests run if it is there

build/aws-lambda-rie: $(VENV)/.ready
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --dest build aws-sam-cli==1.170.0
	$(BIN)/python tools/lambda_emulator.py build

models: $(VENV)/.ready  ## build the three MTCNN files from facenet-pytorch's weights
	$(BIN)/pip download --quiet --no-deps --dest build facenet-pytorch==2.6.0
	$(BIN)/python tools/build_mtcnn.py build/facenet_pytorch-2.6.0-py3-none-any.whl

setup: $(VENV)/.ready $(MINISTACK)/.ready  ## the development environment in .venv, the AWS emulator of the tests in .venv-ministack

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

$(REFERENCE)/.ready: tests/reference/requirements.txt
	$(PYTHON) -m venv $(REFERENCE)
	$(REFERENCE)/bin/pip install --quiet --disable-pip-version-check --requirement tests/reference/requirements.txt
	$(REFERENCE)/bin/pip install --quiet --disable-pip-version-check --no-deps facenet-pytorch==2.6.0
	touch $@

$(MINISTACK)/.ready: tests/ministack-requirements.txt
	$(PYTHON) -m venv $(MINISTACK)
	$(MINISTACK)/bin/pip install --quiet --disable-pip-version-check --requirement tests/ministack-requirements.txt
	touch $@

clean:  ## remove the environments and all caches
	rm -rf $(VENV) $(REFERENCE) $(MINISTACK) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
