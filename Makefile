# Needs Python 3.11 or newer, a C++ compiler, make and perl; everything else is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(STAMP) ## Create .venv and install the pinned requirements

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make setup PYTHON=python3.12" >&2; exit 1; }
	@for tool in perl make; do command -v $$tool > /dev/null || \
	  { echo "error: $$tool is not installed" >&2; exit 1; }; done
	@command -v c++ > /dev/null || command -v g++ > /dev/null || command -v clang++ > /dev/null || \
	  { echo "error: no C++ compiler is installed (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install)" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing pinned requirements (2-5 minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@echo "installing gradsieve"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: demo
demo: setup ## Run the guided demonstration
	@$(BIN)/gradsieve demo

.PHONY: test
test: lint ## Lint, check types and run the test suite
	$(BIN)/python -m pytest -n $(WORKERS) -q

.PHONY: test-heavy
test-heavy: setup ## Run the long suites
	$(BIN)/python -m pytest -n $(WORKERS) -q -m heavy

.PHONY: coverage
coverage: setup ## Report the lines and bits of the Verilog that the benches of `tiny` reach (10 minutes)
	@$(BIN)/gradsieve verify --preset tiny --coverage

.PHONY: bitstreams
bitstreams: setup ## Build the bitstream of every board with its own engine (hours)
	@set -e; \
	boards=$$($(BIN)/python -c 'from gradsieve.fpga.boards.registry import BOARDS; print(*BOARDS)'); \
	for board in $$boards; do \
	  $(BIN)/gradsieve build --board $$board -o build/bitstreams; done

.PHONY: lint
lint: setup ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy gradsieve

.PHONY: lint-verilog
lint-verilog: setup ## Lint the generated Verilog of every preset
	$(BIN)/python -m gradsieve.rtl_gen.lint

.PHONY: format
format: setup ## Rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: setup ## Measure the engine against the dense baseline
	@$(BIN)/gradsieve bench

.PHONY: tables
tables: setup ## Measure again and rewrite the tables of results in the docs (10 minutes; MEASURE="NAME ..." names longer ones)
	$(BIN)/python -m docs.tables --measure $(MEASURE)

.PHONY: docs
docs: setup ## Build the documentation as a site into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "build/site/index.html (its search needs a server: $(BIN)/python -m http.server -d build/site)"

.PHONY: clean
clean: ## Remove what was built here, but not .venv
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
