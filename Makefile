PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
PROTOS := $(wildcard protos/director/v1/*.proto)

.PHONY: help check test proto verify campaign bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check: verify ## format, lint, types, import contracts, generated code, quick tests
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"
	$(PYTHON) -m pytest -q tests/unit -n 2

test: ## every test that needs no root, on SQLite and PostgreSQL
	$(PYTHON) -m pytest -q -n 2 --dist worksteal

proto: ## generate the code of the wire
	$(PYTHON) -m grpc_tools.protoc -I protos --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS)

verify: ## fail where the generated code is not that of the protos
	@rm -rf build/proto && mkdir -p build/proto
	@$(PYTHON) -m grpc_tools.protoc -I protos --python_out=build/proto --grpc_python_out=build/proto --mypy_out=quiet:build/proto --mypy_grpc_out=quiet:build/proto $(PROTOS)
	@diff -r --exclude=__init__.py --exclude=__pycache__ build/proto/director/v1 director/v1 || (echo "generated code differs: run make proto" && false)

campaign: ## all that takes long
	$(PYTHON) -m pytest -q -n 2 --dist worksteal -m campaign

bench: ## measure, as ratios beside a limit
	$(PYTHON) -m benchmarks.fold
	$(PYTHON) -m benchmarks.dispatch
	$(PYTHON) -m benchmarks.queues
	$(PYTHON) -m benchmarks.memory
