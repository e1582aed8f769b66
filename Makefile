# make train   trains LeNet-500-300 on MNIST (installs first, into .venv, if need be)
# make test    runs the whole test suite, the notebooks among it, ruff and mypy
# make test-all   runs it on Python 3.11, 3.12 and 3.13 and with the oldest versions allowed, by nox
# make docs    builds the docs as a site, docs/_build/html; a warning is an error
# make study   trains the comparison of priors of docs/explanation/priors-compared.md, 18 runs, or goes on with it, and keeps its tables and figures
# make front   trains the curves of error against size, hours of both cores, or goes on with them, and keeps their tables
# make families    trains the families of masks side by side, hours of both cores, or goes on with them, and keeps their tables
# make notebooks   runs the notebooks again and keeps their outputs
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
FRONTS := lenet-500-300 lenet5-caffe fashion-mnist

.PHONY: train test test-all docs study front families notebooks clean
.DELETE_ON_ERROR:

train: .venv/installed
	$(BIN)/bbpyro train

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist loadfile

test-all: .venv/installed-dev
	$(BIN)/nox

docs: .venv/installed-dev
	BBPYRO_DOCS_OFFLINE=$(if $(ONLINE),,1) $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

study: .venv/installed
	$(BIN)/bbpyro compare --config docs/study/study.toml --study runs/mnist-priors --jobs 2 --published
	cp runs/mnist-priors/runs.csv runs/mnist-priors/table.csv runs/mnist-priors/table.md docs/study/
	cp runs/mnist-priors/figures/*.png docs/study/

front: .venv/installed-dev
	for name in $(FRONTS); do \
		$(BIN)/bbpyro compare --config docs/front/$$name.toml --study runs/front-$$name --jobs 2 --published || exit; \
	done
	$(BIN)/python benchmarks/pruning_methods.py --test --seeds 3 --jobs 2 --output docs/front/rivals.csv
	for name in $(FRONTS); do \
		$(BIN)/python benchmarks/front.py runs/front-$$name --output docs/front/$$name \
			$$(test $$name = lenet-500-300 && echo --rivals docs/front/rivals.csv) || exit; \
	done

families: .venv/installed-dev
	$(BIN)/bbpyro compare --config docs/families/lenet-500-300.toml --study runs/families-lenet-500-300 --jobs 2
	$(BIN)/bbpyro compare --config docs/families/lenet-500-300-dependent.toml --study runs/families-dependent --jobs 2
	$(BIN)/python benchmarks/front.py runs/families-lenet-500-300 runs/families-dependent \
		--rivals docs/front/rivals.csv --output docs/families/lenet-500-300
	$(BIN)/bbpyro compare --config docs/families/lenet5-caffe.toml --study runs/families-lenet5-caffe --jobs 2
	$(BIN)/python benchmarks/front.py runs/families-lenet5-caffe --output docs/families/lenet5-caffe

notebooks: .venv/installed-dev
	$(BIN)/python notebooks/execute.py --write notebooks/*.ipynb

clean:
	rm -rf .venv build dist *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "bbpyro needs Python 3.11 or later; name one with: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch .venv/installed $@
