# make demo: set up, ask in two worlds whether tickets pay, find tickets where they do, compare them with
#   baselines, add one for a tenant who comes later, and make a page of it to open in a browser.
# make docs: build the site into build/site; a broken link or a name without a page is an error.
# make bench: hold ratios of times against those of docs/performance.md, then measure all of them.
# make test: set up, lint, check types and floors, run all tests.
PY := .venv/bin/python
export OMP_WAIT_POLICY := passive
DEMO := rtl same_mask union_size_same_mask imp imp_context imp_per_subset

.PHONY: demo test docs bench clean
demo: .venv/.lab
	@echo "Ten tenants that agree (the same digits): do tickets pay?"
	@.venv/bin/tombola advise tenants_agree --sparsity 0.8 --minutes 0.5 --brief --out runs
	@echo "Ten tenants that disagree (each with the pixels in an order of its own):"
	@.venv/bin/tombola advise tenants --sparsity 0.8 --minutes 1.5 --brief --out runs
	@echo "Tickets there, and what else could be done:"
	@.venv/bin/tombola run tenants --sparsity 0.8 --method $(DEMO) --brief --out runs
	@echo "An eleventh tenant comes; the ten others answer as before:"
	@.venv/bin/tombola grow runs/tenants-quick/seed0/tickets/rtl-0.8.tickets --name eleventh \
		--data tombola.lab.experiments.tenants:one_more --save runs/tenants-quick/eleven.tickets --force
	.venv/bin/tombola report runs/tenants-quick -o runs/tenants-quick/report.html

test: .venv/.stamp
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	.venv/bin/codespell src tests benchmarks docs README.md CHANGELOG.md CONTRIBUTING.md
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
	@echo build/site/index.html

bench: .venv/.stamp
	$(PY) -m pytest benchmarks/test_ratios.py
	$(PY) -m benchmarks

.venv/.lab: pyproject.toml constraints.txt
	python3 -m venv .venv
	$(PY) -m pip install --quiet -c constraints.txt -e '.[lab]'
	touch $@

.venv/.stamp: .venv/.lab
	$(PY) -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

.venv/.docs: .venv/.lab
	$(PY) -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis
