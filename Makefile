# hil: `make` lists what can be made. Python 3.11 or newer; another one: make setup PYTHON=python3.12
PYTHON ?= python3
# cpu or gpu: which build of faiss is installed (never both); once chosen it stays
FAISS ?= $(or $(patsubst .venv/.made-for-%,%,$(wildcard .venv/.made-for-*)),cpu)
# more arguments for `make train` (ARGS="-p seed 1"), `make bench` (ARGS=--quick) and `make gpu-check`
ARGS ?=
# the folder of `make train`; give an interrupted one with ARGS="-p resume True" to go on with it
RUN ?= runs/$(shell date +%Y%m%d-%H%M%S)
RUN := $(RUN)

BIN := .venv/bin
STAMP := .venv/.made-for-$(FAISS)
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
# these take minutes, or write files, and are checked by running them through papermill in tests/
LONG := ^([_.]|train|ablation|evaluate)

# large arrays come and go all the time: keep their memory instead of handing it back to the system
export MALLOC_MMAP_THRESHOLD_ := 1000000000
export MALLOC_TRIM_THRESHOLD_ := 1000000000
# threads that wait for each other sleep soon; what `import hil` sets too, here for kernels that import torch first
export GOMP_SPINCOUNT ?= 10000
export OPENBLAS_THREAD_TIMEOUT ?= 20

.PHONY: help setup train test lint test-wheel coverage lab bench docs export notebooks clean gpu-check slides
.DEFAULT_GOAL := help

help:
	@echo "make setup      install into .venv, once (GPU machine: make setup FAISS=gpu)"
	@echo "make train      train HIL on the embedded benchmark; the report is in runs/"
	@echo "make test       check the code, run the notebooks and the tests"
	@echo "make lint       check the code only: ruff, pyright, biome"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make bench      measure speed and memory (everyday size: ARGS=--quick)"
	@echo "make docs       build the site from the notebooks, for reading without a network"
	@echo "make slides     make slides of notebooks, for a class without a network (NB=...)"
	@echo "make gpu-check  on a GPU machine: is everything right and fast there? (7 minutes)"
	@echo "make test-wheel install the wheel with pip into an empty environment and use it there"
	@echo "make coverage   count what the tests enter; the table is nbs/bench/coverage.txt"
	@echo "make export     write hil/ from the notebooks, clean the notebooks"
	@echo "make notebooks  run all lessons again and keep their outputs"
	@echo "make clean      remove .venv and caches; runs/ stays"

setup: $(STAMP)
	@:

$(STAMP): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "hil needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo not there)."; \
	    echo "Name another one: make setup PYTHON=python3.12"; exit 1; }
	@case "$(FAISS)" in cpu|gpu) ;; *) echo "FAISS=$(FAISS): expected cpu or gpu"; exit 1;; esac
	@echo "[1/3] $$($(PYTHON) -V) -> .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip uninstall -q -y --disable-pip-version-check \
	  $(if $(filter gpu,$(FAISS)),faiss-cpu,faiss-gpu) 2>/dev/null || true
	@echo "[2/3] $$(grep '^torch==' constraints.txt) (the largest download)"
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@echo "[3/3] JupyterLab, scikit-learn, faiss-$(FAISS) and the rest (about a minute)"
	@$(PIP) -e ".[$(FAISS),notebook,dev]"
	@rm -f .venv/.made-for-*
	@touch $@
	@echo "done: .venv is ready"

train: setup
	@mkdir -p $(RUN)
	@$(BIN)/papermill nbs/train.ipynb $(RUN)/report.ipynb --kernel python3 --progress-bar -p run_dir $(RUN) $(ARGS) || \
	  { echo "The run stopped; $(RUN)/report.ipynb shows how far it came and why."; exit 1; }
	@echo "The report is $(RUN)/report.ipynb. To open it: $(BIN)/jupyter lab $(RUN)/report.ipynb"

# a browser for the explorer's tests: looked for, or installed, once; `rm .venv/.browser` to try again
.venv/.browser: $(STAMP) tests/browser.py
	@$(BIN)/python tests/browser.py
	@touch $@

# all three always run; what needs Node.js says so where there is none
lint: setup
	@failed=0; \
	$(BIN)/ruff check || failed=1; \
	if command -v node >/dev/null; then $(BIN)/pyright || failed=1; \
	else echo "types are NOT checked: pyright needs Node.js 20 or newer, e.g. apt-get install nodejs npm"; fi; \
	$(BIN)/python tests/lint_js.py || failed=1; \
	exit $$failed

# all parts always run; pytest comes last, because its last line counts the tests
test: setup .venv/.browser
	@failed=0; \
	echo "== lint"; \
	$(MAKE) --no-print-directory lint || failed=1; \
	echo "== notebooks as tests"; \
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test nbs --n-workers 2 --skip-file-re '$(LONG)' --timing || failed=1; \
	echo "== pytest (with the check that hil/ is what the notebooks export)"; \
	test $$failed = 0 || echo "lint or notebooks FAILED, see above"; \
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS) && exit $$failed

test-wheel: setup
	@HIL_WHEEL=pip $(BIN)/python -m pytest tests/test_install.py $(ARGS)

coverage: setup .venv/.browser
	@rm -rf build/coverage && mkdir -p build/coverage
	@$(BIN)/coverage run -m pytest $(ARGS) || echo "some tests failed; the table counts what they entered"
	@$(BIN)/coverage combine -q && $(BIN)/coverage json -q -o build/coverage/report.json
	@$(BIN)/python tests/coverage_table.py build/coverage/report.json > nbs/bench/coverage.txt
	@head -3 nbs/bench/coverage.txt

lab: setup
	@$(BIN)/jupyter lab nbs

bench: setup
	@$(BIN)/python tests/bench_cluster.py $(ARGS)
	@$(if $(filter --scale,$(ARGS)),,$(BIN)/python tests/bench_explore.py $(filter --quick,$(ARGS)))
	@$(if $(filter --scale,$(ARGS)),,$(BIN)/python tests/bench_busy.py $(filter --quick,$(ARGS)))

.venv/.docs: $(STAMP)
	@$(PIP) -c docs/constraints.txt -e ".[$(FAISS),notebook,dev,docs]"
	@touch $@

# notebooks as they are stored: nothing is executed
docs: setup .venv/.docs
	@$(BIN)/python docs/build.py

# reveal.js lies beside the slides
NB ?= nbs/4_method/02_cluster.ipynb
slides: setup .venv/.docs
	@$(BIN)/python docs/slides.py $(NB)

# says what to type where there is no GPU; a machine without network: tests/gpu_pack.sh
gpu-check: setup
	@$(BIN)/python tests/gpu_check.py $(ARGS)

export: setup
	@$(BIN)/nbdev-export
	@$(BIN)/nbdev-clean

notebooks: setup
	@$(BIN)/python tests/execute.py nbs/?_*/*.ipynb nbs/cli.ipynb nbs/tutorials/*.ipynb

clean:
	rm -rf .venv node_modules build dist *.egg-info _proc .pytest_cache .hypothesis
	find . \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
