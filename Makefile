# make demo   the main job on embedded defaults (installs what it needs first)
# make test   everything the default suite checks
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: docs commands licences audit demo test test-slow lint bench bench-receive bench-faults bench-soak bench-latency bench-queue bench-web bench-pages conformance settings events dashboard bundle install lock lock-cpu deb sbom clean

demo: install
	$(BIN)/qc-daemon demo

test: install
	@sh deploy/system-tools.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder

TESTS ?= tests
test-slow: install
	@sh deploy/system-tools.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --maxschedchunk 1 $(TESTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python benchmarks/stages.py

bench-receive: install
	@sh deploy/system-tools.sh
	$(BIN)/python benchmarks/receive.py

# kill -9 under load; KILLS=1000 DAEMON_KILLS=100 is the long run, which goes on where it stopped.
KILLS ?= 50
DAEMON_KILLS ?= 5
bench-faults: install
	$(BIN)/python benchmarks/faults.py --kills $(KILLS) --daemon-kills $(DAEMON_KILLS)

# Half an hour of mixed load: does anything grow?
bench-soak: install
	@sh deploy/system-tools.sh
	$(BIN)/python benchmarks/soak.py

# Last image of an exam to its report at the PACS, beside the models' own time.
bench-latency: install
	$(BIN)/python benchmarks/latency.py

# What a claim and the other questions to the queue cost with 200,000 jobs waiting.
bench-queue: install
	@sh deploy/system-tools.sh
	$(BIN)/python benchmarks/queue_backlog.py

# Readers of the pages beside receiving, half an hour; `.venv/bin/python benchmarks/web.py --quick` is shorter.
bench-web: install
	$(BIN)/python benchmarks/web.py

# Pages and lists with 10⁶ findings, on SQLite and PostgreSQL.
bench-pages: install
	@sh deploy/system-tools.sh
	$(BIN)/python benchmarks/page_data.py

# The tables of docs/conformance.md from the code.
conformance: install
	$(BIN)/python -P -m tools.conformance

# docs/settings.md from the code.
settings: install
	$(BIN)/python -m tools.settings_document

# The dashboard of deploy/grafana from the table of its panels.
dashboard: install
	$(BIN)/python -m tools.dashboard

# docs/commands.md from the code.
commands: install
	$(BIN)/python -m tools.command_document

# The documents as a site in site/; its pages load nothing from another host.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# docs/events.md from the code.
events: install
	$(BIN)/python -m tools.events_document

install: $(STAMP)

# --no-deps: the lock is complete, and ultralytics' wish for the display build of OpenCV stays unmet.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m tools.web_scripts
	touch $(STAMP)

lock:
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra train --extra teaching --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-annotate --no-header --python-version 3.11 --quiet -o requirements.lock
	$(BIN)/python -m tools.install_locks

# A package for Debian and Ubuntu in dist/; installing it takes the steps of deploy/install.sh.
deb: install
	sh deploy/debian/make_package.sh

# dist/sbom.cdx.json: what a host that scores gets (CycloneDX).
sbom: install
	sh deploy/make_sbom.sh

# Whether all that a host gets may be combined with our licence.
licences: install
	$(BIN)/python -m tools.licences

# Known vulnerabilities of what a host gets, from the package index's advisories; docs/advisories.md has what was found.
audit: install
	$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
	  -r deploy/requirements/service.lock -r deploy/requirements/models.lock

# PyTorch without CUDA, for hosts that have no GPU: the same pair of versions, from PyTorch's own index.
lock-cpu:
	$(BIN)/python -m tools.install_locks --cpu-index $(CPU_INDEX)

clean:
	rm -rf $(VENV) demo-out site

# The default bundle, from the data on; each step resumes or is skipped when its result is there.
bundle: install
	sh training/make_bundle.sh
