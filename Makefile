# make demo: set up, find tickets in the digits of scikit-learn, compare them with every baseline,
#   and make a page of it to open in a browser.
# make bench: hold ratios of times against those of docs/performance.md, then measure all of them.
# make test: set up, lint, check types and floors, run all tests.
PY := .venv/bin/python
export OMP_WAIT_POLICY := passive

.PHONY: demo test bench clean
demo: .venv/.lab
	.venv/bin/tombola run digits --out runs
	.venv/bin/tombola report runs/digits-quick -o runs/digits-quick/report.html

test: .venv/.stamp
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	.venv/bin/codespell src tests benchmarks docs README.md CHANGELOG.md CONTRIBUTING.md
	$(PY) -m pytest -n 2

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

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
